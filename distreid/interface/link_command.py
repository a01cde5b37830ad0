"""`distreid link RUN`: groups the rows or tracklets of a run into persons."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from distreid.errors import OptionError
from distreid.interface.gallery_commands import say
from distreid.job.options import given_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distreid.data.manifest import Manifest
    from distreid.evaluation.linking import Seen
    from distreid.report.linked_groups import LinkedGroups
    from distreid.store import FeatureStore

METHODS = ("average", "complete", "jaccard")  # as evaluation.linking has them, which imports scipy
FILE = "groups.csv"
EPS = 0.6
RATE = 1e-3
"""Of false matches of pairs; the threshold that `distreid calibrate` found for it is taken."""


def add_link_options(command: argparse.ArgumentParser) -> None:
    """The options of `distreid link`."""
    command.add_argument(
        "run_folder", type=given_path, metavar="RUN", help="--out of an extraction"
    )
    command.add_argument(
        "--method",
        choices=METHODS,
        default="average",
        help="linkage by the mean or the least cosine of two groups, or DBSCAN on the distances of "
        "re-ranking (default: average)",
    )
    command.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="the cosine down to which groups are joined (default: what distreid calibrate found "
        "for one false match in a thousand pairs)",
    )
    command.add_argument(
        "--eps", type=float, metavar="E", help=f"of --method jaccard, its radius (default: {EPS})"
    )
    command.add_argument(
        "--out", type=given_path, metavar="FILE", help=f"the groups as CSV (default: RUN/{FILE})"
    )
    command.add_argument("--json", action="store_true", help="print JSON instead")
    command.add_argument("--html", type=given_path, metavar="FILE", help="write a page of pictures")


def link(parsed: argparse.Namespace) -> None:
    """Runs the command."""
    from distreid.host.atomic_files import publish_text
    from distreid.host.terminal import print_whole
    from distreid.store import FeatureStore
    from distreid.store.run_folder import check_result

    of_the_other = "threshold" if parsed.method == "jaccard" else "eps"
    if getattr(parsed, of_the_other) is not None:
        raise OptionError(f"--{of_the_other}: is not for --method {parsed.method}; leave it out")
    if parsed.threshold is not None and not -1 <= parsed.threshold <= 1:
        raise OptionError(f"--threshold {parsed.threshold}: a cosine from -1 to 1")
    store = FeatureStore.open(parsed.run_folder)
    out = parsed.out or store.run / FILE
    check_result(out, store.run)
    if parsed.html:
        check_result(parsed.html, store.run, out)
    threshold = parsed.threshold
    if threshold is None and parsed.method != "jaccard":
        threshold = _calibrated(store.run)
    linked = _link(store, parsed.method, threshold, EPS if parsed.eps is None else parsed.eps)
    if parsed.json:
        print(linked.to_json())
    else:
        for line in linked.facts():
            say(line)
        if linked.agreement:
            print_whole(linked.table())
    publish_text(out, linked.csv())
    say(f"wrote {out}")
    if parsed.html:
        publish_text(parsed.html, linked.page())
        say(f"wrote {parsed.html}")


def _link(store: FeatureStore, method: str, threshold: float | None, eps: float) -> LinkedGroups:
    import numpy as np

    from distreid.data.manifest import TRACKLET, Status
    from distreid.data.summary import known_persons
    from distreid.data.tracklet_rows import owners
    from distreid.evaluation.cluster_agreement import agreement
    from distreid.evaluation.linking import link as link_features
    from distreid.evaluation.tracklets import pool
    from distreid.report.linked_groups import NO_GROUP, LinkedGroups

    manifest = store.manifest
    rows = np.flatnonzero(store.status == Status.OK)
    by_tracklet = TRACKLET in manifest.extra
    if by_tracklet:
        first, owner = owners(manifest, rows)
        features, _ = pool(store, rows, raw=False)
    else:
        first, owner = np.arange(len(rows)), np.arange(len(rows))
        features = store.features(rows)
    seen = _seen(manifest, rows, first, owner)
    found = link_features(features, seen, method=method, threshold=threshold, eps=eps)
    group = np.full(len(manifest), NO_GROUP, np.int64)
    group[rows] = found[owner]
    persons = manifest.person_id[rows][first]
    known = np.isin(persons, sorted(known_persons(manifest, persons)))
    how = (
        f"DBSCAN on the distances of re-ranking within {eps}"
        if method == "jaccard"
        else f"{method} linkage, cosine from {threshold:.4f}"
    )
    return LinkedGroups(
        store=store,
        group=group,
        units=len(features),
        by_tracklet=by_tracklet,
        how=how,
        agreement=agreement(persons[known], found[known]),
    )


def _seen(
    manifest: Manifest,
    rows: NDArray[np.intp],
    first: NDArray[np.intp],
    owner: NDArray[np.intp],
) -> Seen | None:
    """From the times of the rows, or their frames' numbers; None, which is said, without both."""
    import numpy as np

    from distreid.data.found_boxes import FRAME_COLUMN
    from distreid.data.manifest import TIME
    from distreid.evaluation.linking import Seen

    column = next((name for name in (TIME, FRAME_COLUMN) if name in manifest.extra), None)
    if column is None:
        say(
            "neither times nor frames are known, so two that one camera sees at one time may come "
            "into one group"
        )
        return None
    times = manifest.numbers(column)[rows]
    count = len(first)
    earliest, latest = np.full(count, np.inf), np.full(count, -np.inf)
    np.fmin.at(earliest, owner, times)
    np.fmax.at(latest, owner, times)
    unknown = earliest > latest
    earliest[unknown] = latest[unknown] = np.nan
    return Seen(camera=manifest.camera_id[rows][first], first=earliest, last=latest)


def _calibrated(run: Path) -> float:
    """The threshold that `distreid calibrate` found for `RATE`; said. OptionError without one."""
    from distreid.store.run_folder import CALIBRATION

    file = run / CALIBRATION
    try:
        points = json.loads(file.read_text(encoding="utf-8"))["verification"]
        point = next(each for each in points if each["wished"] == RATE)
        if point["threshold"] is None:
            raise OptionError(
                f"--threshold is missing: {file} has none for one false match in a thousand, as "
                "its pairs are too few; a run with more of them tells it"
            )
        threshold, rate = float(point["threshold"]), float(point["false_rate"])
    except FileNotFoundError:
        raise OptionError(
            "--threshold is missing, the cosine down to which two are one person; a run with "
            f"labels tells it: distreid calibrate {run}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise OptionError(
            f"--threshold is missing, and {file} is damaged; write it anew: distreid calibrate "
            f"{run}"
        ) from error
    say(f"{file}: one person from {threshold:.4f}, with {100 * rate:.2g} % false matches of pairs")
    return threshold

"""Whether an export finds the same persons: it is computed by its own runtime in a new process.

Its features are compared with those of the job, at several batch sizes and with the images in
another order and place; then the neighbours that they give, and the mAP where there are labels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import GALLERY, QUERY
from distreid.errors import StoreError, UserError
from distreid.evaluation.quick_map import quick_map
from distreid.export.probe import Probe
from distreid.inference.drift import LEAST_COSINE

BATCH_SIZES = (1, 2, 7, 8, 16, 32)
IN_ORDER, SHUFFLED = "in order", "in another order"
AT_ONCE = {IN_ORDER: 8, SHUFFLED: 32}
LEAST_MIDDLE_COSINE = 0.9
"""Of a lower precision, the median cosine to the job's features: what is further away is broken,
even where few labels do not show it (the sample's network in int8 has 0.996)."""
LEAST_TO_ITSELF = 0.999
"""Of a lower precision, the least cosine between one image's features in two batches."""
NEIGHBOURS = 10
TIE = 1e-5
"""Two similarities that are closer than this may change places."""
NORM_TOLERANCE = 1e-4
SAME = 0.999999
"""All features of a set are not nearer to each other than this, if they depend on the images."""
TIMEOUT_S = 1800
# As `-m` would, but without the working directory: what lies there is no part of distreid.
RUN_PROBE = (
    "import sys; sys.path = list(filter(None, sys.path)); "
    "from distreid.export.run_probe import run; run()"
)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What the gate found."""

    images: int
    least_cosine: float
    """Over all batches."""
    worst: str
    """The image that has it, and in which batch."""
    middle_cosine: float
    """The median over the real images, in order."""
    other_neighbours: int
    """Images whose first 10 neighbours in the set are others, but for ties."""
    mAP_exact: float | None
    """Of the job's features; None without labels."""
    mAP: float | None
    """Of the export's."""
    max_map_loss: float
    """Points of it that a precision below fp32 may cost."""
    runtime: str
    load_seconds: float
    problem: str | None
    """Why it is refused; None: it holds."""
    batch: tuple[int, ...]
    """The probe's images that were computed together where that, or the least cosine, shows."""
    place: int
    """Of the image in `batch` that shows it best."""

    def to_json(self) -> dict[str, Any]:
        """For distreid.json."""
        found = asdict(self)
        del found["batch"], found["place"]
        return found

    def describe(self) -> list[str]:
        """For people."""
        lines = [
            f"{self.images} images by {self.runtime}, batches of "
            f"{', '.join(map(str, BATCH_SIZES))}: "
            f"least cosine {self.least_cosine:.7f} ({self.worst}), in the middle "
            f"{self.middle_cosine:.7f}",
            f"other first {NEIGHBOURS} neighbours: of {self.other_neighbours} images",
        ]
        if self.mAP is not None and self.mAP_exact is not None:
            lines.append(f"mAP {100 * self.mAP:.2f} %, of the job {100 * self.mAP_exact:.2f} %")
        return lines


def batches(count: int) -> dict[str, list[NDArray[np.intp]]]:
    """Which images are computed together: of every batch size, and all of them in two orders."""
    order = {
        IN_ORDER: np.arange(count),
        SHUFFLED: np.random.default_rng(1).permutation(count),
    }
    found = {
        # The sizes begin at different images, so that an image stands at many places.
        f"in a batch of {size}": [np.arange(place, place + size) % count]
        for place, size in enumerate(BATCH_SIZES)
    }
    for name, rows in order.items():
        found[name] = np.array_split(rows, range(AT_ONCE[name], count, AT_ONCE[name]))
    return found


def try_export(folder: Path, max_map_loss: float) -> Figures:
    """Runs the export in a new process and examines what it gives; UserError if it does not run."""
    probe = Probe.read(folder)
    with tempfile.TemporaryDirectory() as aside:
        output = Path(aside, "found.npz")
        command = [sys.executable, "-c", RUN_PROBE, str(folder), str(output)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        except subprocess.TimeoutExpired as error:
            raise StoreError(f"{folder}: its runtime gave no answer in {TIMEOUT_S} s") from error
        if done.returncode or not output.exists():
            said = next(iter(reversed(done.stderr.strip().splitlines())), "it ended")
            raise StoreError(f"{folder}: {said.removeprefix('distreid: error: ')}")
        with np.load(output, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    about = json.loads(str(found.pop("about")))
    return examine(probe, found, about, max_map_loss)


def examine(
    probe: Probe,
    found: Mapping[str, NDArray[np.float32]],
    about: Mapping[str, Any],
    max_map_loss: float,
) -> Figures:
    """The verdict on the features of each of `batches`, by their names; `about` says the precision,
    the runtime, how long loading took, and the errors of batches that failed, by name."""
    exact_precision = about["precision"] == "fp32"
    least_itself = LEAST_COSINE if exact_precision else LEAST_TO_ITSELF
    problem: str | None = None
    least, worst = 1.0, ""
    batch, place = np.arange(1), 0
    in_order = found.get(IN_ORDER)
    if in_order is not None and in_order.shape != probe.exact.shape:
        in_order = None
    for name, parts in batches(len(probe.images)).items():
        rows = np.concatenate(parts)
        if name in about["errors"]:
            problem = problem or f"{name} it fails: {about['errors'][name]}"
            continue
        features = found[name]
        fault, odd = _unusable(name, features, probe, rows)
        worse = False
        if fault is None:
            cosine = _cosines(features, probe.exact[rows])
            odd = int(cosine.argmin())
            if worse := not cosine[odd] >= least:  # NaN, too
                least, worst = float(cosine[odd]), f"{probe.names[rows[odd]]}, {name}"
            if in_order is not None:
                itself = _cosines(features, in_order[rows])
                if not itself.min() >= least_itself:
                    odd = int(itself.argmin())
                    fault = (
                        f"{name} the feature of {probe.names[rows[odd]]} is another than "
                        f"{IN_ORDER}, cosine {itself[odd]:.7f}: a value that was frozen by tracing"
                    )
        if problem is None and (fault or worse):
            batch, place = _part(parts, odd)
        problem = problem or fault
    other, before, after, middle = 0, None, None, 1.0
    if problem is None and in_order is not None:
        if (
            len(in_order) > 1
            and (in_order @ in_order[0]).min() > SAME > (probe.exact @ probe.exact[0]).min()
        ):
            problem = "every image has the same feature"
        real = probe.real
        middle = float(np.median(_cosines(in_order[real], probe.exact[real])))
        other = other_neighbours(probe.exact[real], in_order[real])
        if probe.with_labels():
            before, after = _map(probe, probe.exact), _map(probe, in_order)
    if problem is None:
        problem = _worse(
            least, middle, worst, other, before, after, max_map_loss, exact=exact_precision
        )
    return Figures(
        images=len(probe.images),
        least_cosine=least,
        worst=worst,
        middle_cosine=middle,
        other_neighbours=other,
        mAP_exact=before,
        mAP=after,
        max_map_loss=max_map_loss,
        runtime=about["runtime"],
        load_seconds=about["load_seconds"],
        problem=problem,
        batch=tuple(batch.tolist()),
        place=place,
    )


def _unusable(
    name: str, features: NDArray[np.float32], probe: Probe, rows: NDArray[np.intp]
) -> tuple[str | None, int]:
    """What is wrong with the features of `rows` whatever they are compared with, and with which."""
    wanted = len(rows), probe.exact.shape[1]
    if features.shape != wanted or features.dtype != np.float32:
        return f"{name} it gives {features.dtype} {features.shape}, not float32 {wanted}", 0
    norm = np.linalg.norm(features, axis=1)
    right = np.abs(norm - 1) <= NORM_TOLERANCE  # NaN is not
    odd = int(right.argmin())
    if not right[odd]:
        image = probe.names[rows[odd]]
        return f"{name} the feature of {image} has norm {norm[odd]:.6g}, not 1", odd
    return None, 0


def _part(parts: list[NDArray[np.intp]], place: int) -> tuple[NDArray[np.intp], int]:
    """Of rows that are computed in parts, the part that holds the one at `place` of all, and its
    place there."""
    for part in parts:
        if place < len(part):
            return part, place
        place -= len(part)
    raise IndexError(place)


def _worse(
    least: float,
    middle: float,
    worst: str,
    other: int,
    before: float | None,
    after: float | None,
    max_map_loss: float,
    *,
    exact: bool,
) -> str | None:
    if exact and not least >= LEAST_COSINE:
        return f"least cosine {least:.7f}, not {LEAST_COSINE}: {worst}"
    if not middle >= LEAST_MIDDLE_COSINE:
        return f"the cosine in the middle is {middle:.7f}, not {LEAST_MIDDLE_COSINE}"
    if exact and other:
        return f"{other} images have other first {NEIGHBOURS} neighbours"
    if before is not None and after is not None and not 100 * (before - after) <= max_map_loss:
        return (
            f"mAP {100 * after:.2f} %, of the job {100 * before:.2f} %: more than --max-map-loss "
            f"{max_map_loss} points less"
        )
    return None


def _cosines(found_ND: NDArray[np.float32], exact_ND: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) of rows of norm 1, divided by what rounding left of their norms."""
    found, exact = found_ND.astype(np.float64), exact_ND.astype(np.float64)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    cosines: NDArray[np.float64] = (found * exact).sum(axis=1) / norms
    return cosines


def other_neighbours(exact_ND: NDArray[np.float32], found_ND: NDArray[np.float32]) -> int:
    """How many images have other first neighbours; those whose exact similarities are closer than
    `TIE` may change places."""
    similarity = exact_ND.astype(np.float64) @ exact_ND.astype(np.float64).T
    ranked = found_ND.astype(np.float64) @ found_ND.astype(np.float64).T
    for each in (similarity, ranked):
        np.fill_diagonal(each, -np.inf)
    first = min(NEIGHBOURS, len(exact_ND) - 1)
    should = -np.sort(-similarity, axis=1)[:, :first]
    order = np.argsort(-ranked, axis=1)[:, :first]
    has = np.take_along_axis(similarity, order, axis=1)
    return int((np.abs(should - has) > TIE).any(axis=1).sum())


def _map(probe: Probe, features: NDArray[np.float32]) -> float | None:
    sides = [probe.side == side for side in (QUERY, GALLERY)]
    try:
        return quick_map(
            [features[side] for side in sides],
            [np.ones(int(side.sum()), np.float32) for side in sides],
            [probe.person_id[side] for side in sides],
            [probe.camera_id[side] for side in sides],
        )
    except UserError:  # no query has a match in another camera
        return None

"""`distreid search …`: queries to a gallery's rows, as text, JSON, CSV or a page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distreid.errors import OptionError
from distreid.host.counts import counted
from distreid.interface.gallery_commands import add_filters, say, seconds
from distreid.job.options import add_options_of_gallery, choices_of, given_name, given_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distreid.interface.loaded_model import Model
    from distreid.interface.opened_gallery import Gallery
    from distreid.models.choices import Choices
    from distreid.search.gallery import Filter

FUSIONS = ("mean", "max", "rank")  # as search.fusion has them, which imports torch


def add_search_options(command: argparse.ArgumentParser) -> None:
    """The options of `distreid search`."""
    command.add_argument(
        "gallery",
        type=given_name,
        metavar="GALLERY|milvus:FILE/NAME|milvus://HOST:PORT/NAME",
        help="a gallery's folder, or a collection of distreid gallery push",
    )
    queries = command.add_mutually_exclusive_group(required=True)
    queries.add_argument(
        "--image", nargs="+", type=given_path, metavar="FILE", help="pictures of persons"
    )
    queries.add_argument("--row", nargs="+", type=int, metavar="R", help="rows of the gallery")
    queries.add_argument(
        "--feature-file", type=given_path, metavar="FILE", help="an .npy of features, one a row"
    )
    command.add_argument(
        "--checkpoint",
        type=given_name,
        metavar="FILE|sample",
        help="what the gallery's features were extracted with; for --image",
    )
    command.add_argument("--model", metavar="NAME", help="of the checkpoint (default: auto)")
    add_options_of_gallery(command)
    command.add_argument("--top", type=int, default=10, metavar="K", help="(default: 10)")
    add_filters(command, "cameras", "persons", "not_persons")
    for flag, what in (("--since", "rows from then on"), ("--until", "rows up to then")):
        said = f"{what}: ISO 8601 (a date alone is its 00:00 UTC), or seconds since 1970"
        command.add_argument(flag, type=seconds, metavar="TIME", help=said)
    command.add_argument(
        "--threshold",
        type=float,
        metavar="T",
        help="below it a query is not in the gallery (default: what distreid calibrate wrote for "
        "one of its runs)",
    )
    command.add_argument(
        "--fuse", choices=FUSIONS, help="one answer for all queries, which show one person"
    )
    command.add_argument(
        "--approximate",
        action="store_true",
        help="by the index of distreid index, whose recall is said (default: the proven answer)",
    )
    command.add_argument(
        "--device",
        default="cpu",
        choices=("cpu", "cuda"),
        help="what multiplies the gallery's codes; the answers are the same (default: cpu)",
    )
    printed = command.add_mutually_exclusive_group()
    printed.add_argument("--json", action="store_true", help="print JSON instead")
    printed.add_argument("--csv", action="store_true", help="print CSV instead")
    command.add_argument("--html", type=given_path, metavar="FILE", help="write a page of pictures")


def search(parsed: argparse.Namespace) -> None:
    """Runs the command."""
    from distreid.host.atomic_files import publish_text
    from distreid.host.terminal import print_whole
    from distreid.interface.opened_gallery import open_gallery
    from distreid.report.search_results import (
        answers_csv,
        answers_json,
        answers_table,
        search_page,
    )
    from distreid.search.generation import FILE
    from distreid.store.run_folder import check_result

    if parsed.threshold is not None and not -1 <= parsed.threshold <= 1:
        raise OptionError(f"--threshold {parsed.threshold}: a cosine from -1 to 1 is wanted")
    for option in ("checkpoint", "model", *choices_of(parsed).given()):
        if getattr(parsed, option) is not None and parsed.image is None:
            flag = option.replace("_", "-")
            raise OptionError(f"--{flag}: of --image, which is not given")
    if parsed.gallery.startswith("milvus:"):
        _search_milvus(parsed)
        return
    if parsed.approximate and parsed.device != "cpu":
        raise OptionError("--device: of the exact search, not of --approximate")
    if parsed.html:
        check_result(parsed.html, Path(parsed.gallery) / FILE, parsed.feature_file)
    with open_gallery(parsed.gallery, device=parsed.device) as gallery:
        features, names, images = _queries(parsed, gallery)
        result = gallery.search(
            features,
            parsed.top,
            cameras=parsed.cameras,
            persons=parsed.persons,
            not_persons=parsed.not_persons,
            since=parsed.since,
            until=parsed.until,
            fuse=parsed.fuse,
            approximate=parsed.approximate,
        )
        for word in result.unmatched:
            say(f"{parsed.gallery}: no row has {word}")
        built = gallery.reader.generation.approximate if parsed.approximate else None
        if built:
            say(
                f"approximate: {built['kind']}, recall@10 {built['recall']:.4f} on rows of the "
                f"gallery, mAP lost {_said(built['map_lost'])}"
            )
        if parsed.fuse:
            names = [f"{parsed.fuse} of {counted(len(names), 'query', 'queries')}"]
            images = images[:1]
        threshold = parsed.threshold if parsed.fuse != "rank" else None
        if parsed.threshold is not None and parsed.fuse == "rank":
            raise OptionError("--threshold: the scores of --fuse rank are no cosines")
        if threshold is None and parsed.fuse != "rank":
            threshold = calibrated_threshold(gallery)
        own = [frozenset([row]) for row in parsed.row or ()]
        own = [frozenset(parsed.row or ())] if parsed.fuse else own
        answers = result.answers(names, images, threshold, own)
        facts = {
            "gallery": str(parsed.gallery),
            "generation": gallery.generation,
            "rows": len(gallery),
            "threshold": threshold,
        } | ({"approximate": built} if built else {})
    if parsed.json:
        print(answers_json(answers, facts))
    elif parsed.csv:
        print(answers_csv(answers), end="")
    else:
        print_whole(answers_table(answers))
    if parsed.html:
        lines = [f"{counted(facts['rows'], 'row')}, generation {facts['generation']}"]
        if threshold is not None:
            lines.append(f"the same person from a score of {threshold:.4f}")
        publish_text(parsed.html, search_page(f"Search of {parsed.gallery}", lines, answers))
        say(f"wrote {parsed.html}")


def _filter(parsed: argparse.Namespace) -> Filter:
    """Which rows may be found."""
    from distreid.search.gallery import Filter

    words = {
        name: None if getattr(parsed, name) is None else tuple(getattr(parsed, name))
        for name in ("cameras", "persons", "not_persons")
    }
    return Filter(**words, since=parsed.since, until=parsed.until)


def _search_milvus(parsed: argparse.Namespace) -> None:
    from distreid.host.terminal import print_whole
    from distreid.report.search_results import (
        Answer,
        FoundRow,
        answers_csv,
        answers_json,
        answers_table,
    )
    from distreid.search.milvus import search_collection, target

    if parsed.feature_file is None:
        raise OptionError("a collection is searched by --feature-file")
    for name in ("fuse", "html", "approximate"):
        if getattr(parsed, name):
            raise OptionError(f"--{name}: of a gallery, not of a collection")
    if parsed.device != "cpu":
        raise OptionError("--device: of a gallery, not of a collection")
    features = _of_file(parsed.feature_file)
    found = search_collection(*target(parsed.gallery), features, parsed.top, _filter(parsed))
    answers = [
        Answer(
            query=f"feature {number}",
            image=None,
            exact=False,
            threshold=parsed.threshold,
            found=[FoundRow(**hit, image=Path()) for hit in hits],
        )
        for number, hits in enumerate(found)
    ]
    if parsed.json:
        print(answers_json(answers, {"collection": parsed.gallery}))
    elif parsed.csv:
        print(answers_csv(answers), end="")
    else:
        print_whole(answers_table(answers))


def _said(lost: float | None) -> str:
    return "not known" if lost is None else f"{100 * lost:.2f} %"


def _queries(
    parsed: argparse.Namespace, gallery: Gallery
) -> tuple[NDArray[np.float32], list[str], list[Path | None]]:
    """Features (Q, D), and the names and images of the queries."""
    if parsed.row is not None:
        found = [gallery.reader.find(row) for row in parsed.row]
        before = [sum(run.segment.count for run in gallery.reader.runs[:n]) for n, _ in found]
        images: list[Path | None] = [
            gallery.reader.file(first + place)
            for first, (_, place) in zip(before, found, strict=True)
        ]
        return gallery.features(parsed.row), [f"row {row}" for row in parsed.row], images
    if parsed.image is not None:
        features = _of_images(parsed, gallery)
        return features, [str(file) for file in parsed.image], list(parsed.image)
    from distreid.search.gallery import checked_queries

    features = _of_file(parsed.feature_file)
    try:
        checked_queries(features, gallery.dim)
    except OptionError as error:
        raise OptionError(f"--feature-file {parsed.feature_file}: {error}") from error
    return features, [f"feature {i}" for i in range(len(features))], [None] * len(features)


def _of_images(parsed: argparse.Namespace, gallery: Gallery) -> NDArray[np.float32]:
    if parsed.checkpoint is None and "imported" not in gallery.reader.generation.space:
        raise OptionError("--image: give the --checkpoint that the gallery was extracted with")
    model = model_of_gallery(
        gallery,
        parsed.checkpoint or "",
        parsed.model or "auto",
        choices_of(parsed),
        said="--image",
        instead="give theirs by --feature-file",
    )
    return model.features(list(parsed.image))


def model_of_gallery(
    gallery: Gallery, checkpoint: str, name: str, choices: Choices, *, said: str, instead: str
) -> Model:
    """The checkpoint's model as the gallery was extracted with it, with what the user says of the
    network; OptionError, which begins with what was `said`, if its features are of another space,
    or were made elsewhere: what to do `instead`."""
    from distreid.interface.loaded_model import load_model
    from distreid.store.identity import feature_space
    from distreid.store.plan import differences

    space = gallery.reader.generation.space
    if "imported" in space:
        raise OptionError(f"{said}: the gallery's features were made elsewhere; {instead}")
    views, preprocess = space["augmentation"], space["preprocess"]
    model = load_model(
        checkpoint,
        model=name,
        input_size=(preprocess["height"], preprocess["width"]),
        flip=views["flip"],
        scales=views["scales"],
        scale_mode=views["scale_mode"],
        camera_embedding=space["model"].get("camera_embedding", "auto"),
        **choices.given(),
    )
    # As JSON has it, where a tuple is a list.
    ours = json.loads(json.dumps(feature_space(model.identity)))
    if differing := differences(space, ours, words="the gallery has {ours}, the image {theirs}"):
        raise OptionError(
            f"{said}: another feature space ({'; '.join(differing)}); give the options of the "
            "gallery's distreid extract"
        )
    if model.wants_cameras:
        raise OptionError(
            f"{said}: {model.architecture} has an embedding of each camera, which an image alone "
            f"does not tell; {instead}, or extract the gallery with --camera-embedding mean or none"
        )
    return model


def _of_file(file: Path) -> NDArray[Any]:
    import numpy as np

    try:
        features: NDArray[Any] = np.load(file, allow_pickle=False)
    except OSError as error:
        raise OptionError(f"--feature-file {file}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise OptionError(f"--feature-file {file}: no .npy; numpy.save writes one") from error
    if not isinstance(features, np.ndarray) or not features.size:
        raise OptionError(f"--feature-file {file}: an .npy is wanted, with a feature in each row")
    return features[None] if features.ndim == 1 else features


def calibrated_threshold(gallery: Gallery, say: Callable[[str], None] = say) -> float | None:
    """The strictest threshold for 'not in the gallery' that `distreid calibrate` found for one of
    the runs; said, and which file of a run is damaged."""
    from distreid.store.run_folder import CALIBRATION

    found: list[tuple[float, float, Path]] = []
    for run in gallery.reader.runs:
        file = run.run / CALIBRATION
        try:
            points = json.loads(file.read_text(encoding="utf-8"))["identification"]
            known = [point for point in points if point["threshold"] is not None]
            if known:
                best = min(known, key=lambda point: float(point["false_rate"]))
                found.append((float(best["threshold"]), float(best["false_rate"]), file))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError):
            say(f"{file}: damaged, and passed over; write it anew: distreid calibrate {run.run}")
    if not found:
        return None
    threshold, false_rate, file = max(found)
    say(f"{file}: in the gallery from {threshold:.4f}, with {100 * false_rate:.2g} % false alarms")
    return threshold

"""What a notebook shows of a store, of a model and of scores: pieces of HTML."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from distreid.data.manifest import CAMERA_NAME, PERSON_NAME, Status
from distreid.data.summary import describe
from distreid.errors import ImageError
from distreid.evaluation.evaluate import Evaluation
from distreid.images.preprocess import pixels_of
from distreid.report.html import Picture, Table, render
from distreid.report.page import by_dotted_names
from distreid.report.scores import count_lines, score_rows
from distreid.store import FeatureStore

FIRST_ROWS = 5
STRIP = 12  # images
PHOTO = (64, 128)  # pixels of one, at double density


def store_html(store: FeatureStore) -> str:
    """Counts, the identity, the first rows, and a strip of images, evenly spaced."""
    manifest = store.manifest
    persons, cameras = manifest.names(PERSON_NAME), manifest.names(CAMERA_NAME)
    rows = [
        [
            str(row),
            manifest.path[row].decode("utf-8", "backslashreplace"),
            persons.get(int(manifest.person_id[row]), str(manifest.person_id[row])),
            cameras.get(int(manifest.camera_id[row]), str(manifest.camera_id[row])),
            manifest.split[row].decode("utf-8", "backslashreplace"),
        ]
        for row in range(min(FIRST_ROWS, len(manifest)))
    ]
    header = ["row", "path", "person", "camera", "split"]
    return render(
        "notebook.html",
        heading=f"{store.run}: {len(manifest):,} rows × {store.plan.dim:,}, {store.plan.dtype}",
        lines=describe(manifest),
        tables=[Table(title="The first rows", header=header, rows=rows)],
        pictures=[Picture(caption="images of the store, evenly spaced", png=_strip(store))],
        details={"identity": by_dotted_names(store.plan.identity)},
    )


def facts_html(heading: str, facts: Sequence[tuple[str, str]]) -> str:
    """A heading, and pairs of a name and a value."""
    table = Table(title=heading, header=["", ""], rows=[list(fact) for fact in facts])
    return render(
        "notebook.html", heading=heading, lines=[], tables=[table], pictures=[], details={}
    )


def scores_html(evaluation: Evaluation) -> str:
    """The command's table, a column for each protocol, with its counts."""
    names = [scores.name for scores in evaluation.scores]
    table = Table(title="Scores by protocol", header=["", *names], rows=score_rows(evaluation))
    return render(
        "notebook.html",
        heading="Scores",
        lines=[*evaluation.diagnosis, *count_lines(evaluation)],
        tables=[table],
        pictures=[],
        details={},
    )


def _strip(store: FeatureStore) -> bytes:
    """A PNG of some images side by side; one that cannot be read any more is a grey box."""
    readable = np.flatnonzero(store.status == Status.OK)
    chosen = readable[np.linspace(0, len(readable) - 1, min(STRIP, len(readable))).astype(int)]
    strip = Image.new("RGB", (max(1, len(chosen)) * PHOTO[0], PHOTO[1]), "#e4e4e4")
    for place, row in enumerate(chosen):
        try:
            image = Image.fromarray(pixels_of(store.manifest.file(int(row))))
        except (ImageError, OSError):
            continue
        strip.paste(ImageOps.pad(image, PHOTO, color="#f4f4f4"), (place * PHOTO[0], 0))
    stream = io.BytesIO()
    strip.save(stream, "PNG")
    return stream.getvalue()

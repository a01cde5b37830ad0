"""Person search: a query is sought among detections in whole frames.

The rows of a manifest are boxes of frames. Those of the gallery with a score are detections, those
without one are the true boxes; where no row has a score, the true boxes are the detections too.

The rule is that of the projects that report on CUHK-SYSU and PRW. Detections with a score below 0.5
are not used. All detections in a query's frames are ranked by cosine. In a frame that shows the
query's person the first of them, in this order, whose overlap with the true box is at least
min(0.5, wh / ((w + 10)(h + 10))) is right; all others are wrong, also later ones on the same
person. AP is the sum of the precisions at the right ones, divided by the number of frames that show
the person: those without a right detection count as 0. All queries count.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distreid.data.frame_boxes import SCORE
from distreid.data.gallery_frames import gallery_frames
from distreid.data.locators import frame_of
from distreid.data.manifest import GALLERY, NO_CAMERA, QUERY, Manifest, Status
from distreid.errors import DataError, OptionError
from distreid.evaluation.conditions import need_column
from distreid.evaluation.metrics import QueryScores, score_ranks
from distreid.evaluation.protocols.rule import Benchmark
from distreid.host.counts import counted
from distreid.nearest.neighbours import Progress, no_progress
from distreid.store import FeatureStore

LEAST_SCORE = 0.5
OVERLAP, SLACK = 0.5, 10  # of a right detection; pixels that small boxes may be off by
ALL = "all"  # of `Benchmark.frames`
SAME_CAMERA = "same camera"
AT_ONCE = 256  # queries


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What Q queries found."""

    scores: QueryScores
    """Matches are the frames in which the person was found; a query of which a frame was missed has
    INP 0."""
    person_id: NDArray[np.int64]
    rows: NDArray[np.intp]
    """(Q,) the queries' manifest rows."""
    counts: dict[str, int]
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class Question:
    """Who asks, and what each searches, of a store."""

    store: FeatureStore
    benchmark: Benchmark
    gallery: Gallery
    queries: NDArray[np.intp]
    """(Q,) manifest rows."""
    in_gallery: NDArray[np.bool_]
    """(N,) the gallery's rows, readable or not."""
    shown: NDArray[np.bool_]
    """(F,) the frames that they lie in."""
    frame_names: dict[bytes, int]
    """By their names without folders, where there is a list of frames."""
    listed: dict[int, list[bytes]] | None
    """Of a person, the names of the frames that are searched; None: all."""
    camera_F: NDArray[np.int64]
    notes: list[str]

    def wanted(self, row: int) -> NDArray[np.bool_]:
        """(F,) the frames that a query's row searches. DataError if its list is not there."""
        wanted_F: NDArray[np.bool_] = self.shown.copy()
        if self.listed is not None:
            person = int(self.gallery.person_N[row])
            if person not in self.listed:
                raise DataError(f"{self.benchmark.frames}: no frames for the query of {person}")
            names = self.frame_names
            here = [names[name] for name in self.listed[person] if name in names]
            wanted_F[:] = False
            wanted_F[here] = self.shown[here]
        wanted_F[self.gallery.frame_N[row]] = False
        camera = int(self.store.manifest.camera_id[row])
        if SAME_CAMERA in self.benchmark.leaves_out and camera != NO_CAMERA:
            wanted_F[self.camera_F == camera] = False
        return wanted_F


def search_frames(
    store: FeatureStore, benchmark: Benchmark, progress: Progress = no_progress
) -> Searched:
    """Ranks every query's detections. DataError if the boxes, the list of frames, queries or
    detections are not there; OptionError for what person search has not."""
    asked = question(store, benchmark)
    gallery, queries, manifest = asked.gallery, asked.queries, store.manifest
    features_D = store.features(gallery.detections)
    found, missed = [], np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), AT_ONCE):
        block = queries[start : start + AT_ONCE]
        similarity_BD = store.features(block) @ features_D.T
        for place, row in enumerate(block.tolist()):
            person = int(manifest.person_id[row])
            ranks, frames_shown = gallery.ranks(similarity_BD[place], person, asked.wanted(row))
            found.append(ranks)
            missed[start + place] = frames_shown - len(ranks)
        progress("ranking", min(start + AT_ONCE, len(queries)), len(queries))
    scores = score_ranks(found)
    recall_Q = scores.matches / np.maximum(scores.matches + missed, 1)
    readable = store.status == Status.OK
    return Searched(
        scores=replace(
            scores,
            ap=scores.ap * recall_Q,
            ap_trapezoid=scores.ap_trapezoid * recall_Q,
            inp=np.where(missed > 0, 0.0, scores.inp),
        ),
        person_id=manifest.person_id[queries],
        rows=queries,
        counts={
            "queries": len(queries),
            "valid_queries": int((scores.matches > 0).sum()),
            "queries_without_match": int((scores.matches == 0).sum()),
            "gallery": len(gallery.detections),
            "junk": 0,
            "distractors": 0,
            "bad_queries": int((~readable[manifest.rows(QUERY)]).sum()),
            "bad_gallery": int((asked.in_gallery & ~readable).sum()),
            "unlabelled_queries": 0,
        },
        notes=asked.notes,
    )


def question(store: FeatureStore, benchmark: Benchmark) -> Question:
    """What `search_frames` ranks, and raises."""
    manifest = store.manifest
    if {*benchmark.leaves_out} - {SAME_CAMERA}:
        raise OptionError(f"{benchmark.name}: person search leaves out '{SAME_CAMERA}' alone")
    box_N = _boxes(manifest, benchmark.name)
    frames, frame_N = np.unique(
        [frame_of(path) for path in manifest.path.tolist()], return_inverse=True
    )
    readable = store.status == Status.OK
    score_N, has_score = _scores(manifest)
    in_gallery = np.zeros(len(manifest), np.bool_)
    in_gallery[manifest.rows(GALLERY)] = True
    notes = []
    truth = in_gallery & ~has_score
    if has_score.any():
        detected = in_gallery & has_score & readable & (score_N >= LEAST_SCORE)
    else:
        detected = truth & readable
        notes.append("no row has a score: the true boxes are taken for detections")
    queries = manifest.rows(QUERY)
    queries = queries[readable[queries] & (manifest.person_id[queries] >= 0)]
    for what, found in (("query", queries), ("detection", np.flatnonzero(detected))):
        if not len(found):
            raise DataError(f"{store.run}: {benchmark.name}: no {what} that could be read")
    if not truth.any():
        raise DataError(
            f"{store.run}: {benchmark.name}: no true boxes, which are gallery rows without a score"
        )
    shown = np.zeros(len(frames), np.bool_)
    shown[frame_N[in_gallery]] = True
    if SAME_CAMERA in benchmark.leaves_out:
        need_column(manifest, "camera", benchmark.name)
    camera_F = np.full(len(frames), NO_CAMERA, np.int64)
    np.maximum.at(camera_F, frame_N, manifest.camera_id)  # unknown is less than any
    listed, frame_names = None, {}
    if benchmark.frames != ALL:
        listed = gallery_frames(manifest.root, benchmark.frames)
        frame_names = _by_name(manifest, frames.tolist())
        wanted = {name for each in listed.values() for name in each}
        if absent := sorted(wanted - frame_names.keys()):
            notes.append(
                f"{benchmark.frames}: {counted(len(absent), 'listed frame')} without a box in the "
                f"data, such as {os.fsdecode(absent[0])}"
            )
    return Question(
        store=store,
        benchmark=benchmark,
        gallery=Gallery(
            frames=len(frames),
            detections=np.flatnonzero(detected),
            truth=np.flatnonzero(truth & (manifest.person_id >= 0)),
            frame_N=frame_N.astype(np.intp),
            box_N=box_N,
            person_N=manifest.person_id,
        ),
        queries=queries,
        in_gallery=in_gallery,
        shown=shown,
        frame_names=frame_names,
        listed=listed,
        camera_F=camera_F,
        notes=notes,
    )


@dataclass(kw_only=True)
class Gallery:
    """Detections and true boxes, as rows of a manifest of N rows in F frames."""

    frames: int
    detections: NDArray[np.intp]
    """(D,) ascending."""
    truth: NDArray[np.intp]
    """(T,) of known persons."""
    frame_N: NDArray[np.intp]
    box_N: NDArray[np.float64]
    """(N, 4) corners."""
    person_N: NDArray[np.int64]

    def __post_init__(self) -> None:
        frame_D = self.frame_N[self.detections]
        self.frame_D = frame_D
        self.of_person: dict[int, list[int]] = {}
        for row in self.truth.tolist():
            self.of_person.setdefault(int(self.person_N[row]), []).append(row)
        order = np.argsort(frame_D, kind="stable")
        limits = np.searchsorted(frame_D[order], np.arange(self.frames + 1))
        self.in_frame = [order[a:b] for a, b in itertools.pairwise(limits.tolist())]

    def ranks(
        self, similarity_D: NDArray[np.float32], person: int, wanted_F: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], int]:
        """The ranks of the right detections, ascending, from 1, among those in the wanted frames;
        and how many of these frames show the person."""
        right, shown = self.right_ones(similarity_D, person, wanted_F)
        ranked = similarity_D[wanted_F[self.frame_D]]
        places = np.flatnonzero(wanted_F[self.frame_D])
        found = []
        for detection in right:
            own = similarity_D[detection]
            tied = int((ranked[places < detection] == own).sum())
            found.append(1 + int((ranked > own).sum()) + tied)
        return np.sort(np.array(found, np.int64)), shown

    def right_ones(
        self, similarity_D: NDArray[np.float32], person: int, wanted_F: NDArray[np.bool_]
    ) -> tuple[list[int], int]:
        """The right detections, as places in `detections`; and how many of the wanted frames show
        the person."""
        right: list[int] = []
        shown: set[int] = set()
        for row in self.of_person.get(person, ()):
            frame = int(self.frame_N[row])
            if not wanted_F[frame] or frame in shown:
                continue
            shown.add(frame)
            inside = self.in_frame[frame]
            inside = inside[np.argsort(-similarity_D[inside], kind="stable")]
            enough = overlap(self.box_N[self.detections[inside]], self.box_N[row])
            fitting = np.flatnonzero(enough >= least_overlap(self.box_N[row]))
            if len(fitting):
                right.append(int(inside[fitting[0]]))
        return right, len(shown)


def _by_name(manifest: Manifest, frames: list[bytes]) -> dict[bytes, int]:
    """Frames by their names without folders, as lists name them; DataError for one name of two."""
    found: dict[bytes, int] = {}
    for place, frame in enumerate(frames):
        name = os.path.basename(bytes(frame))
        if found.setdefault(name, place) != place:
            raise DataError(
                f"{manifest.place}: {os.fsdecode(frames[found[name]])} and {os.fsdecode(frame)} "
                "have one name, by which a list of frames cannot tell them apart; rename one"
            )
    return found


def overlap(boxes_B: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B,) intersection over union of boxes (B, 4) with one, by their corners."""
    first, last = np.maximum(boxes_B[:, :2], box[:2]), np.minimum(boxes_B[:, 2:], box[2:])
    common = np.prod(np.maximum(last - first, 0), axis=1)
    areas = np.prod(boxes_B[:, 2:] - boxes_B[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    found: NDArray[np.float64] = common / np.maximum(areas - common, np.finfo(np.float64).tiny)
    return found


def least_overlap(box: NDArray[np.float64]) -> float:
    """That of a right detection: less for small boxes."""
    width, height = (box[2:] - box[:2]).tolist()
    return float(min(OVERLAP, width * height / ((width + SLACK) * (height + SLACK))))


def _boxes(manifest: Manifest, who: str) -> NDArray[np.float64]:
    """(N, 4) the corners as they were written."""
    texts = manifest.extra.get("box")
    if texts is None:
        raise DataError(
            f"{manifest.place}: {who} needs a column box, x1,y1,x2,y2, which --boxes makes"
        )
    try:
        boxes = np.array([[float(v) for v in text.split(b",")] for text in texts.tolist()])
        if boxes.shape != (len(manifest), 4) or not np.isfinite(boxes).all():
            raise ValueError
    except ValueError:
        raise DataError(
            f"{manifest.place}: column box: x1,y1,x2,y2 is wanted in every row"
        ) from None
    return boxes


def _scores(manifest: Manifest) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(N,) the detections' scores, and which rows have one."""
    values = manifest.numbers(SCORE)
    return np.nan_to_num(values, nan=0.0), ~np.isnan(values)

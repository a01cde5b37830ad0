"""Approximate search, asked for by name: an index of faiss whose recall was measured here.

The index has the rows that could be found when it was built. Rows that were hidden since are left
out of every answer, rows that were added since are searched exactly beside it.

What its recall was measured on is a search of all its rows. Where a filter leaves a share of them,
the effort is raised by that share; where it leaves few, or the index finds fewer for a query than
there are, the answer is the exact one.

A row's own neighbours stand for answers: of some rows of the gallery the first ten others are known
exactly, and the parameters of the search are raised until the share of them that the index finds
reaches what was asked for.
"""

from __future__ import annotations

import functools
import importlib
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distreid.errors import OptionError, StoreError
from distreid.nearest.exact_search import Part, best_among, search
from distreid.search.changes import Manner, changing
from distreid.search.gallery import Filter, Gallery, Hits, checked_queries, checked_top
from distreid.search.generation import publish_generation
from distreid.search.kept_columns import read_array, read_checksums, read_facts, write_arrays

KINDS = ("hnsw", "ivfpq")
LEAST_ROWS_OF_CODES = 2**4
"""As many as a code of four bits has values, each of which is learned from a row."""
EXTRA = "pip install 'distreid[search]'"
TOP = 10  # recall is of the first ten
DEPTH = 50  # of the rankings whose mAP is compared
ASKED_ROWS = 200
ADDED_AT_ONCE = 65_536
TRAINED_ROWS = 100_000  # at least
TRAINED_FOR_EACH_LIST = 40  # of them: with fewer than 39, faiss warns that they are too few
# Candidates of product quantisation for each row wanted, scored from the store: at first, at most.
RESCORED, LARGEST_RESCORED = 20, 1280
HNSW_LINKS, HNSW_CONSTRUCTION = 32, 100
LEAST_HNSW_EFFORT, LARGEST_EFFORT = 16, 4096
FILTERS_KEPT = 8  # of a generation
FEW_ALLOWED = 20_000  # rows that a filter leaves: these are simply searched exactly


@dataclass(frozen=True, kw_only=True)
class Built:
    """An index and what was measured of it; JSON values."""

    kind: str
    rows: int
    effort: int
    """faiss' efSearch of hnsw, nprobe of ivfpq."""
    rescored: int
    """Candidates for each row wanted that are scored from the store; 1: hnsw's are scored."""
    recall: float
    """The share of the first ten exact answers that it finds."""
    map_lost: float | None
    """How much smaller the mean average precision of its first 50 is; None without labels."""
    seconds: float
    bytes: int


def build(gallery: Path, kind: str, recall: float, how: Manner) -> Built:
    """Builds an index and makes it the gallery's; UserError if no effort reaches the recall."""
    if kind not in KINDS:
        raise OptionError(f"--kind {kind}: choose one of {', '.join(KINDS)}")
    if not 0 < recall <= 1:
        raise OptionError(f"--recall {recall}: a share such as 0.99 is wanted")
    faiss = _faiss()
    with changing(gallery, how) as current:
        opened = Gallery(gallery)
        try:
            if not opened.count:
                raise OptionError(f"{gallery}: no row can be found, so there is nothing to index")
            if kind == "ivfpq" and opened.count < LEAST_ROWS_OF_CODES:
                raise OptionError(
                    f"--kind ivfpq: learns from {LEAST_ROWS_OF_CODES} rows at least, and "
                    f"{gallery} has {opened.count}; take hnsw, or none: so few are found at once"
                )
            started = time.perf_counter()
            index = _made(faiss, opened, kind)
            for piece in _pieces(opened.parts()):
                index.add(piece)
            seconds = time.perf_counter() - started
            ids = np.concatenate([part.ids[part.places] for part in opened.parts()])
            least = (1, RESCORED) if kind == "ivfpq" else (LEAST_HNSW_EFFORT, 1)
            tuned, reached, lost = _tuned(opened, Reader(index, kind, ids, *least), recall)
        finally:
            opened.close()
        after = current.following()
        folder = f"index/approximate-{after.generation:08d}"
        serialised = faiss.serialize_index(index)
        built = Built(
            kind=kind,
            rows=len(ids),
            effort=tuned.effort,
            rescored=tuned.rescored,
            recall=reached,
            map_lost=lost,
            seconds=round(seconds, 3),
            bytes=int(serialised.nbytes),
        )
        write_arrays(gallery / folder, {"index": serialised, "row": ids}, vars(built))
        publish_generation(gallery, replace(after, approximate={"folder": folder} | vars(built)))
    return built


@dataclass(frozen=True)
class Reader:
    """An index with the ids of its rows."""

    index: Any
    kind: str
    ids: NDArray[np.int64]
    effort: int
    rescored: int
    """As in `Built`."""

    def answer(
        self,
        queries: NDArray[np.float32],
        top: int,
        allowed: NDArray[np.uint8] | None = None,
        share: float = 1.0,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(Q, top) scores and places among the index's rows, −1 where it found no more; `allowed`
        has a bit for each row, set for this `share` of them."""
        faiss = _faiss()
        how: dict[str, Any] = {}
        if allowed is not None:
            how["sel"] = faiss.IDSelectorBitmap(allowed)  # looked at without a copy
        # Of what it looks at, only a share may be found.
        effort = round(min(self.effort / share, max(self.effort, LARGEST_EFFORT)))
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(effort, top), **how)
        else:
            parameters = faiss.SearchParametersIVF(nprobe=effort, **how)
        wanted = min(top, len(self.ids))
        scores, places = self.index.search(queries, wanted, params=parameters)
        return scores, places


def read_faiss_index(folder: Path) -> Reader:
    """An index in its folder, kept for the next search."""
    return _read_once(folder.resolve(), read_checksums(folder))


@functools.lru_cache(maxsize=2)
def _read_once(folder: Path, _checksums: str) -> Reader:
    """The checksums say whether it still is the index that lay there."""
    facts = read_facts(folder)
    index = _faiss().deserialize_index(np.array(read_array(folder, "index")))
    rescored = facts.get("rescored", RESCORED if facts["kind"] == "ivfpq" else 1)
    ids = np.array(read_array(folder, "row"))
    return Reader(index, facts["kind"], ids, facts["effort"], rescored)


class _Prepared:
    """What searches of one generation by one index have in common."""

    def __init__(self, gallery: Gallery, ids: NDArray[np.int64]) -> None:
        self.ids = ids
        self.place_of = gallery.place_of(ids)
        """(rows of the index,) their places in the gallery."""
        self.last = int(ids.max())
        """Rows that came later have higher ids."""
        self._allowed: dict[Filter | None, NDArray[np.uint8] | None] = {}

    def allowed(self, gallery: Gallery, which: Filter | None) -> NDArray[np.uint8] | None:
        """A bit for each row of the index that may be found; None: all may."""
        which = None if which is None or which.is_open else which
        if which is None and not len(gallery.hidden):
            return None
        if which not in self._allowed:
            parts = gallery.parts(which)
            may = np.zeros(sum(len(part.ids) for part in parts), bool)
            may[np.concatenate([base + part.places for part, base in gallery.based(parts)])] = True
            bits = (
                None
                if may[self.place_of].all()
                else np.packbits(may[self.place_of], bitorder="little")
            )
            while len(self._allowed) >= FILTERS_KEPT:
                self._allowed.pop(next(iter(self._allowed)), None)
            self._allowed[which] = bits
            return bits
        return self._allowed[which]


_prepared: weakref.WeakKeyDictionary[Gallery, _Prepared] = weakref.WeakKeyDictionary()


def _prepare(gallery: Gallery, ids: NDArray[np.int64]) -> _Prepared:
    known = _prepared.get(gallery)
    if known is None or known.ids is not ids:
        known = _prepared[gallery] = _Prepared(gallery, ids)
    return known


def search_approximately(
    gallery: Gallery, features: ArrayLike, top: int = 10, which: Filter | None = None
) -> Hits:
    """As `Gallery.search`, by the gallery's index; StoreError if it has none. Answers that are
    exact, since a filter leaves few rows or the index found too few, say so."""
    known = gallery.generation.approximate
    if known is None:
        raise StoreError(
            f"{gallery.folder}: no approximate index; build one by distreid index {gallery.folder}"
        )
    queries, top = checked_queries(features, gallery.dim), checked_top(top)
    parts = gallery.parts(which)
    is_filtered = which is not None and not which.is_open
    if is_filtered and sum(map(len, parts)) <= FEW_ALLOWED:
        return gallery.search(features, top, which)
    gallery.check()
    reader = read_faiss_index(gallery.folder / known["folder"])
    hits = _answered(gallery, reader, queries, top, which)
    short = np.flatnonzero((hits.place < 0).any(axis=1))
    if len(short):
        found = search(parts, queries[short], top, gallery.device)
        hits.rows[short], hits.scores[short], hits.place[short] = (
            found.ids,
            found.scores,
            found.place,
        )
        hits.exact[short], hits.scored[short] = True, hits.scored[short] + found.scored
    gallery.check()
    return hits


def _answered(
    gallery: Gallery,
    reader: Reader,
    queries: NDArray[np.float64],
    top: int,
    which: Filter | None,
) -> Hits:
    """By the index and the rows beside it; −1 is the place where it found no more."""
    parts, prepared = gallery.parts(which), _prepare(gallery, reader.ids)
    place_of, allowed = prepared.place_of, prepared.allowed(gallery, which)
    later = [_later(part, prepared.last) for part in parts]
    covered = sum(len(part) - len(new) for part, new in zip(parts, later, strict=True))
    share = covered / len(reader.ids)
    scores, found = reader.answer(
        queries.astype(np.float32), top * reader.rescored, allowed, max(share, 1 / len(reader.ids))
    )
    scores = np.where(found >= 0, scores, -np.inf).astype(np.float32)
    place = np.where(found >= 0, place_of[found], -1)
    ids = np.where(found >= 0, reader.ids[found], np.iinfo(np.int64).max)
    if reader.kind == "ivfpq":
        best = best_among(parts, queries, place, top)
        scores, ids, place = best.scores, best.ids, best.place
    for part, base in gallery.based(later):
        if not len(part):
            continue
        more = search([part], queries, top)
        scores = np.concatenate([scores, more.scores], axis=1)
        ids = np.concatenate([ids, more.ids], axis=1)
        place = np.concatenate([place, more.place + base], axis=1)
    order = np.lexsort((ids, -scores), axis=1)[:, : min(top, sum(map(len, parts)))]
    return Hits(
        rows=np.take_along_axis(ids, order, 1),
        scores=np.take_along_axis(scores, order, 1),
        exact=np.zeros(len(queries), bool),
        place=np.take_along_axis(place, order, 1),
        scored=np.full(len(queries), found.shape[1]),
    )


def _later(part: Part, last: int) -> Part:
    """The rows of a part with ids above this one."""
    first = int(np.searchsorted(part.ids, last, "right"))
    if first == 0:
        return part
    return replace(part, live=part.places[np.searchsorted(part.places, first) :])


def _made(faiss: Any, opened: Gallery, kind: str) -> Any:
    dim, count = opened.dim, opened.count
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_CONSTRUCTION
        return index
    lists = max(1, min(round(4 * count**0.5), count // 40))
    parts = next(size for size in range(max(1, dim // 8), 0, -1) if dim % size == 0)
    bits = 8 if count >= 256 * 40 else 4
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFPQ(quantizer, dim, lists, parts, bits, faiss.METRIC_INNER_PRODUCT)
    # Of few rows too, without a warning: what the index is worth is measured.
    index.pq.cp.min_points_per_centroid = 1
    step = max(1, count // max(TRAINED_ROWS, TRAINED_FOR_EACH_LIST * lists))
    index.train(np.concatenate([piece[::step] for piece in _pieces(opened.parts())]))
    return index


def _pieces(parts: list[Part]) -> Iterator[NDArray[np.float32]]:
    """The rows that can be found, in pieces that fit in the memory."""
    for part in parts:
        for first in range(0, len(part), ADDED_AT_ONCE):
            yield part.rows.take(part.places[first : first + ADDED_AT_ONCE])


def _tuned(opened: Gallery, reader: Reader, recall: float) -> tuple[Reader, float, float | None]:
    """The index with the least effort whose measured recall is enough; with it and the mAP lost.

    The effort is doubled; where that brings less than a tenth of what is missing, so are the
    candidates that are scored, where the kind has them."""
    step = -(-opened.count // ASKED_ROWS)
    asked = reader.ids[::step]
    queries = checked_queries(opened.features(asked.tolist()), opened.dim)
    depth = min(DEPTH + 1, opened.count)
    exact = opened.search(queries, depth)
    before = best = 0.0
    while True:
        # As deep as it is of, since a search for more rows finds more of the first ten.
        found = _answered(opened, reader, queries, min(TOP + 1, depth), None)
        reached = _recall(asked, exact.rows, found.rows)
        if reached >= recall:
            found = _answered(opened, reader, queries, depth, None)
            return reader, reached, _map_lost(opened, asked, exact, found)
        best = max(best, reached)
        is_slow = reached - before < (recall - before) / 10
        may_score_more = reader.kind == "ivfpq" and reader.rescored < LARGEST_RESCORED
        if may_score_more and (is_slow or reader.effort >= LARGEST_EFFORT):
            reader = replace(reader, rescored=2 * reader.rescored)
        elif reader.effort < LARGEST_EFFORT:
            reader = replace(reader, effort=2 * reader.effort)
        else:
            break
        before = reached
    raise OptionError(
        f"--recall {recall}: {reader.kind} reaches {best:.4f} at most here; ask for less, or "
        f"take another of {', '.join(KINDS)}"
    )


def _recall(asked: NDArray[np.int64], exact: NDArray[np.int64], found: NDArray[np.int64]) -> float:
    """Of each row's first ten others, the share that is among the first ten others found."""
    shares = []
    for row, truth, answer in zip(asked, exact, found, strict=True):
        wanted = truth[truth != row][:TOP]
        got = answer[answer != row][:TOP]
        shares.append(np.isin(wanted, got).mean() if len(wanted) else 1.0)
    return float(np.mean(shares))


def _map_lost(opened: Gallery, asked: NDArray[np.int64], exact: Hits, found: Hits) -> float | None:
    """How much smaller the mean average precision is over the matches among the exact answers;
    None where there is none."""
    own = opened.column("person_id", opened.place_of(asked))
    sums = []
    for hits in (exact, found):
        persons = opened.column("person_id", hits.place)
        for row, person, rows, ranked in zip(asked, own, hits.rows, persons, strict=True):
            match = ((ranked == person) & (person > 0))[rows != row]
            precision = np.cumsum(match) / np.arange(1, len(match) + 1)
            sums.append((precision[match].sum(), match.sum()))
    before, after = np.array(sums).reshape(2, len(asked), 2)
    counted = before[:, 1] > 0
    if not counted.any():
        return None
    lost = (before[counted, 0] - after[counted, 0]) / before[counted, 1]
    return round(float(lost.mean()), 6) + 0.0  # no −0


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise OptionError(f"faiss is not there: {EXTRA}") from error

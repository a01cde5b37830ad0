"""One answer for several queries of one person.

mean   the score of a row is the cosine to the mean of the unit queries: one search
max    the largest of the queries' scores: a row among its first K is among the first K of the
       query that it owes its score to
rank   reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): the sum over the queries
       of 1 / (60 + rank), rank from 1, among the first `RANKED` rows of each, or K if that is more

All are of the exact answers, so they are exact themselves. Equal scores are ordered by row id.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from distreid.errors import OptionError
from distreid.search.gallery import Filter, Gallery, Hits, checked_queries, checked_top

FUSIONS = ("mean", "max", "rank")
RANKED = 100
RANK_OFFSET = 60  # the authors' constant


def search_fused(
    gallery: Gallery, features: ArrayLike, how: str, top: int = 10, which: Filter | None = None
) -> Hits:
    """One answer (1, K) for all features (Q, D), as `Gallery.search`."""
    if how not in FUSIONS:
        raise OptionError(f"fuse {how!r}: choose one of {', '.join(FUSIONS)}")
    queries, top = checked_queries(features, gallery.dim), checked_top(top)
    if how == "mean":
        mean = queries.mean(axis=0)
        if np.linalg.norm(mean) < 1e-12:
            raise OptionError("fuse mean: the queries cancel each other out; use max or rank")
        return gallery.search(mean, top, which)
    found = gallery.search(queries, max(top, RANKED) if how == "rank" else top, which)
    rows, first, of_row = np.unique(found.rows, return_index=True, return_inverse=True)
    of_row = of_row.ravel()
    if how == "max":
        scores = np.full(len(rows), -np.inf)
        np.maximum.at(scores, of_row, found.scores.ravel())
    else:
        ranks = np.broadcast_to(np.arange(1, found.rows.shape[1] + 1), found.rows.shape)
        scores = np.bincount(of_row, 1 / (RANK_OFFSET + ranks.ravel()), minlength=len(rows))
    order = np.lexsort((rows, -scores))[:top]
    return replace(
        found,
        rows=rows[order][None],
        scores=scores[order][None].astype(np.float32),
        exact=np.array([found.exact.all()]),
        place=found.place.ravel()[first[order]][None],
        scored=np.array([found.scored.sum()]),
    )

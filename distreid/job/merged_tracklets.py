"""A run of images to a run of tracklets beside it, in its folder: `RUN/tracklets`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from distreid.data.frame_boxes import SCORE
from distreid.data.manifest import TRACKLET, Manifest, Status, Text, text_column
from distreid.data.tracklet_rows import check_tracklets, owners
from distreid.errors import DataError
from distreid.evaluation.tracklets import pool
from distreid.store.feature_store import FeatureStore
from distreid.store.identity import MERGED
from distreid.store.plan import shard_rows_for
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows, write_shard

TRACKLETS = "tracklets"  # the folder
IMAGES = "images"  # the extra column of how many images a tracklet's feature is the mean of


def check_mergeable(manifest: Manifest, top: float | None) -> None:
    """DataError if the columns that `merge_tracklets` needs are not there or hold no numbers, or a
    tracklet shows several persons or cameras."""
    if TRACKLET not in manifest.extra:
        raise DataError(
            f"--merge {TRACKLET}: {manifest.root} has no column {TRACKLET}; "
            "give data that has tracklets, or a table with that column"
        )
    if top is not None and SCORE not in manifest.extra:
        raise DataError(
            f"--merge-top: {manifest.root} has no column {SCORE}; leave it out, or give "
            "data with scores of its boxes"
        )
    _scores(manifest)
    rows = np.arange(len(manifest))
    check_tracklets(manifest, rows, *owners(manifest, rows))


def merge_tracklets(store: FeatureStore, top: float | None = None) -> FeatureStore:
    """Writes the run of tracklets; one that was interrupted is continued.

    A tracklet's feature is the mean of its images' features, which have norm 1, normalised again;
    `norm` is the mean's. With `top`, in 0..1, only that share of them counts, rounded up, those
    whose boxes have the best scores, equal ones by row. Path and all other columns are
    those of its best-scored image, without scores of its first; images without a feature count
    nothing. Tracklets stand in the order of their first images; an image without a tracklet is one.

    DataError as `check_mergeable`.
    """
    manifest = store.manifest
    check_mergeable(manifest, top)
    scores = _scores(manifest)
    rows = np.arange(len(manifest))
    first, owner = owners(manifest, rows)
    good = store.status == Status.OK
    # By tracklet, and in it the images with features first, of these the best score first.
    order = np.lexsort((rows, -scores, ~good, owner))
    place = np.empty(len(rows), np.intp)
    starts = np.searchsorted(owner[order], np.arange(len(first)))
    place[order] = np.arange(len(rows)) - starts[owner[order]]
    have = np.bincount(owner[good], minlength=len(first))
    wanted = have if top is None else np.ceil(have * top).astype(np.intp)
    counts = good & (place < wanted[owner])
    best = order[starts]
    merged = _manifest(manifest, best, np.bincount(owner[counts], minlength=len(first)))
    # `pool` numbers only the tracklets that have an image.
    used = np.flatnonzero(counts)
    pooled = owner[used[owners(manifest, used)[0]]]
    mean_TD = np.full((len(first), store.plan.dim), np.nan, np.float32)
    norm_T = np.full(len(first), np.nan, np.float32)
    mean_TD[pooled], norm_T[pooled] = pool(store, used, raw=False)
    status = np.where(have > 0, Status.OK, store.status[best]).astype(np.uint8)
    plan = replace(
        store.plan,
        manifest=merged,
        identity={
            **store.plan.identity,
            "manifest": merged.fingerprint(),
            MERGED: {"by": TRACKLET, "of": manifest.fingerprint()} | ({"top": top} if top else {}),
        },
        shard_rows=shard_rows_for(len(merged)),
    )
    out = store.run / TRACKLETS
    for shard in begin(out, plan):
        part = slice(shard.start, shard.stop)
        values = Rows(
            features=mean_TD[part].astype(plan.stored_type), norm=norm_T[part], status=status[part]
        )
        write_shard(out, plan, shard, values)
    finish(out, plan)
    return FeatureStore.open(out)


def _scores(manifest: Manifest) -> NDArray[np.float64]:
    """(N,) of the boxes; the least where there is none."""
    scores = manifest.numbers(SCORE)
    return np.where(np.isnan(scores), -np.inf, scores)


def _manifest(manifest: Manifest, best: NDArray[np.intp], images: NDArray[np.intp]) -> Manifest:
    count: Text = text_column([str(number).encode() for number in images.tolist()])
    return replace(
        manifest,
        path=manifest.path[best],
        person_id=manifest.person_id[best],
        camera_id=manifest.camera_id[best],
        split=manifest.split[best],
        extra={name: column[best] for name, column in manifest.extra.items()} | {IMAGES: count},
    )

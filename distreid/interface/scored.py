"""Scores as a Python user asks for them and holds them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from rich.console import Console

from distreid.data.labels import CAMERA, PERSON, Kind, labels_of
from distreid.data.manifest import NO_CAMERA
from distreid.errors import DataError, OptionError
from distreid.evaluation.evaluate import (
    SIDE_BY_SIDE,
    Evaluation,
    evaluate_features,
)
from distreid.evaluation.evaluate import evaluate as evaluate_store
from distreid.evaluation.protocol import PRESETS, Protocol
from distreid.evaluation.protocols.choice import chosen_protocols
from distreid.evaluation.protocols.own import read_protocols
from distreid.evaluation.protocols.rule import Benchmark
from distreid.evaluation.ranking import LabelledFeatures
from distreid.interface.opened_store import Store, as_features, open_store
from distreid.job.options import path_text
from distreid.nearest.similarity import Similarity
from distreid.report.notebook import scores_html
from distreid.report.scores import score_table

OWN = ".toml"  # how a file of protocols ends
TABLE_WIDTH = 200  # characters at most; a table is as wide as its columns


def evaluate(
    store: Store | str | os.PathLike[str] | None = None,
    *,
    query_features: ArrayLike | None = None,
    gallery_features: ArrayLike | None = None,
    query_ids: ArrayLike | None = None,
    gallery_ids: ArrayLike | None = None,
    query_cameras: ArrayLike | None = None,
    gallery_cameras: ArrayLike | None = None,
    protocol: str | os.PathLike[str] | Sequence[str] | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
    **conventions: Any,
) -> Scores:
    """Scores a run, or features with labels, as `distreid evaluate` does.

    Give a store (or a run's folder); or `query_features` (Q, D), `gallery_features` (G, D),
    `query_ids` (Q,), `gallery_ids` (G,) and, where cameras are known, `query_cameras` and
    `gallery_cameras`: whole numbers, or texts, which are taken as those of a table are: person -1
    is junk, and who or what is empty is not known. Features are normalised before they are
    compared.

    `protocol` names one or several benchmarks (`ltcc-changed-clothes`, `mars`, …; of a store alone)
    or ways of counting (`torchreid`, `fastreid`, `transreid`, `layumi`, …), as `distreid protocols`
    lists them, or is a file of your own protocols, which ends in `.toml`; without it a known data
    set's benchmarks or the usual ways of counting stand side by side. A convention by its name, as
    `camera_rule="none"` or `rerank="zhong"`, changes each protocol, as the options of
    `distreid evaluate` do. `precision` is `fp32` or `fp64`, `device` `cpu` or `cuda`.

    Ties are ranked as `docs/scores.md` says. DataError says why there is nothing to score,
    ValueError which array has another shape, OptionError which convention is not known.
    """
    if isinstance(protocol, os.PathLike) or str(protocol).endswith(OWN):
        own = read_protocols(Path(path_text("protocol", protocol)))
        protocols = chosen_protocols(None, conventions, own)
    else:
        protocols = chosen_protocols(_names(protocol), conventions)
    similarity = Similarity(precision=precision, device=str(device))
    arrays = {
        "query_features": query_features,
        "gallery_features": gallery_features,
        "query_ids": query_ids,
        "gallery_ids": gallery_ids,
    }
    if store is not None:
        arrays |= {"query_cameras": query_cameras, "gallery_cameras": gallery_cameras}
        if both := [name for name, values in arrays.items() if values is not None]:
            raise ValueError(f"give a store or features, not both: {', '.join(both)}")
        opened = store if isinstance(store, Store) else open_store(store)
        return Scores(evaluate_store(opened.feature_store, protocols, similarity))
    if missing := [name for name, values in arrays.items() if values is None]:
        raise ValueError(f"{', '.join(missing)}: missing; or give a store")
    if (query_cameras is None) != (gallery_cameras is None):
        given, other = ("query", "gallery") if gallery_cameras is None else ("gallery", "query")
        raise ValueError(
            f"{given}_cameras without {other}_cameras: give both, or neither; without, no match "
            "is left out for its camera"
        )
    query_ids, gallery_ids = _numbered("ids", PERSON, query_ids, gallery_ids)
    if query_cameras is not None:
        query_cameras, gallery_cameras = _numbered(
            "cameras", CAMERA, query_cameras, gallery_cameras
        )
    query = _labelled("query", query_features, query_ids, query_cameras)
    gallery = _labelled("gallery", gallery_features, gallery_ids, gallery_cameras)
    if query.pieces[0].shape[1] != gallery.pieces[0].shape[1]:
        raise ValueError(
            f"query features have {query.pieces[0].shape[1]} dimensions, gallery features "
            f"{gallery.pieces[0].shape[1]}: extract both with one model"
        )
    chosen = protocols or [PRESETS[name] for name in SIDE_BY_SIDE]
    if named := [each.name for each in chosen if isinstance(each, Benchmark)]:
        raise OptionError(
            f"protocol={named[0]!r} wants a store, whose columns tell who asks and who is asked; "
            "distreid import makes a run of features, which distreid.open_store opens"
        )
    countings = [each for each in chosen if isinstance(each, Protocol)]
    if any(each.query == "multi" for each in countings):
        raise DataError("multi-query scores want a store that was extracted with --multi-query")
    return Scores(evaluate_features(query, gallery, countings, similarity=similarity))


class Scores:
    """What `distreid.evaluate` found; prints as the command's table."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        """The figures of each query, for programs."""

    def table(self) -> str:
        """The table that `distreid evaluate` prints, a column for each protocol."""
        console = Console(width=TABLE_WIDTH, highlight=False, color_system=None)
        with console.capture() as captured:
            console.print(score_table(self.evaluation))
        return captured.get()

    def to_dict(self) -> dict[str, Any]:
        """What `metrics.json` holds: `scores` (each with its protocol, rank1, rank5, rank10,
        mAP, mINP, cmc, confidence, and of a benchmark its name, rank20 and its draws; shares in
        0..1, None where there is none), `counts`, `diagnosis`."""
        return self.evaluation.to_json()

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return scores_html(self.evaluation)


def _names(protocol: Any) -> list[str] | None:
    """Those given, one at least; None if none were asked for."""
    if protocol is None:
        return None
    names = protocol.split(",") if isinstance(protocol, str) else protocol
    if not isinstance(names, Sequence) or not names or not all(isinstance(n, str) for n in names):
        known = ", ".join(PRESETS)
        raise OptionError(f"protocol={protocol!r}: a name, or several, of {known}")
    return list(names)


def _labelled(side: str, values: Any, ids: Any, cameras: Any) -> LabelledFeatures:
    features = as_features(values, f"{side}_features")
    if not len(features):
        raise DataError(f"no {side} feature: there is nothing to score")
    norm = np.linalg.norm(features.astype(np.float64), axis=1)
    bad = np.flatnonzero(~np.isfinite(norm) | (norm == 0))
    if len(bad):
        raise DataError(f"{side} feature {bad[0]} (from 0) holds NaN or infinity, or is zero")
    if cameras is None:
        cameras = np.full(len(features), NO_CAMERA)
    return LabelledFeatures(
        pieces=[(features / norm[:, None]).astype(np.float32)],
        norm=norm.astype(np.float32),
        person_id=_whole(f"{side}_ids", ids, len(features)),
        camera_id=_whole(f"{side}_cameras", cameras, len(features)),
    )


def _numbered(what: str, kind: Kind, query: Any, gallery: Any) -> tuple[Any, Any]:
    """Texts as a table's are taken: as whole numbers, or as names, numbered in sorted order; what
    are no texts on both sides, as it is."""
    sides = np.asarray(query), np.asarray(gallery)
    are_names = [side.dtype.kind in "UO" and side.ndim == 1 for side in sides]
    if not all(are_names):
        if any(are_names) and all(side.ndim == 1 and len(side) for side in sides):
            named = "query" if are_names[0] else "gallery"
            raise ValueError(
                f"{named}_{what} are names, and those of the other side are not; give both alike"
            )
        return query, gallery
    numbers = labels_of([str(value) for side in sides for value in side], kind).numbers
    first, second = np.split(np.array(numbers, np.int64), [len(sides[0])])
    return first, second


def _whole(name: str, values: Any, count: int) -> NDArray[np.int64]:
    numbers = np.asarray(values)
    if numbers.shape != (count,):
        raise ValueError(f"{name} of shape {numbers.shape}; ({count},) is wanted")
    if numbers.dtype.kind not in "iub" and not (
        numbers.dtype.kind == "f" and (numbers == np.floor(numbers)).all()
    ):
        raise ValueError(f"{name}: whole numbers are wanted, not {numbers.dtype}")
    return numbers.astype(np.int64)

"""Complete runs of given features, made in a moment, for tests of galleries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import Status, build_manifest
from distreid.store.plan import Plan
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows, write_shard

DIM = 16


def features_of(run: int, count: int, dim: int = DIM) -> NDArray[np.float32]:
    """(count, dim) unit features that no other run has."""
    rows = np.random.default_rng(1000 + run).standard_normal((count, dim))
    rows *= np.arange(1, dim + 1) ** -0.5
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f4")
    return unit


def path_of(run: int, row: int) -> str:
    """Of a row's image; says which row it is."""
    return f"run{run:04d}/image-{row:05d}.jpg"


def make_run(
    folder: Path,
    number: int,
    count: int = 30,
    *,
    features: NDArray[np.floating] | None = None,
    persons: Sequence[int] | None = None,
    cameras: Sequence[int] | None = None,
    paths: Sequence[str] | None = None,
    extra: dict[str, list[str]] | None = None,
    missing: Sequence[int] = (),
    identity: dict[str, Any] | None = None,
    layout: str = "csv",
    dtype: str = "float32",
    shard_rows: int = 13,
) -> Path:
    """A run of `features_of` rows, or of others; row i is of person i % 5 + 1, camera i % 3 + 1."""
    rows = features_of(number, count) if features is None else np.asarray(features)
    count = len(rows)
    manifest = build_manifest(
        root=folder.parent,
        layout=layout,
        path=[path.encode() for path in paths or [path_of(number, row) for row in range(count)]],
        person_id=list(persons) if persons is not None else [i % 5 + 1 for i in range(count)],
        camera_id=list(cameras) if cameras is not None else [i % 3 + 1 for i in range(count)],
        extra=extra,
    )
    plan = Plan(
        manifest=manifest,
        identity={
            "imported": "test",
            "model": {"name": "imported"},
            "dim": rows.shape[1],
            "manifest": manifest.fingerprint(),
            "file": f"{number:064d}",
            "dtype": dtype,
        }
        | (identity or {}),
        provenance={"command": ""},
        dim=rows.shape[1],
        dtype=dtype,
        shard_rows=shard_rows,
    )
    status = np.full(count, Status.OK, np.uint8)
    status[list(missing)] = Status.MISSING
    stored = rows.astype(plan.stored_type)
    stored[list(missing)] = np.nan
    norm = np.where(status == Status.OK, 1, np.nan).astype(np.float32)
    for shard in begin(folder, plan):
        part = slice(shard.start, shard.stop)
        values = Rows(features=stored[part], norm=norm[part], status=status[part])
        write_shard(folder, plan, shard, values)
    finish(folder, plan)
    return folder

"""A store of rows that a test made, without a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import Manifest
from distreid.store.array_store import ArrayStore
from distreid.store.plan import Plan


def in_memory(
    manifest: Manifest,
    features: NDArray[np.floating[Any]],
    status: NDArray[np.uint8] | None = None,
    norm: NDArray[np.floating[Any]] | None = None,
) -> ArrayStore:
    """Unit features (N, D); all readable and of norm 1 before, unless said otherwise."""
    plan = Plan(
        manifest=manifest,
        identity={"manifest": manifest.fingerprint()},
        provenance={},
        dim=features.shape[1],
        dtype="float32",
        shard_rows=len(manifest),
    )
    return ArrayStore(
        run=Path("run"),
        plan=plan,
        norm=np.ones(len(manifest), np.float32) if norm is None else norm,
        status=np.zeros(len(manifest), np.uint8) if status is None else status,
        array=features.astype(np.float32),
    )

"""Features to `pytorch_result.mat`, as Person_reID_baseline_pytorch writes it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from distreid.data.manifest import GALLERY, JUNK, MULTI_QUERY, NO_PERSON, QUERY, Status
from distreid.errors import StoreError
from distreid.host.atomic_files import publish
from distreid.store import FeatureStore

MAT_LIMIT = 4 << 30  # bytes of one variable in a MAT 5 file


def write_mat(store: FeatureStore) -> list[Path]:
    """`pytorch_result.mat`, and with multi-query rows `multi_query.mat`, in the store's folder.

    As Person_reID_baseline_pytorch's evaluate_gpu.py reads them: features (N, D) float32,
    labels and cameras 1 × N; and, added, the paths as cells. Rows without features are left out,
    and queries without a person; in the gallery these are junk (−1), which is found by nobody: that
    program would take all of them for one person. StoreError if a variable would exceed 4 GiB.
    Gives the files written.
    """
    parts = {"pytorch_result.mat": {"gallery": GALLERY, "query": QUERY}}
    if len(store.manifest.rows(MULTI_QUERY)):
        parts["multi_query.mat"] = {"mquery": MULTI_QUERY}
    files = []
    for name, prefixes in parts.items():
        content: dict[str, Any] = {}
        for prefix, split in prefixes.items():
            content |= _mat_variables(store, prefix, split)
        publish(store.run / name, partial(_save_mat, content))
        files.append(store.run / name)
    return files


def _mat_variables(store: FeatureStore, prefix: str, split: str) -> dict[str, Any]:
    rows = store.manifest.rows(split)
    rows = rows[store.status[rows] == Status.OK]
    if split != GALLERY:
        rows = rows[store.manifest.person_id[rows] != NO_PERSON]
    persons = store.manifest.person_id[rows]
    if len(rows) * store.plan.dim * 4 >= MAT_LIMIT:
        raise StoreError(
            f"{store.run}: {prefix}_f would have {len(rows):,} × {store.plan.dim} values, and a "
            ".mat variable ends at 4 GiB; read store.h5 instead (MATLAB: h5read)"
        )
    paths = [path.decode("utf-8", "backslashreplace") for path in store.manifest.path[rows]]
    return {
        f"{prefix}_f": store.features(rows),
        f"{prefix}_label": np.where(persons == NO_PERSON, JUNK, persons)[None],
        f"{prefix}_cam": store.manifest.camera_id[rows][None],
        f"{prefix}_path": np.array(paths, dtype=object)[None],
    }


def _save_mat(content: dict[str, Any], file: Path) -> None:
    import scipy.io  # a quarter of a second, which few runs need

    with file.open("wb") as stream:  # given a name, savemat would append .mat to it
        scipy.io.savemat(stream, content)

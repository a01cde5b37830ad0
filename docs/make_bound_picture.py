"""Makes the picture of the bound in "How exact search is proven", from the sample's features.

distreid extract --data sample --checkpoint sample --out runs/sample
python docs/make_bound_picture.py runs/sample
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import distreid
from distreid.nearest.codes import Directions, encode, query_vectors
from distreid.nearest.exact_search import unit_queries

TOP = 10
WIDTHS = (16, 64)
FILE = Path(__file__).parent / "images" / "bound.png"


def main(run: str) -> None:
    """Writes the picture."""
    rows = distreid.open_store(run).features[:].astype(np.float32)
    query = unit_queries(rows[:1])
    scores = np.sort(rows.astype(np.float64) @ query[0])
    order = np.argsort(rows.astype(np.float64) @ query[0])
    _, vectors = np.linalg.eigh((rows.T @ rows).astype(np.float64))
    figure, axes = plt.subplots(1, len(WIDTHS), figsize=(10, 4), sharey=True, layout="constrained")
    for axis, width in zip(axes, WIDTHS, strict=True):
        basis = np.ascontiguousarray(vectors[:, ::-1][:, : width - 2], np.float32)
        step = (np.abs(rows @ basis).max(axis=0) / 127).astype(np.float32)
        codes = encode(Directions(basis=basis, step=step), [rows])
        (vector,) = query_vectors(codes, query)
        whole = codes.code.astype(np.int64) @ vector.vector.astype(np.int64)
        bounds = (whole * vector.unit + vector.constant)[order]
        left = bounds >= scores[-TOP]
        axis.plot(scores, scores, color="black", lw=1, label="the score itself")
        axis.scatter(scores[~left], bounds[~left], s=8, color="#bbbbbb", label="excluded")
        axis.scatter(scores[left], bounds[left], s=8, color="#4477aa", label="scored")
        axis.axhline(scores[-TOP], color="#cc3311", lw=1, label=f"the {TOP}th best score")
        axis.set_title(f"{width} bytes a row: {left.sum()} of {len(rows)} scored")
        axis.set_xlabel("score")
    axes[0].set_ylabel("upper bound from the code")
    axes[0].legend(loc="lower right")
    figure.savefig(FILE, dpi=110)
    print(FILE, FILE.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1])

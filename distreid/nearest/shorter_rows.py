"""Rows in fewer dimensions, whose products bound the distances of the rows: neighbours for less.

N rows of D dimensions; M < D orthonormal directions in which most of the rows lies. With h the
coordinates of a row in them, and t the norm of what is left of it,

    |a − b|² = |a|² + |b|² − 2 ⟨a, b⟩   and   |⟨a, b⟩ − ⟨hₐ, h_b⟩| ≤ tₐ·t_b   (Cauchy–Schwarz),

so that one product of M + 2 dimensions says how near b is to a at least: [−2hₐ, −2tₐ, 1] times
[h_b, t_b, |b|²] is not above |a − b|² − |a|², nor below that by more than 4·tₐ·t_b. Directions and
coordinates are computed in float64; what float32 adds is in the caller's slack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distreid.nearest.similarity import Features

LEAST_ROWS = 4096  # for fewer it is not worth finding directions
SAMPLED = 1024  # rows, of which the directions are learnt
PROBES = 64  # rows whose neighbours are sought to estimate the time
TRIED = (1 / 32, 1 / 16, 1 / 8)  # of D
WORTH = 0.6  # of the time of whole products, at most
# Of a core (AMD EPYC, Zen 3): an addition and a multiplication in a product, and a float of a row
# that is fetched and compared apart. Only their ratio matters.
SECONDS_PER_PRODUCT, SECONDS_PER_FLOAT = 2 / 80e9, 1e-9
AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class ShorterRows:
    """Of N rows."""

    asking_NM: Features
    asked_NM: Features
    """(N, M + 2): one of `asking_NM` times one of `asked_NM` is not above the squared distance of
    the two rows without the asking row's own square, but for roundings."""
    gap_N: NDArray[np.float32]
    """Nor below it by more than this, whatever row is asked."""


def shortened(rows_ND: Features, k: int) -> ShorterRows | None:
    """None where finding k neighbours by them would hardly be faster: that is estimated on a
    few of the rows."""
    count, dim = rows_ND.shape
    if count < LEAST_ROWS:
        return None
    widths = [width for share in TRIED if (width := min(int(dim * share), SAMPLED)) > 0]
    if not widths:
        return None
    sample_SD = _evenly(rows_ND, SAMPLED)
    directions_DM = _main_directions(sample_SD.astype(np.float64), max(widths))
    costs = _costs(rows_ND, sample_SD, directions_DM, k, widths)
    best = int(np.argmin(costs))
    if costs[best] > WORTH * dim * SECONDS_PER_PRODUCT:
        return None
    return _of(rows_ND, directions_DM[:, : widths[best]])


def bytes_needed(rows: int, dim: int) -> int:
    """Of N rows at most."""
    return 8 * rows * (int(dim * max(TRIED)) + 2) if rows >= LEAST_ROWS else 0


def _main_directions(sample_SD: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(D, M) orthonormal: the right singular vectors of the largest singular values, by the inner
    products of the rows, which are fewer than the dimensions' where that takes long."""
    sample = torch.from_numpy(sample_SD)  # numpy's solver takes ten times as long
    _, left_SS = torch.linalg.eigh(sample @ sample.T)
    directions, _ = torch.linalg.qr(sample.T @ left_SS.flip(1)[:, :count])
    return np.ascontiguousarray(directions.numpy())


def _evenly(rows_ND: Features, count: int) -> Features:
    return rows_ND[:: max(1, len(rows_ND) // count)][:count]


def _costs(
    rows_ND: Features,
    sample_SD: Features,
    directions_DM: NDArray[np.float64],
    k: int,
    widths: Sequence[int],
) -> list[float]:
    """Estimated seconds for each pair of rows, by each number of directions."""
    probe_PD = _evenly(rows_ND, PROBES)
    product_PN = torch.from_numpy(probe_PD) @ torch.from_numpy(rows_ND).T
    square_N = np.einsum("nd,nd->n", rows_ND, rows_ND)
    distance_PN = square_N - 2 * product_PN.numpy()
    kth_P = np.partition(distance_PN, k - 1, axis=1)[:, k - 1]
    farthest_P = distance_PN.max(axis=1)
    costs = []
    for width in widths:
        probes = _of(probe_PD, directions_DM[:, :width])
        sample = _of(sample_SD, directions_DM[:, :width])
        least_PS = probes.asking_NM @ sample.asked_NM.T
        gap_P1 = 4 * probes.asked_NM[:, -2:-1] * sample.asked_NM[:, -2].max()
        looked_at = (least_PS <= kth_P[:, None]) | (least_PS >= farthest_P[:, None] - gap_P1)
        apart = looked_at.mean() * rows_ND.shape[1] * SECONDS_PER_FLOAT
        costs.append((width + 2) * SECONDS_PER_PRODUCT + float(apart))
    return costs


def _of(rows_ND: Features, directions_DM: NDArray[np.float64]) -> ShorterRows:
    count, width = len(rows_ND), directions_DM.shape[1]
    asked = np.empty((count, width + 2), np.float32)
    for start in range(0, count, AT_ONCE):
        rows = torch.from_numpy(rows_ND[start : start + AT_ONCE]).double()
        inside = rows @ torch.from_numpy(directions_DM)
        square = rows.square().sum(1)
        left = (square - inside.square().sum(1)).clamp(min=0).add(1e-14 * square).sqrt()
        part = torch.from_numpy(asked[start : start + AT_ONCE])
        part[:, :width], part[:, width], part[:, width + 1] = inside, left, square
    asking = -2 * asked
    asking[:, -1] = 1
    left_N = asked[:, -2]
    return ShorterRows(asking_NM=asking, asked_NM=asked, gap_N=4 * left_N * left_N.max(initial=0))

"""Rows as 8-bit codes whose product with a query's vector is never below their true score.

N rows x of D dimensions; a query q; M directions P (D, M); W = M + 2 bytes of a code.

A row is taken for Pĥ, a point in the span of the directions, whose coordinates ĥ are 8-bit numbers
times a step for each direction. For any directions and any ĥ, with g = Pᵀq and the residual
r = x − Pĥ,

    ⟨q, x⟩ = ⟨g, ĥ⟩ + ⟨g, Pᵀr⟩ + ⟨q − Pg, r⟩ ≤ ⟨g, ĥ⟩ + ‖g‖·‖Pᵀr‖ + ‖q − Pg‖·‖r‖.

With orthonormal directions ‖Pᵀr‖ is the error of the rounding to 8 bits and ‖r‖ hardly more than
the norm of the row's tail, what lies outside their span: Cauchy–Schwarz on both. Nothing is assumed
of the directions: where they were learnt of other rows, the bound is true and only less sharp. A
code is [ĥ / step, ‖Pᵀr‖, ‖r‖], the last two rounded up to one of 255 values, and so the whole bound
is one inner product with a vector of the query. That is rounded to 16 bits, and its error is added.

A row whose bound says too little has a second one of more directions, of which those are the first:
only the further coordinates are stored for it, and its own two norms. So few bytes of every row are
read, more of few rows, and the rows themselves of fewer still.

Roundings in float32 are bounded as in Higham, "Accuracy and Stability of Numerical Algorithms"
(SIAM, 2002), section 3.1: a sum of n products errs by at most γₙ = n·u / (1 − n·u) times the sum of
their absolute values, in any order, with u = 2⁻²⁴.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distreid.nearest.similarity import one_thread_each

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

U = 2.0**-24  # the unit roundoff of float32
LARGEST = 127  # of a code's bytes, and −127 the smallest
LARGEST_16 = 127 * 256 + 127  # two numbers of 8 bits
ROUNDED_SCORE = 2.0**-23  # a score near 1 and its float32 differ by less
ENCODED_AT_ONCE = 4096  # rows
WIDTHS = (
    16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 320, 384, 448, 512, 768,
    1024, 1536, 2048, 4096,
)  # fmt: skip
# What a query costs, measured on an AMD EPYC (Zen 4) with two threads: only their ratio matters.
SECONDS_PER_BYTE = 1 / 32e9  # of codes, read in order: one query 1/16e9, each of a thousand 1/98e9
SECONDS_PER_BLOCK = 450e-9  # of which all rows are looked at
SECONDS_PER_BYTE_APART = 0.5e-9  # of rows, read here and there
BLOCK = 16  # rows: their largest bound is kept, and all are looked at if that is large enough
FINER_SHARE = 1 / 16  # of float32's bytes at most, for a row's codes, if there are two of them
GOOD_ENOUGH = 1.05  # times the estimated time of the fastest: then the fewest bytes decide


def gamma(n: int) -> float:
    """γₙ of a float32 sum of n products."""
    return n * U / (1 - n * U)


@dataclass(frozen=True, kw_only=True)
class Directions:
    """What rows are coded with."""

    basis: Floats
    """(D, M) float32, nearly orthonormal, the direction with the most of the rows first."""
    step: Floats
    """(M,) float32, the unit of a coordinate."""
    scanned: int | None = None
    """How many of them the code has of which every row's is read; the others are the finer
    code's. None: all, and there is no finer one."""

    @property
    def count(self) -> int:
        """M."""
        return int(self.basis.shape[1])

    @property
    def width(self) -> int:
        """Bytes of a code that is read of every row."""
        return (self.scanned or self.count) + 2

    def first(self, count: int) -> Directions:
        """The first of them."""
        return Directions(basis=self.basis[:, :count], step=self.step[:count])

    @functools.cached_property
    def exact_basis(self) -> Doubles:
        """`basis` in float64."""
        return self.basis.astype(np.float64)

    @functools.cached_property
    def norms(self) -> tuple[float, float]:
        """Upper bounds of the basis's spectral and Frobenius norms."""
        gram = self.exact_basis.T @ self.exact_basis
        spectral = np.sqrt(1 + np.linalg.norm(gram - np.eye(len(gram))))
        return float(spectral) * (1 + 1e-9), float(np.sqrt(np.trace(gram))) * (1 + 1e-9)


@dataclass(frozen=True, kw_only=True)
class Codes:
    """N rows as codes."""

    directions: Directions
    """Those of `code`, all of them."""
    code: NDArray[np.int8]
    """(N, W): coordinates, error norm, residual norm."""
    error: tuple[float, float]
    """(a, b): a row's ‖Pᵀr‖ is at most a + b·code[:, −2]."""
    residual: tuple[float, float]
    """The same of ‖r‖ and the last byte."""
    longest: float
    """No row of `code` has a larger norm."""
    finer: Codes | None = None
    """The same rows by more directions, of which these are the first. Their coordinates are not
    repeated in its `code`, which is the rest, but counted in its `longest`."""

    def __len__(self) -> int:
        return len(self.code)

    @functools.cached_property
    def on_devices(self) -> dict[str, torch.Tensor]:
        """`code` where it was multiplied, in float16, by the devices' names."""
        return {}


@dataclass(frozen=True, kw_only=True)
class QueryVector:
    """What a query is to codes: a row's score is at most `unit` × (code · vector) + `constant`,
    its own rounding to float32 included."""

    vector: NDArray[np.int16]
    """(W,) so small that no product with a code leaves int32."""
    unit: float
    exact: Floats
    """(W,) `unit` × `vector` before its rounding to 16 bits, for products in float32."""
    constant: float
    slack: float
    """To be added to a product with `exact` in float32."""


def query_vectors(codes: Codes, query_QD: Doubles, unit_roundoff: float = U) -> list[QueryVector]:
    """Of Q unit queries, float64. `unit_roundoff` is that of products with `exact`."""
    # By torch and one thread: numpy's would go on spinning, and searches share the cores.
    with one_thread_each():
        basis = torch.from_numpy(codes.directions.exact_basis)
        asked = torch.from_numpy(np.ascontiguousarray(query_QD))
        g = asked @ basis
        g_QM, left_QD = g.numpy(), (asked - g @ basis.T).numpy()
    inside_Q = np.linalg.norm(g_QM, axis=1) * (1 + 1e-9)
    outside_Q = np.linalg.norm(left_QD, axis=1) + 1e-12
    vector_QW = np.column_stack(
        (g_QM * codes.directions.step, inside_Q * codes.error[1], outside_Q * codes.residual[1])
    )
    width = vector_QW.shape[1]
    most = min(LARGEST_16, (2**31 - 1) // (LARGEST * width))
    unit_Q = np.abs(vector_QW).max(axis=1) / most
    unit_Q[unit_Q == 0] = 1.0
    rounded_QW = np.rint(vector_QW / unit_Q[:, None]).astype(np.int16)
    lost_Q = np.linalg.norm(vector_QW - rounded_QW * unit_Q[:, None], axis=1) * codes.longest
    size_Q = np.linalg.norm(vector_QW, axis=1) * codes.longest
    constant_Q = (
        inside_Q * codes.error[0]
        + outside_Q * codes.residual[0]
        + lost_Q
        + ROUNDED_SCORE * (1 + size_Q)
    )
    # Products with `exact` in float32: its rounding, the sum's, and that of what is added to it.
    slack_Q = (width + 4) * unit_roundoff / (1 - width * unit_roundoff) * (size_Q + constant_Q)
    return [
        QueryVector(
            vector=rounded_QW[q],
            unit=float(unit_Q[q]),
            exact=vector_QW[q].astype(np.float32),
            constant=float(constant_Q[q]),
            slack=float(slack_Q[q]),
        )
        for q in range(len(query_QD))
    ]


def encode(directions: Directions, pieces: Iterator[Floats] | Sequence[Floats]) -> Codes:
    """Codes of the rows of consecutive pieces (n, D), float32; a row of NaN is coded as zeros."""
    counts = sorted({directions.scanned or directions.count, directions.count})
    levels = [directions.first(count) for count in counts]
    heads: list[NDArray[np.int8]] = []
    norms: list[list[tuple[Doubles, Doubles]]] = [[] for _ in levels]
    for piece in pieces:
        for start in range(0, len(piece), ENCODED_AT_ONCE):
            rows = np.asarray(piece[start : start + ENCODED_AT_ONCE], np.float32)
            rows = np.nan_to_num(rows, posinf=0.0, neginf=0.0)
            head = np.clip(
                np.rint(rows @ directions.basis / directions.step), -LARGEST, LARGEST
            ).astype(np.int8)
            heads.append(head)
            for level, found in zip(levels, norms, strict=True):
                found.append(_lost(level, rows, head[:, : level.count]))
    finer: Codes | None = None
    for level, found in zip(reversed(levels), reversed(norms), strict=True):
        coarser = counts[0] if level.count > counts[0] else 0
        finer = _codes(level, heads, found, coarser, finer)
    assert finer is not None
    return finer


def _codes(
    directions: Directions,
    heads: list[NDArray[np.int8]],
    norms: list[tuple[Doubles, Doubles]],
    coarser: int,
    finer: Codes | None,
) -> Codes:
    """Of the coordinates of all directions in pieces, those from `coarser` on; `norms` is ‖Pᵀr‖ and
    ‖r‖ of the rows of each piece."""
    count, width = sum(map(len, heads)), directions.width
    code = np.empty((count, width - coarser), np.int8)
    first, longest = 0, 0.0
    error_N, residual_N = (
        np.concatenate([each[i] for each in norms]) if norms else np.empty(0) for i in (0, 1)
    )
    code[:, -2], error = _rounded_up(error_N)
    code[:, -1], residual = _rounded_up(residual_N)
    for head in heads:
        part = code[first : first + len(head)]
        part[:, :-2] = head[:, coarser : directions.count]
        first += len(head)
        whole = np.concatenate((head[:, :coarser], part), axis=1).astype(np.float32)
        # The sums are whole numbers, which float32 may round.
        longest = max(longest, float(np.einsum("nw,nw->n", whole, whole).max(initial=0)))
    return Codes(
        directions=directions,
        code=code,
        error=error,
        residual=residual,
        longest=float(np.sqrt(longest)) * (1 + gamma(width + 2)),
        finer=finer,
    )


def _lost(directions: Directions, rows: Floats, head: NDArray[np.int8]) -> tuple[Doubles, Doubles]:
    """Upper bounds of ‖Pᵀr‖ and ‖r‖ of rows with these coordinates."""
    basis, step = directions.basis, directions.step
    spectral, frobenius = directions.norms
    dim, count = basis.shape
    point = head * step  # float32: each errs by u of itself
    remainder = rows - point @ basis.T
    point_norm = np.linalg.norm(point, axis=1).astype(np.float64) * (1 + gamma(count + 2))
    seen = np.linalg.norm(remainder, axis=1).astype(np.float64) * (1 + gamma(dim + 2))
    # How far `remainder` may be from the true r.
    away = frobenius * point_norm * (gamma(count) + 2 * U) * (1 + 1e-6) + U * seen
    inside = np.linalg.norm(remainder @ basis, axis=1).astype(np.float64) * (1 + gamma(count + 2))
    error = inside + gamma(dim) * frobenius * seen + spectral * away
    return error, seen + away


def _rounded_up(values: Doubles) -> tuple[NDArray[np.int8], tuple[float, float]]:
    """(codes, (a, b)): a + b·code is never below a value, and 255 steps span them all."""
    if not len(values):
        return np.empty(0, np.int8), (0.0, 0.0)
    low, high = float(values.min()), float(values.max())
    middle, step = (low + high) / 2, (high - low) / (2 * LARGEST) * (1 + 1e-9)
    if step == 0:
        return np.zeros(len(values), np.int8), (high, 0.0)
    code = np.ceil((values - middle) / step).clip(-LARGEST, LARGEST)
    code += (middle + step * code < values) & (code < LARGEST)
    # What the last step may still lack, by roundings.
    lacking = max(0.0, float((values - (middle + step * code)).max()))
    return code.astype(np.int8), (middle + lacking, step)


def learn(
    sample_SD: Floats, query_QD: Floats, threshold_Q: Floats, rows: int
) -> tuple[Directions, dict[int, float]]:
    """Directions for a gallery of `rows` rows like these, and the share of rows that a code of
    each width tried cannot exclude.

    `threshold_Q` is what each unit query's k-th best score in the gallery is. Of the widths, and of
    pairs of them, those are taken with which reading the codes and scoring what they leave is
    estimated fastest, or as good as that with fewer bytes.
    """
    sample = np.nan_to_num(np.asarray(sample_SD, np.float32))
    dim = sample.shape[1]
    moments = (sample.T @ sample).astype(np.float64)
    energy, vectors = np.linalg.eigh(moments)
    basis = np.ascontiguousarray(vectors[:, np.argsort(-energy, kind="stable")], np.float32)
    widths = [width for width in WIDTHS if width - 2 < dim]
    widths.append(-(-(dim + 2) // 16) * 16)
    tried: dict[int, float] = {}
    costs: dict[tuple[int, ...], float] = {}
    for width in sorted(set(widths)):
        directions = _directions(sample, basis[:, : width - 2])
        tried[directions.width] = _left_over(directions, sample, query_QD, threshold_Q)
        costs |= _costs(tried, directions.width, dim)
        is_wide = width + 2 > 4 * dim * FINER_SHARE
        if is_wide and width * SECONDS_PER_BYTE > 2 * min(costs.values()):
            break  # wider ones are read for longer than that
    enough = GOOD_ENOUGH * min(costs.values())
    chosen = min((max(of), sum(of), of) for of, seconds in costs.items() if seconds <= enough)[-1]
    best = _directions(sample, basis[:, : max(chosen) - 2])
    if len(chosen) > 1:
        best = Directions(basis=best.basis, step=best.step, scanned=chosen[0] - 2)
    return best, tried


def _costs(tried: dict[int, float], width: int, dim: int) -> dict[tuple[int, ...], float]:
    """Estimated seconds for each row of a gallery: of a code of this width, alone and after
    narrower ones."""
    scored = tried[width] * 4 * dim * SECONDS_PER_BYTE_APART

    def scanned(first: int) -> float:
        return first * SECONDS_PER_BYTE + min(1 / BLOCK, tried[first]) * SECONDS_PER_BLOCK

    costs: dict[tuple[int, ...], float] = {(width,): scanned(width) + scored}
    if width + 2 <= 4 * dim * FINER_SHARE:
        for first, share in tried.items():
            if first < width:
                apart = share * width * SECONDS_PER_BYTE_APART
                costs[first, width] = scanned(first) + apart + scored
    return costs


def _directions(sample: Floats, basis: Floats) -> Directions:
    basis = np.ascontiguousarray(basis)
    largest = np.abs(sample @ basis).max(axis=0, initial=0.0)
    step = (largest / LARGEST).astype(np.float32)
    # A direction that no row of the sample has may be one of later rows.
    return Directions(basis=basis, step=np.maximum(step, np.float32(1e-3 / LARGEST)))


def _left_over(
    directions: Directions, sample: Floats, query_QD: Floats, threshold_Q: Floats
) -> float:
    """The share of the sample's rows whose bounds reach the thresholds."""
    codes = encode(directions, [sample])
    vectors = query_vectors(codes, query_QD.astype(np.float64))
    exact_WQ = np.stack([each.exact for each in vectors], axis=1)
    constant_Q = np.array([each.constant for each in vectors], np.float32)
    bound_SQ = codes.code.astype(np.float32) @ exact_WQ + constant_Q
    return float((bound_SQ >= threshold_Q).mean())

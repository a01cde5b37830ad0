"""Scores of queries against a gallery, in blocks of queries: never queries × gallery at once.

A block is one thread's matrix products, of sizes that depend on the gallery alone, and
several threads compute blocks side by side: so the scores' last bits are the same for any
number of threads, as the features' are, and of queries. Equal gallery rows have equal scores.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from distreid.errors import OptionError

T = TypeVar("T")
Features = NDArray[np.float32]
Scores = NDArray[np.floating[Any]]
Pieces = Sequence[NDArray[np.floating[Any]]]
"""Consecutive row ranges of one (G, D) array, such as a store's shards, which are mapped."""

BLOCK_BYTES = 128 << 20  # of fp32 scores in one block
BLOCK_ROWS = 128  # more rows than this make a product no faster
TILE_ROWS = 512  # of the gallery in one product: a core's second cache holds what it reads again
LEAST_ROWS = 64  # of a tile; products of very few rows are computed in another way
MEMORY_BYTES = 512 << 20  # of the blocks in work at once; each thread has one


def checked_device(device: str) -> str:
    """The same; OptionError if it is neither `cpu` nor `cuda`, or there is no GPU."""
    if device not in ("cpu", "cuda"):
        raise OptionError(f"--device {device}: choose one of cpu, cuda")
    if device != "cpu" and not torch.cuda.is_available():
        raise OptionError(f"--device {device}: torch sees no GPU; use --device cpu")
    return device


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """What a score is; the greater, the more alike."""

    name: str = "cosine"
    """`cosine`: of the features. `euclidean`: the squared distance of the features before they
    were normalised, negated; it ranks as the distance itself does. Of normalised features
    either distance ranks as the cosine does, so these two are all there is to choose."""
    precision: str = "fp32"
    """`fp32` or `fp64`, of products and scores."""
    device: str = "cpu"
    """Where the products are computed, `cpu` or `cuda`; the gallery must fit there."""

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "fp64"):
            raise OptionError(f"--precision {self.precision}: choose one of fp32, fp64")
        checked_device(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the scores."""
        return {"fp32": torch.float32, "fp64": torch.float64}[self.precision]


COSINE = Similarity()


def block_rows(gallery_rows: int) -> int:
    """How many queries make a block; a function of the gallery's size and nothing else."""
    return max(1, min(BLOCK_ROWS, BLOCK_BYTES // (4 * max(1, gallery_rows))))


def threads_for(gallery_rows: int) -> int:
    """How many blocks are computed at once: as the cores and `MEMORY_BYTES` allow."""
    block_bytes = 4 * block_rows(gallery_rows) * max(1, gallery_rows)
    return max(1, min(len(os.sched_getaffinity(0)), MEMORY_BYTES // block_bytes - 1))


def memory_needed(queries: int, gallery_rows: int, similarity: Similarity = COSINE) -> int:
    """Bytes that `score_blocks` and the ranking of a block take beside the features."""
    rows = block_rows(gallery_rows)
    itemsize = torch.finfo(similarity.dtype).bits // 8
    # One block in each thread, one that is ranked; a row of it sorted.
    blocks = min(threads_for(gallery_rows) + 1, -(-queries // rows))
    return itemsize * gallery_rows * (rows * blocks + 1)


def seconds_needed(queries: int, gallery_rows: int, dim: int) -> float:
    """About how long ranking takes on this CPU, by timing a small part of it (0.1 s)."""
    left, right = torch.rand(BLOCK_ROWS, dim), torch.rand(8, TILE_ROWS, dim)
    scores = np.random.default_rng(0).random(gallery_rows, dtype=np.float32)
    with one_thread_each():
        started = time.perf_counter()
        for tile in right:
            _ = left @ tile.T
        product = (time.perf_counter() - started) / (BLOCK_ROWS * right[..., 0].numel())
    started = time.perf_counter()
    np.sort(scores)
    sort = time.perf_counter() - started
    return queries * (gallery_rows * product / threads_for(gallery_rows) + sort)


def in_pieces(rows: NDArray[np.floating[Any]] | Pieces) -> Pieces:
    """One array as its only piece; pieces as they are."""
    return [rows] if isinstance(rows, np.ndarray) else rows


def score_blocks(
    query_QD: NDArray[np.floating[Any]],
    gallery: NDArray[np.floating[Any]] | Pieces,
    similarity: Similarity = COSINE,
    *,
    query_norm_Q: Features | None = None,
    gallery_norm_G: Features | None = None,
) -> Iterator[tuple[int, Scores]]:
    """(first query, scores (B, G)) for consecutive queries, in order.

    The features are L2-normalised. `euclidean` wants their norms before.
    """
    return map_blocks(
        lambda first, scores_BG: scores_BG.copy(),
        query_QD,
        gallery,
        similarity,
        query_norm_Q=query_norm_Q,
        gallery_norm_G=gallery_norm_G,
    )


def map_blocks(
    work: Callable[[int, Scores], T],
    query_QD: NDArray[np.floating[Any]],
    gallery: NDArray[np.floating[Any]] | Pieces,
    similarity: Similarity = COSINE,
    *,
    query_norm_Q: Features | None = None,
    gallery_norm_G: Features | None = None,
) -> Iterator[tuple[int, T]]:
    """(first query, work(first query, scores (B, G))) of each block of `score_blocks`, in order;
    the work is done by the thread that computed the block, while it is in the cache, and may
    overwrite it; the next block will."""
    pieces = in_pieces(gallery)
    rows = sum(map(len, pieces))
    tiles = _tiles(pieces) if similarity.device == "cpu" else _gallery_on_gpu(pieces, similarity)
    stops = np.cumsum([len(tile_GD) for tile_GD in tiles])
    size = block_rows(rows)
    own = threading.local()  # a thread's block: fresh memory for each costs a fifth of the time

    def block(first: int) -> T:
        scores_BG = scores(first)
        if similarity.name == "euclidean":
            assert query_norm_Q is not None and gallery_norm_G is not None
            _to_distances(scores_BG, query_norm_Q[first : first + size], gallery_norm_G)
        return work(first, scores_BG.numpy())

    @room_for("the products", similarity.device)
    def scores(first: int) -> Tensor:
        query_BD = _tensor(query_QD[first : first + size], similarity)
        queries = len(query_BD)
        query_BD = F.pad(query_BD, (0, 0, 0, size - queries))  # few rows would have other last bits
        if not hasattr(own, "scores"):
            own.scores = torch.empty(size, rows, dtype=similarity.dtype, device=similarity.device)
        for stop, tile_GD in zip(stops, tiles, strict=True):
            tile_DG = tile_GD.to(similarity.dtype).T
            torch.mm(query_BD, tile_DG, out=own.scores[:, stop - len(tile_GD) : stop])
        scored: Tensor = own.scores[:queries]
        return scored.cpu()

    threads = threads_for(rows)
    # Each thread must be told: what `one_thread_each` sets does not reach the products of others.
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    with one_thread_each(), _no_tf32(), pool:
        waiting: deque[tuple[int, Future[T]]] = deque()
        for first in range(0, len(query_QD), size):
            waiting.append((first, pool.submit(block, first)))
            if len(waiting) > threads:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _to_distances(scores_BG: Tensor, query_norm_B: Features, gallery_norm_G: Features) -> None:
    """Cosines to −‖q − g‖² = 2·q·g − ‖q‖² − ‖g‖², in place."""
    query = torch.from_numpy(np.asarray(query_norm_B)).to(scores_BG.dtype)[:, None]
    gallery = torch.from_numpy(np.asarray(gallery_norm_G)).to(scores_BG.dtype)
    scores_BG.mul_(2 * query).mul_(gallery).sub_(query.square()).sub_(gallery.square())


def _tensor(values: NDArray[np.floating[Any]], similarity: Similarity) -> Tensor:
    return torch.from_numpy(np.asarray(values)).to(similarity.device, similarity.dtype)


def _tiles(pieces: Pieces) -> list[Tensor]:
    """The gallery in parts of about `TILE_ROWS`; where one would be too small, joined to a copy."""
    tiles: list[Tensor] = []
    for piece in pieces:
        piece_GD = torch.from_numpy(np.asarray(piece))
        for tile_GD in torch.tensor_split(piece_GD, -(-len(piece) // TILE_ROWS) or 1):
            before = [tiles.pop()] if tiles and len(tiles[-1]) < LEAST_ROWS else []
            tiles.append(torch.cat([*before, tile_GD]) if before else tile_GD)
    if len(tiles) > 1 and len(tiles[-1]) < LEAST_ROWS:
        tiles[-2:] = [torch.cat(tiles[-2:])]
    return tiles


def _gallery_on_gpu(pieces: Pieces, similarity: Similarity) -> list[Tensor]:
    with room_for("the gallery", similarity.device):
        return [torch.cat([_tensor(piece, similarity) for piece in pieces])]


@contextlib.contextmanager
def room_for(what: str, device: str) -> Iterator[None]:
    """OptionError where a GPU's memory is full."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OptionError(
            f"--device {device}: the GPU has no memory for {what}; use --device cpu"
        ) from error


@contextlib.contextmanager
def _no_tf32() -> Iterator[None]:
    """A GPU multiplies float32 as such, whatever precision a network was computed in before."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """torch computes with one thread, so that several can compute side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

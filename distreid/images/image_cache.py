"""Decoded images kept between runs: a file of records that prove themselves.

    DIR/256x128-KEY.u8      record i, of whole pages: image i as (height, width, 3) uint8 RGB, the
                            stamp of its file, and the CRC-32 of both

KEY stands for the rows, the folder they are read from, and what their pixels depend on: any
checkpoint with the same decoding and resizing shares the file. A record counts only if its stamp
is that of the image's file as it is now, and its checksum fits. So what a killed job left
half-written, what a disk has damaged and what was changed since is read anew, row by row, and
nothing has to be renamed when it is whole. Ranks and jobs may fill the file at once: they write
the same bytes. Any batch size and any shards find what others left. Rows that are not there yet
are holes, which take no room.

An image that cannot be read is not kept: every run looks at it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.filesize import decimal
from torch import Tensor

from distreid.data.archives import listed_stamp
from distreid.data.locators import is_address, locate
from distreid.data.manifest import Status
from distreid.data.mat_images import file_of
from distreid.errors import OptionError
from distreid.host.atomic_files import PAGE
from distreid.images.preprocess import Preprocess
from distreid.store.plan import Plan, to_json

FORMAT = 1
STAMP = struct.Struct("<3q")  # size in bytes; nanoseconds of the last change, and of any change
CRC = struct.Struct("<L")
# A second change within a tick of the file system's clock leaves no trace; FAT's is 2 s.
TICK_NS = 2_000_000_000

Decoded = tuple[Tensor, dict[int, tuple[Status, str]]]
"""(B, 3, height, width) uint8, and of the rows that are no images: row → what is wrong."""


@dataclass
class CacheUse:
    """What became of a number of images."""

    found: int = 0
    """How many came from the cache."""
    fault: str = ""
    """Why it could not be read or written, if so."""

    def add(self, other: CacheUse) -> None:
        """Takes those of another, too."""
        self.found += other.found
        self.fault = self.fault or other.fault


class ImageCache:
    """The images of a plan's rows. Holds no open file, so that any process may have a copy."""

    def __init__(self, folder: Path, plan: Plan, preprocess: Preprocess) -> None:
        self.manifest = plan.manifest
        self.shape = (preprocess.height, preprocess.width, 3)
        used = 3 * preprocess.height * preprocess.width + STAMP.size + CRC.size
        self.record_bytes = -(-used // PAGE) * PAGE
        key = {
            "format": FORMAT,
            "rows": plan.identity["manifest"],
            # Two folders may hold other images of the same names, sizes and times.
            "root": os.fspath(plan.manifest.root.resolve()),
            "pixels": preprocess.pixel_identity(),
        }
        digest = hashlib.sha256(to_json(key).encode("utf-8", "surrogateescape")).hexdigest()
        self.file = folder / f"{preprocess.height}x{preprocess.width}-{digest[:32]}.u8"

    def prepare(self, todo_rows: int) -> str:
        """Makes the folder; says in words what so many rows may take. OptionError if the disk
        has less."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            there = self.file.exists()
            taken = self.file.stat().st_blocks * 512 if there else 0
            free = shutil.disk_usage(self.file.parent).free
        except OSError as error:
            return f"{self.file.parent}: {error.strerror}; the job goes on without it"
        if not os.access(self.file if there else self.file.parent, os.W_OK):
            return f"{self.file}: {decimal(taken)}, read-only: nothing is added"
        left = max(0, len(self.manifest) * self.record_bytes - taken)
        need = min(left, todo_rows * self.record_bytes)
        if need > free:
            raise OptionError(
                f"--cache {self.file.parent}: {todo_rows:,} images may take {decimal(need)}, the "
                f"disk has {decimal(free)}; make room, or go without it"
            )
        return f"{self.file}: {decimal(taken)}, may take {decimal(need)} more of {decimal(free)}"

    def through(
        self, rows: range, decode: Callable[[Sequence[int]], Decoded]
    ) -> tuple[Decoded, CacheUse]:
        """The images of these rows. Those that are not in the cache come from `decode`, and are
        added; a fault of the cache's own file is noted and nothing else."""
        use = CacheUse()
        stamps = [stamp(self.manifest.file(row)) for row in rows]
        images_BHWC = np.empty((len(rows), *self.shape), np.uint8)
        found = np.zeros(len(rows), bool)
        with _noted(use):
            self._read(rows, stamps, images_BHWC, found)
        use.found = int(found.sum())
        failed: dict[int, tuple[Status, str]] = {}
        if not found.all():
            absent = [row for row, there in zip(rows, found, strict=True) if not there]
            decoded_BCHW, failed = decode(absent)
            images_BHWC[~found] = decoded_BCHW.movedim(1, -1).numpy()
            with _noted(use):
                self._write([row for row in absent if row not in failed], rows, stamps, images_BHWC)
        return (torch.from_numpy(images_BHWC).movedim(-1, 1), failed), use

    def _read(
        self,
        rows: range,
        stamps: Sequence[bytes | None],
        images_BHWC: NDArray[np.uint8],
        found: NDArray[np.bool_],
    ) -> None:
        """Reads what is there to its place in `images_BHWC`, and sets `found` there."""
        seal = bytearray(STAMP.size + CRC.size)
        with contextlib.suppress(FileNotFoundError), _opened(self.file, os.O_RDONLY) as handle:
            for place, (row, its_stamp) in enumerate(zip(rows, stamps, strict=True)):
                if its_stamp is None:
                    continue
                image = images_BHWC[place]
                # By plain reads, not by a mapping: a disk that fails is then an error and not a
                # signal.
                count = os.preadv(handle, [image, seal], row * self.record_bytes)
                whole = count == image.nbytes + len(seal)
                found[place] = whole and seal == seal_of(image, its_stamp)

    def _write(
        self,
        wanted: Sequence[int],
        rows: range,
        stamps: Sequence[bytes | None],
        images_BHWC: NDArray[np.uint8],
    ) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)  # of each host, if it is no shared one
        with _opened(self.file, os.O_WRONLY | os.O_CREAT) as handle:
            for row in wanted:
                place = row - rows.start
                if (its_stamp := stamps[place]) is not None:
                    image = images_BHWC[place]
                    record = [image, seal_of(image, its_stamp)]
                    # Cut short, as by a full disk, it does not count; the next call says why.
                    os.pwritev(handle, record, row * self.record_bytes)


def stamp(file: Path) -> bytes | None:
    """What tells a version of an image's file from the next; None if it cannot, or not yet.

    Size and both times, as git's index has them: no program can set the last one. Of what lies in
    an object store, the version that was listed.
    """
    if is_address(file):
        listed = listed_stamp(file)
        return listed and STAMP.pack(*listed, 0)
    try:
        found = os.stat(file_of(locate(file).file))
    except (OSError, ValueError):
        return None
    if time.time_ns() - found.st_ctime_ns < TICK_NS:
        return None
    return STAMP.pack(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def seal_of(image: NDArray[np.uint8], its_stamp: bytes) -> bytes:
    """What follows a record's pixels: the stamp, and the checksum of pixels and stamp."""
    return its_stamp + CRC.pack(zlib.crc32(its_stamp, zlib.crc32(image.data)))


@contextlib.contextmanager
def _opened(file: Path, flags: int) -> Iterator[int]:
    handle = os.open(file, flags, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _noted(use: CacheUse) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        use.fault = error.strerror or str(error)

"""Files that are whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py

from distreid.errors import StoreError

PAGE = 4096  # features start at a multiple of this, so that they can be mapped
UNALIGNED_BELOW = 1024  # HDF5's own small records need no page each
MEND = "delete it and run the extraction again"


def publish(file: Path, write: Callable[[Path], None]) -> None:
    """Writes a file aside, syncs it and renames it, so that `file` is never half-written."""
    aside = file.with_name(f"{file.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        write(aside)
        _sync(aside)
        os.replace(aside, file)
        _sync(file.parent)
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}; make room, or check the folder") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def publish_bytes(file: Path, content: bytes) -> None:
    """`publish` for bytes."""

    def write(aside: Path) -> None:
        aside.write_bytes(content)

    publish(file, write)


def publish_text(file: Path, text: str) -> None:
    """`publish` for a text, as UTF-8."""
    publish_bytes(file, text.encode())


def publish_hdf5(file: Path, write: Callable[[h5py.File], None]) -> None:
    """`publish` for an HDF5 file whose larger datasets start at a page.

    It is made in memory and written in one go: a full disk is then an ordinary OSError, where
    HDF5 would fail again as it closes the file, and say so in many lines.
    """
    with h5py.File(
        file.name,
        "w",
        driver="core",
        backing_store=False,
        alignment_threshold=UNALIGNED_BELOW,
        alignment_interval=PAGE,
    ) as hdf5:
        write(hdf5)
        hdf5.flush()
        image = hdf5.id.get_file_image()
    publish_bytes(file, image)


@contextlib.contextmanager
def damaged_if_unreadable(path: Path) -> Iterator[None]:
    """Turns what h5py raises on a damaged file, which is nearly anything, into StoreError."""
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise StoreError(f"{path}: damaged, or no file of distreid ({reason}); {MEND}") from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Files that are whole or not there: written aside, synced, renamed; HDF5 with a checksum.

An HDF5 file of ours ends with a line of 16 bytes, `\\ncrc32 xxxxxxxx\\n`: the CRC-32 (zlib's) of
every byte before it, in hex. HDF5 ignores what follows its own end. The line covers what HDF5
itself has no checksum for, and is checked before HDF5 parses a byte.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py

from distreid.errors import StoreError

PAGE = 4096  # features start at a multiple of this, so that they can be mapped
UNALIGNED_BELOW = 1024  # HDF5's own small records need no page each
MEND = "delete it and run the extraction again"
CHECKSUM_LINE = "\ncrc32 {:08x}\n"
CHECKSUM_BYTES = 16
READ_BYTES = 1 << 20
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def publish(file: Path, write: Callable[[Path], None]) -> None:
    """Writes a file aside, syncs it and renames it, so that `file` is never half-written.

    StoreError, as `check_target`, or with what the system says.
    """
    check_target(file)
    aside = file.with_name(f"{file.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        write(aside)
        sync(aside)
        os.replace(aside, file)
        sync(file.parent)
    except OSError as error:
        # The text of a library's own error may show the name of the file aside.
        own = str(error).replace(str(aside), str(file))
        reason = os.strerror(error.errno) if error.errno else own
        mend = "make room" if error.errno in DISK_IS_FULL else "check the folder"
        raise StoreError(f"{file}: {reason}; {mend}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def check_target(file: Path) -> None:
    """StoreError if `publish` would replace what is no file, or has no folder to write into.

    To be called before long work whose result has a name of the user's. A link is followed: what
    it leads to must be a file too, though the link is what is replaced.
    """
    if "://" in str(file):
        raise StoreError(f"{file}: an address; results are written to local files, give one")
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        if not file.parent.is_dir():
            raise StoreError(
                f"{file}: no such folder {file.parent}; make it, or check its disk"
            ) from None
        return
    except OSError as error:
        raise StoreError(f"{file}: {error.strerror}; check the folder") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise StoreError(f"{file}: {kind}, which is not replaced; give the name of a file")


def make_folder(folder: Path) -> None:
    """The folder with those above it, if it is not there; StoreError with what the system says."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror}; check the folder") from error


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
        # HDF5 knows files in memory by name alone, and several runs write shards of one name.
        f"{file.name} of thread {threading.get_ident()}",
        "w",
        driver="core",
        backing_store=False,
        alignment_threshold=UNALIGNED_BELOW,
        alignment_interval=PAGE,
    ) as hdf5:
        write(hdf5)
        hdf5.flush()
        image = hdf5.id.get_file_image()

    def write_image(aside: Path) -> None:
        with aside.open("wb") as stream:
            stream.write(image)
            stream.write(CHECKSUM_LINE.format(zlib.crc32(image)).encode())

    publish(file, write_image)


def check_bytes(file: Path) -> None:
    """Reads every byte of a file of `publish_hdf5`; StoreError if it does not fit its checksum.

    By plain reads, not by a mapping: a disk that fails is then an error and not a signal.
    """
    with damaged_if_unreadable(file), file.open("rb", buffering=0) as stream:
        left = os.fstat(stream.fileno()).st_size - CHECKSUM_BYTES
        buffer, crc = memoryview(bytearray(max(0, min(left, READ_BYTES)))), 0
        while left > 0 and (count := stream.readinto(buffer[:left])):
            crc = zlib.crc32(buffer[:count], crc)
            left -= count
        fits = stream.read() == CHECKSUM_LINE.format(crc).encode()
    if not fits:
        raise StoreError(f"{file}: its bytes do not fit their checksum, or were cut; {MEND}")


def check_content(name: str, content: bytes) -> None:
    """`check_bytes` for the content of such a file, which came from elsewhere under that name."""
    end = len(content) - CHECKSUM_BYTES
    if content[max(0, end) :] != CHECKSUM_LINE.format(zlib.crc32(content[:end])).encode():
        raise StoreError(f"{name}: its bytes do not fit their checksum, or were cut; {MEND}")


@contextlib.contextmanager
def open_hdf5(file: Path) -> Iterator[h5py.File]:
    """A file of `publish_hdf5`, for reading. Locks are for files that change, and some shared
    file systems have none."""
    with damaged_if_unreadable(file), h5py.File(file, "r", locking=False) as hdf5:
        yield hdf5


def check_column(dataset: h5py.Dataset, rows: int, kind: str) -> h5py.Dataset:
    """The dataset, not yet read, if it holds that many values of numpy's kind; else ValueError.

    Only what lies in the file in one piece has an offset, and HDF5 checks that it does. Other
    layouts can claim any size, and reading them would take the memory.
    """
    is_column = dataset.shape == (rows,) and dataset.dtype.kind == kind
    if not is_column or dataset.id.get_offset() is None:
        raise ValueError(f"{dataset.name} is no column of {rows:,} rows")
    return dataset


@contextlib.contextmanager
def damaged_if_unreadable(file: Path) -> Iterator[None]:
    """Turns what h5py raises on a damaged file, which is nearly anything, into StoreError."""
    try:
        # A pipe would be waited for.
        if not stat.S_ISREG(file.stat().st_mode):
            raise StoreError(f"{file}: no file, but a folder or a device; {MEND}")
        yield
    except FileNotFoundError as error:
        raise StoreError(f"{file}: missing; run the extraction again") from error
    except OSError as error:
        if error.errno is not None:  # the system's own; HDF5's have none
            raise StoreError(f"{file}: {error.strerror}; check the folder and its disk") from error
        raise _damaged(file, error) from error
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> StoreError:
    reason = " ".join(str(error).split())
    return StoreError(f"{file}: damaged, or no file of distreid ({reason}); {MEND}")


def sync(path: Path) -> None:
    """A file's bytes, or a folder's names, are on the disk afterwards."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

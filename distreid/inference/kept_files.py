"""What takes long to make and is the same at the next start, kept in the user's cache.

    CACHE/NAME           what was made
    CACHE/NAME.sha256    of its bytes

CACHE is `$XDG_CACHE_HOME/distreid`, or `~/.cache/distreid`. A file that is damaged is made anew.
Where there is no such folder, nothing is kept. Of more than KEPT_BYTES, the files that were not
used for the longest time are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from distreid.errors import UserError
from distreid.host.atomic_files import publish_bytes
from distreid.host.user_cache import user_cache

KEPT_BYTES = 8 << 30  # a ViT-B has 350 MB
KINDS = (".onnx", ".openvino", ".tensorrt")
CHECKSUM = ".sha256"


def kept(name: str, make: Callable[[], bytes]) -> tuple[bytes, str]:
    """What `make` gives, or gave at another start, and what there is to say of where it came from;
    mostly nothing."""
    file = user_cache() / name
    checksum = file.with_name(name + CHECKSUM)
    note = ""
    content = _read(file)
    if content is not None:
        if _read(checksum) == _checksum(content):
            with contextlib.suppress(OSError):  # of another user's
                os.utime(file)  # used now
            return content, note
        note = f"{file} was damaged, and is made anew"
    content = make()
    # Without room or the right to write, it is made again at the next start.
    with contextlib.suppress(OSError, UserError):
        file.parent.mkdir(parents=True, exist_ok=True)
        publish_bytes(file, content)
        publish_bytes(checksum, _checksum(content))
        _forget(file.parent)
    return content, note


def _read(file: Path) -> bytes | None:
    """None where it cannot be read: another process may just have removed it."""
    try:
        return file.read_bytes()
    except OSError:
        return None


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _forget(folder: Path) -> None:
    """Removes what is beyond KEPT_BYTES; the last used stay."""
    files = [file for file in folder.iterdir() if file.suffix in KINDS]
    used = 0
    for file in sorted(files, key=lambda each: each.stat().st_mtime, reverse=True):
        used += file.stat().st_size
        if used > KEPT_BYTES:
            file.unlink(missing_ok=True)
            file.with_name(file.name + CHECKSUM).unlink(missing_ok=True)

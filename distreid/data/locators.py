"""Locators: where an image's bytes lie and what of it is meant, written as one path.

    a/1.jpg                               a file
    shards/0.tar#/a/1.jpg                 a member of an archive
    train.parquet#/image/00000012         a row of a column of images
    crops.lmdb#/a/1.jpg                   a key of a database
    shop.mp4#/000012.ppm                  a frame of a video, the first is 1
    s3://bucket/crops#/a/1.jpg            an object of a store, below a prefix
    s3://bucket/shards/0.tar#/a/1.jpg     a member of an archive that is an object
    cuhk-03.mat#detected/1_001_2_06.png   a cell of a .mat file, see `mat_images`
    img1/000001.jpg#xyxy=10,20,50,120     of any of these a box: the corners in pixels of the
                                          frame, the second one outside

As a path, a locator is kept in a store's column, joined to a root, and shown to people; only what
reads bytes takes it apart. Nothing after `#/` is ever a path of the file system.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TAR, COMPRESSED_TAR, ZIP, ARROW, VIDEO = "tar", "compressed tar", "zip", "arrow", "video"
LMDB = "lmdb"  # a file, or a folder that holds one
OBJECTS = "objects"  # what lies below a prefix of an object store, which is read as an archive is
ENDINGS = {
    ".tar": TAR,
    ".tar.gz": COMPRESSED_TAR,
    ".tgz": COMPRESSED_TAR,
    ".tar.bz2": COMPRESSED_TAR,
    ".tar.xz": COMPRESSED_TAR,
    ".tar.zst": COMPRESSED_TAR,
    ".zip": ZIP,
    ".parquet": ARROW,
    ".arrow": ARROW,
    ".lmdb": LMDB,
    **dict.fromkeys((".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v"), VIDEO),
}
_ANY_ENDING = tuple(ENDINGS)
SCHEMES = ("s3", "gs", "az", "hf", "http", "https")
# As users write it, and as a Path has it.
_ADDRESS = re.compile(rf"\A({'|'.join(SCHEMES)}):/+(?=[^/])")
_CORNER = r"(-?\d{1,9})"
_BOX = re.compile(rf"(.*)#xyxy={','.join([_CORNER] * 4)}", re.DOTALL)

Box = tuple[int, int, int, int]
"""x and y of the first corner, x and y of the second one, which is exclusive."""


class Address(type(Path())):  # type: ignore[misc]
    """A path that may be an address in an object store, whose text then keeps both its slashes, and
    which no working directory changes."""

    def __str__(self) -> str:
        return self._text

    @functools.cached_property
    def _text(self) -> str:
        text: str = super().__str__()
        return _ADDRESS.sub(r"\1://", text, count=1) if ":/" in text else text

    def absolute(self) -> Any:
        """Of an address, itself."""
        return self if is_address(self) else super().absolute()

    def resolve(self, strict: bool = False) -> Any:
        """Of an address, itself."""
        return self if is_address(self) else super().resolve(strict)


def is_address(path: Path | str) -> bool:
    """Whether it is an object store's, such as `s3://bucket/prefix`."""
    return _ADDRESS.match(os.fspath(path)) is not None


def path_of(text: str) -> Path:
    """A path as it was written: an address as one."""
    return Address(text) if is_address(text) else Path(text)


def under(folder: Path, path: Path) -> Path:
    """What a path that was written in a folder means: an address, or a path from there."""
    return path_of(os.fspath(path)) if is_address(path) else folder / path


@dataclass(frozen=True)
class Locator:
    """A path taken apart."""

    file: Path
    """What the file system has; of an image in a .mat file still the whole path."""
    member: str | None = None
    """The name inside the archive, if `file` is one."""
    box: Box | None = None

    @property
    def frame(self) -> Path:
        """The locator of the whole image."""
        return self.file if self.member is None else member_of(self.file, self.member)


def locate(path: Path) -> Locator:
    """A path taken apart; of a plain file, the file."""
    text = os.fspath(path)
    if "#" not in text:
        return Locator(_path(text) if is_address(text) else path)
    if "#xyxy=" in text and (match := _BOX.fullmatch(text)):
        frame, x1, y1, x2, y2 = match.groups()
        whole = _frame(frame)
        return Locator(whole.file, whole.member, (int(x1), int(y1), int(x2), int(y2)))
    return _whole(text)


def _whole(text: str) -> Locator:
    is_remote = is_address(text)
    at = text.find("#/")
    while at >= 0:
        if is_remote or text[:at].lower().endswith(_ANY_ENDING):
            return Locator(_path(text[:at]), text[at + 2 :])
        at = text.find("#/", at + 1)
    if text.endswith("#") and (is_remote or text[:-1].lower().endswith(_ANY_ENDING)):
        return Locator(_path(text[:-1]), "")
    return Locator(_path(text))


@functools.lru_cache(1024)
def _path(text: str) -> Path:
    """One object for each archive, which keeps its hash."""
    return path_of(text)


@functools.lru_cache(1024)
def _frame(text: str) -> Locator:
    """Taken apart once for all its boxes."""
    return _whole(text)


def member_of(archive: Path, name: str = "") -> Path:
    """The locator of a member; without a name, the root of all members."""
    return path_of(f"{archive}#/{name}" if name else f"{archive}#")


def with_box(path: bytes, box: Box) -> bytes:
    """A frame's path to that of a box in it."""
    return path + "#xyxy={},{},{},{}".format(*box).encode()


def plain_paths(root: Path, paths: list[bytes]) -> list[bytes]:
    """Paths below a root so that each is written in one way: without `./`, and absolute where one
    of them is."""
    if any(path.startswith(b"/") for path in paths):
        paths = [os.path.join(os.fsencode(root), path) for path in paths]
    elif not any(b"./" in path or b"//" in path for path in paths):
        return paths
    return [os.path.normpath(path) for path in paths]


def frame_of(path: bytes) -> bytes:
    """What `with_box` was given."""
    return path.rpartition(b"#xyxy=")[0] if b"#xyxy=" in path else path


@functools.lru_cache(1024)
def kind_of(file: Path) -> str | None:
    """Which kind of archive a file's name says it is; None if it is none. An address that is no
    archive's is a prefix."""
    name = file.name.lower()
    kind = next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)
    return OBJECTS if kind is None and is_address(file) else kind

"""Whether a run that is continued is of the images that it was begun with, as far as sizes tell."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from distreid.data.locators import is_address, locate
from distreid.data.manifest import Manifest
from distreid.errors import StoreError
from distreid.store.plan import Plan

SIZES = "image_sizes"
"""The key of `sizes_of` in a plan's provenance."""
LOOKED_AT = 64


def sizes_of(manifest: Manifest) -> str:
    """A digest of the sizes of some files, evenly spaced, in hex; a file that is not there has
    none. Empty for archives and object stores, whose own stamps are compared."""
    digest = hashlib.sha256()
    if not len(manifest) or is_address(manifest.root) or locate(manifest.root).member is not None:
        return ""
    for row in np.linspace(0, len(manifest) - 1, min(len(manifest), LOOKED_AT), dtype=np.intp):
        place = locate(manifest.file(int(row)))
        if place.member is not None:
            return ""
        digest.update(f"{_size(place.file)} ".encode())
    return digest.hexdigest()


def check_same_images(run: Path, begun: Plan | None, manifest: Manifest) -> list[str]:
    """What is to be said of images that lie in another folder than when the run was begun, as names
    alone are compared. StoreError if they have other sizes."""
    if begun is None or os.fspath(begun.manifest.root) == os.fspath(manifest.root):
        return []
    before, now = begun.provenance.get(SIZES), sizes_of(manifest)
    if before and now and before != now:
        raise StoreError(
            f"{run}: begun with images below {begun.manifest.root}, and those of the same names "
            f"below {manifest.root} have other sizes; give another --out"
        )
    return [f"begun below {begun.manifest.root}: these images are taken for the same"]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1

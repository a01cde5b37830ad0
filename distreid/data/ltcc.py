"""LTCC: persons who change their clothes."""

from __future__ import annotations

import os
import re
from pathlib import Path

from distreid.data.image_files import LayoutRequest, labels_by, named_images
from distreid.data.manifest import GALLERY, QUERY, Manifest

LTCC_NAME = re.compile(rb"(\d{1,18})_\d+_c(\d{1,18})_")
CLOTHES = "clothes"  # the extra column


def ltcc(root: Path, asked: LayoutRequest) -> Manifest:
    """`query/` and `test/`; `extra/clothes` is person and clothes number, such as `001_1`, as
    Simple-CCReID reads it, so that two persons share no clothes."""
    parts = [(QUERY, "query"), (GALLERY, "test")]
    found = named_images(root, asked, parts, labels_by(LTCC_NAME), "001_1_c1_015833.png")
    names = [os.fsdecode(os.path.basename(path)) for path in found.path]
    clothes = [name.partition("_c")[0] for name in names]
    return found.manifest(root, asked.layout, extra={CLOTHES: clothes})

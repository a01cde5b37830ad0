"""Images that their EXIF says to turn, which most networks' own code reads as they are stored."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from distreid.data.locators import is_address, locate
from distreid.data.manifest import Manifest
from distreid.errors import ImageError
from distreid.images.preprocess import ORIENTATION, read

LOOKED_AT = 1_000
"""Images at most, evenly spaced; it takes about 0.2 ms for each."""
UPRIGHT = (None, 0, 1)  # 0 is no orientation, and written all the same


def turned_images(manifest: Manifest) -> tuple[int, list[int]]:
    """How many images were looked at, and the rows of those with another orientation than upright.
    What cannot be read is passed over, and so is all that is no file: crops in archives and stores
    seldom come from a camera, and boxes are of frames as they are stored."""
    count = min(len(manifest), LOOKED_AT)
    rows, looked_at = [], 0
    for row in np.linspace(0, len(manifest) - 1, count, dtype=np.intp).tolist() if count else ():
        file = manifest.file(row)
        if is_address(file) or locate(file).file != file:
            continue
        try:
            with Image.open(io.BytesIO(read(file))) as image:
                orientation = image.getexif().get(ORIENTATION)
        except (OSError, ValueError, ImageError, SyntaxError, Image.DecompressionBombError):
            continue
        looked_at += 1
        rows += [row] if orientation not in UPRIGHT else []
    return looked_at, rows

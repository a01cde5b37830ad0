"""Query images whose pixels are those of a gallery image, whatever their bytes."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Collection

from PIL import Image

from distreid.data.manifest import GALLERY, QUERY, Manifest
from distreid.errors import ImageError
from distreid.images.preprocess import pixels_of, read

MOST = 20_000  # images that are decoded; it takes about 1 ms for each


def same_pixels(manifest: Manifest, known: Collection[int]) -> list[tuple[int, int]] | None:
    """Each query row, but those `known`, with the first other gallery row of the same pixels; None
    if there are too many to decode. What cannot be read is passed over."""
    rows_of: dict[tuple[int, int], list[int]] = defaultdict(list)
    gallery = set(manifest.rows(GALLERY).tolist())
    query = set(manifest.rows(QUERY).tolist()) - set(known)
    if len(gallery | query) > MOST:
        return None
    for row in sorted(gallery | query):
        try:
            with Image.open(io.BytesIO(read(manifest.file(row)))) as image:
                rows_of[image.size].append(row)
        except (OSError, ValueError, ImageError, Image.DecompressionBombError):
            continue
    pairs = []
    for rows in rows_of.values():
        if not gallery.intersection(rows) or not query.intersection(rows) or len(rows) < 2:
            continue
        first: dict[bytes, list[int]] = defaultdict(list)
        digest = {row: _digest(manifest, row) for row in rows}
        for row in rows:
            if row in gallery:
                first[digest[row]].append(row)
        for row in rows:
            others = [other for other in first[digest[row]][:2] if other != row]
            if row in query and digest[row] and others:
                pairs.append((row, others[0]))
    return sorted(pairs)


def _digest(manifest: Manifest, row: int) -> bytes:
    """Of the pixels; empty if they cannot be read."""
    try:
        pixels = pixels_of(manifest.file(row), exif_transpose=True)
    except (OSError, ImageError):
        return b""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()

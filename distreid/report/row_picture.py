"""The picture of one row, wherever its bytes lie."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from distreid.data.locators import locate
from distreid.errors import ImageError, OptionError, StoreError
from distreid.host.atomic_files import check_target, publish_bytes
from distreid.images.preprocess import FORMATS, decode, read
from distreid.report.frames_picture import framed
from distreid.store import FeatureStore

SAME = {".jpeg": ".jpg", ".tiff": ".tif"}


def write_row_picture(store: FeatureStore, row: int, out: Path, *, in_frame: bool = False) -> None:
    """Writes the image of a row: the bytes as they lie there, if `out` has their ending, else
    converted by Pillow to what its ending says. Of a box, what is cut out, or with `in_frame` its
    frame with the box drawn in it.

    OptionError if there is no such row or ending, or no box to be drawn, ImageError if the image
    cannot be read.
    """
    rows = len(store.manifest)
    if not 0 <= row < rows:
        raise OptionError(f"--row {row}: {store.run} has rows 0 to {rows - 1:,}")
    check_target(out)
    file = store.manifest.file(row)
    place = locate(file)
    name = Path(place.member) if place.member else place.file
    if in_frame and place.box is None:
        raise OptionError(f"--frame: row {row} is a whole image, no box of a frame")
    try:
        if in_frame:
            _publish(framed(file), out)
            return
        data = read(file)
        if place.box is None and _ending(out) == _ending(name):
            publish_bytes(out, data)
            return
        pixels = decode(data)
    except FileNotFoundError:
        if "imported" in store.plan.identity:
            raise OptionError(
                f"--row {row}: {store.run} holds features made elsewhere, and there is no image "
                f"{file}"
            ) from None
        raise StoreError(f"{file}: not there any more, the image of row {row}") from None
    except ImageError as error:
        raise ImageError(f"row {row}, {file}: {error}") from error
    _publish(Image.fromarray(pixels), out)


def _publish(picture: Image.Image, out: Path) -> None:
    """As the file's ending says."""
    kind = Image.registered_extensions().get(_ending(out), "")
    if kind not in FORMATS:
        raise OptionError(f"--out {out}: the ending of a picture is wanted, such as .png")
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    publish_bytes(out, buffer.getvalue())


def _ending(file: Path) -> str:
    ending = file.suffix.lower()
    return SAME.get(ending, ending)

"""Image bytes to a uint8 tensor, and the one description of decode, resize and normalisation.

The pixels are those of the peers' `PIL.Image.convert("RGB")` and `resize`, bit for bit.
JPEGs are decoded by libjpeg-turbo through simplejpeg, which gives Pillow's pixels in a third
of the time.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import stat
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from distreid import mat_images
from distreid.errors import ImageError
from distreid.resize import resize

# The means and standard deviations of ImageNet, as torchvision documents them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Pillow would also start Ghostscript for PostScript that is named .jpg: only what follows is tried.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP")
# Pillow's own limit, a third of a GB as RGB; the header is asked before memory is taken.
MAX_PIXELS = 89_478_485
TOO_LARGE = f"a decompression bomb: more than {MAX_PIXELS:,} pixels, which is the limit"
# A file is read into memory: more than MAX_PIXELS of 16-bit RGBA take is no image.
MAX_BYTES = 8 * MAX_PIXELS
JPEG_MAGIC = b"\xff\xd8\xff"
# Other colour spaces (CMYK, YCCK, Adobe RGB) go through Pillow: its conversion is the peers'.
FAST_COLOURS = ("YCbCr", "Gray")


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image becomes a model's input. Two stores with different ones do not mix."""

    height: int = 256
    width: int = 128
    interpolation: str = "bicubic"
    """`bicubic` or `bilinear`, both with Pillow's antialias."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    scale: str = "0..1"
    """What is normalised: `0..1`, or `0..255` with mean and std as much larger, as fast-reid
    does. The formula is the same, but not the last bits, which instance norm magnifies."""
    exif_transpose: bool = False
    """Whether a picture is turned as its EXIF orientation says. Of the peers, fast-reid does."""

    def identity(self) -> dict[str, Any]:
        """The description that a store carries."""
        description = asdict(self)
        turned = "applied" if description.pop("exif_transpose") else "ignored"
        return description | {"colour": "RGB", "exif_orientation": turned}

    def pixel_identity(self) -> dict[str, Any]:
        """What the uint8 pixels depend on beside the file: all but the normalisation, and the
        libraries that decode and resize."""
        description = self.identity()
        for later in ("mean", "std", "scale"):
            del description[later]
        return description | {m.__name__: m.__version__ for m in (PIL, simplejpeg, torch)}

    def load(self, file: Path) -> NDArray[np.uint8]:
        """An image file as (h, w, 3) uint8 RGB, as large as it is; ImageError without row or
        path."""
        return decode(read(file), exif_transpose=self.exif_transpose)

    def resize(self, images: Iterable[NDArray[np.uint8]]) -> Tensor:
        """N images (h, w, 3) → (N, 3, height, width) uint8."""
        return resize(images, self.height, self.width, self.interpolation)

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 → float32, in the peer's order of operations."""
        factor = 255 if self.scale == "0..255" else 1
        mean, std = (
            _per_channel(tuple(value * factor for value in values), images.device)
            for values in (self.mean, self.std)
        )
        pixels = images.float() if self.scale == "0..255" else images.float().div_(255)
        return pixels.sub_(mean).div_(std)


@functools.cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1), copied to a GPU once: the host waits for such a copy, and for all that the GPU
    was given before."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def read(file: Path) -> bytes:
    """The bytes of a regular file, or of an image in a .mat file; raises FileNotFoundError
    or ImageError."""
    if mat_images.in_mat(file):
        return mat_images.read(file)
    # Without O_NONBLOCK, opening a pipe that happens to be named .jpg would wait for ever.
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        try:
            before = os.fstat(handle)
            if not stat.S_ISREG(before.st_mode):
                raise ImageError("not a regular file")
            if before.st_size > MAX_BYTES:
                raise ImageError(f"{before.st_size:,} bytes, where {MAX_BYTES:,} are the limit")
            data = _read_all(handle, before.st_size)
            after = os.fstat(handle)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    if (len(data), after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise ImageError("it was changed while it was read")
    return data


def _read_all(handle: int, size: int) -> bytes:
    """What the file has, up to one byte more than `size`."""
    # Memory for so much, and no more: asking for the limit would cost more than decoding.
    data = os.read(handle, size + 1)
    while len(data) <= size and (more := os.read(handle, size + 1 - len(data))):
        data += more
    return data


def decode(data: bytes, *, exif_transpose: bool = False) -> NDArray[np.uint8]:
    """Image bytes → (h, w, 3) uint8 RGB, of an animation the first picture; alpha is dropped.

    Raises ImageError if Pillow cannot read the bytes either, or for more than `MAX_PIXELS`.
    """
    if not data:
        raise ImageError("the file is empty")
    if data.startswith(JPEG_MAGIC) and not (exif_transpose and _may_be_turned(data)):
        try:
            height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
            if colour in FAST_COLOURS and height * width <= MAX_PIXELS:
                return simplejpeg.decode_jpeg(data, "RGB", strict=True)  # type: ignore[no-any-return]
        except ValueError:
            pass  # damaged, or unusual: Pillow's verdict counts, as it does for the peers
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _pixels(image, exif_transpose)
    except (MemoryError, ImageError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(TOO_LARGE) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"no image of a known kind ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error


def _pixels(image: Image.Image, exif_transpose: bool) -> NDArray[np.uint8]:
    """An opened image as RGB. Its header is read, its pixels not yet."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(TOO_LARGE)
    if exif_transpose:
        with contextlib.suppress(Exception):  # as fast-reid does: a damaged EXIF turns nothing
            image = ImageOps.exif_transpose(image)
    return np.array(image.convert("RGB"))


def _may_be_turned(jpeg: bytes) -> bool:
    """Whether Pillow could find an orientation: in EXIF, or in Adobe's XMP."""
    return b"Exif\0\0" in jpeg or b"tiff:Orientation" in jpeg

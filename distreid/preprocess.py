"""Image bytes to a uint8 tensor, and the one description of decode, resize and normalisation.

The pixels are those of the peers' `PIL.Image.convert("RGB")` and `resize`, bit for bit.
JPEGs are decoded by libjpeg-turbo through simplejpeg, which gives Pillow's pixels in a third
of the time. The resize is Pillow's own: torch's uint8 resize is twice as fast, but keeps
fewer bits of its weights, and at the borders it is now and then off by one level.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distreid import mat_images
from distreid.errors import ImageError

# The means and standard deviations of ImageNet, as torchvision documents them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

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

    def identity(self) -> dict[str, Any]:
        """The description that a store carries."""
        return asdict(self) | {"colour": "RGB", "exif_orientation": "ignored", "scale": "0..1"}

    def load(self, file: Path) -> Tensor:
        """An image file as (3, height, width) uint8 RGB; ImageError without row or path."""
        return self.resize(decode(read(file)))

    def resize(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(h, w, 3) uint8 → (3, height, width) uint8."""
        if pixels.shape[:2] != (self.height, self.width):
            resized = Image.fromarray(pixels).resize((self.width, self.height), self._filter())
            pixels = np.array(resized)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _filter(self) -> Image.Resampling:
        return Image.Resampling[self.interpolation.upper()]

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 → float32, in torchvision's order of operations."""
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1)
        return images.float().div_(255).sub_(mean).div_(std)


def read(file: Path) -> bytes:
    """The bytes of a regular file, or of an image in a .mat file; raises FileNotFoundError
    or ImageError."""
    if mat_images.in_mat(file):
        return mat_images.read(file)
    # Without O_NONBLOCK, opening a pipe that happens to be named .jpg would wait for ever.
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        with open(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ImageError("not a regular file")
            return stream.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error


def decode(data: bytes) -> NDArray[np.uint8]:
    """Image bytes → (h, w, 3) uint8 RGB; alpha is dropped, EXIF orientation ignored.

    Raises ImageError if Pillow cannot read the bytes either.
    """
    if data.startswith(JPEG_MAGIC):
        try:
            colour = simplejpeg.decode_jpeg_header(data)[2]
            if colour in FAST_COLOURS:
                return simplejpeg.decode_jpeg(data, "RGB", strict=True)  # type: ignore[no-any-return]
        except ValueError:
            pass  # damaged, or unusual: Pillow's verdict counts, as it does for the peers
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a decompression bomb below twice its limit of pixels.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)
            with Image.open(io.BytesIO(data)) as image:
                return np.array(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error

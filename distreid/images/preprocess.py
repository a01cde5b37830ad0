"""Image bytes to a uint8 tensor, and the one description of decode, resize and normalisation.

The pixels are those of the peers' `PIL.Image.convert("RGB")` and `resize`, bit for bit, as Pillow
had them up to version 12.
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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from distreid.data import mat_images
from distreid.data.archives import read_frame, read_member
from distreid.data.locators import VIDEO, Locator, kind_of, locate
from distreid.errors import DataError, ImageError
from distreid.images.fit import NO, OPENCV, cv2, fit
from distreid.images.frames import LastFrame, as_png, cut
from distreid.images.resize import resize
from distreid.images.resize_weights import FILTERS
from distreid.store.identity import HORIZONTAL_FIRST, RESIZE

T = TypeVar("T")

Colour = tuple[float, float, float]
"""Of the three channels."""

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


ORIENTATION = 0x0112  # EXIF's tag
QUARTER_TURNS = (5, 6, 7, 8)  # its values that exchange height and width


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image becomes a model's input. Two stores with different ones do not mix."""

    height: int = 256
    width: int = 128
    interpolation: str = "bicubic"
    """`bicubic`, `bilinear`, `lanczos` or `nearest`, all of Pillow, which averages where it
    shrinks; or `opencv`, cv2's linear one, which does not."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    scale: str = "0..1"
    """What is normalised: `0..1`, or `0..255` with mean and std as much larger, as fast-reid
    does. The formula is the same, but not the last bits, which instance norm magnifies."""
    exif_transpose: bool = False
    """Whether a picture is turned as its EXIF orientation says. Of the peers, fast-reid does."""
    channels: str = "rgb"
    """`rgb` or `bgr`: the order in which the network takes the colours; `mean` and `std` are in
    this order."""
    keep_aspect: str = "no"
    """`no`, `pad`, `crop`, `crop=SHORTER`, or one of timm's three ways, see `images.fit`."""

    def identity(self) -> dict[str, Any]:
        """The description that a store carries."""
        description = asdict(self)
        turned = "applied" if description.pop("exif_transpose") else "ignored"
        colour = description.pop("channels").upper()
        # Absent where version 0.1.0 knew nothing else.
        if description["keep_aspect"] == NO:
            del description["keep_aspect"]
        if self.interpolation == OPENCV:
            description["opencv"] = cv2().__version__
        return description | {"colour": colour, "exif_orientation": turned}

    @classmethod
    def from_identity(cls, description: Mapping[str, Any]) -> Preprocess:
        """What has this `identity`; KeyError or TypeError if nothing has."""
        values = dict(description)
        values.pop("opencv", None)
        channels, turned = values.pop("colour").lower(), values.pop("exif_orientation")
        values |= {name: tuple(values[name]) for name in ("mean", "std")}
        return cls(channels=channels, exif_transpose=turned == "applied", **values)

    def changed(
        self,
        *,
        mean: Colour | None = None,
        std: Colour | None = None,
        interpolation: str | None = None,
        channels: str | None = None,
        range: str | None = None,
        keep_aspect: str | None = None,
    ) -> Preprocess:
        """The same but for what is given. `range` is `0-1` or `0-255`: the numbers that the network
        sees before `mean` and `std`, which are on its scale."""
        white = 255 if range == "0-255" else 1
        given: dict[str, Any] = {
            "mean": mean and tuple(value / white for value in mean),
            "std": std and tuple(value / white for value in std),
            "scale": range and range.replace("-", ".."),
            "interpolation": interpolation,
            "channels": channels,
            "keep_aspect": keep_aspect,
        }
        if interpolation == OPENCV:
            cv2()  # an error now rather than in a worker
            given["exif_transpose"] = True  # as cv2.imread does
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def pixel_identity(self) -> dict[str, Any]:
        """What the uint8 pixels depend on beside the file: all but the normalisation, the order of
        the resize, and the libraries that decode."""
        description = self.identity()
        for later in ("mean", "std", "scale", "colour"):
            del description[later]
        description["colour"] = "RGB"  # the channels are turned on the device
        libraries = {m.__name__: m.__version__ for m in (PIL, simplejpeg)}
        return description | {RESIZE: HORIZONTAL_FIRST} | libraries

    def load(self, file: Path) -> NDArray[np.uint8]:
        """An image file as (h, w, 3) uint8 RGB, as large as it is; ImageError without row or
        path."""
        return np.ascontiguousarray(self.loader()(file))

    def loader(self) -> Callable[[Path], NDArray[np.uint8]]:
        """`load` for images in their order: boxes that follow each other in one frame have it
        decoded once, and are views of it. EXIF's orientation does not turn a frame: boxes are of
        its stored pixels."""
        as_opencv = self.interpolation == OPENCV
        frames = LastFrame(lambda file: pixels_of(file, as_opencv=as_opencv))

        def load(file: Path) -> NDArray[np.uint8]:
            place = locate(file)
            if place.box is not None:
                return frames.cut(place, place.box)
            return _pixels_at(place, exif_transpose=self.exif_transpose, as_opencv=as_opencv)

        return load

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """An image file's bytes as `load` gives them; ImageError if they are no image."""
        as_opencv = self.interpolation == OPENCV
        return decode(data, exif_transpose=self.exif_transpose, as_opencv=as_opencv)

    @property
    def is_plain(self) -> bool:
        """Whether the whole image is resized as Pillow does, and nothing else."""
        return self.keep_aspect == NO and self.interpolation in FILTERS

    def resize(self, images: Iterable[NDArray[np.uint8]]) -> Tensor:
        """N images (h, w, 3) → (N, 3, height, width) uint8."""
        if self.is_plain:
            return resize(images, self.height, self.width, self.interpolation)
        size = self.height, self.width
        fitted = [fit(image, *size, self.interpolation, self.keep_aspect) for image in images]
        pixels = np.stack(fitted) if fitted else np.empty((0, *size, 3), np.uint8)
        return torch.from_numpy(pixels).movedim(-1, 1)

    def normalise(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 → float32, in the peer's order of operations."""
        factor = 255 if self.scale == "0..255" else 1
        mean, std = (
            _per_channel(tuple(value * factor for value in values), images.device)
            for values in (self.mean, self.std)
        )
        if self.channels == "bgr":
            images = images.flip(1)
        pixels = images.float() if self.scale == "0..255" else images.float().div_(255)
        return pixels.sub_(mean).div_(std)


@functools.cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1), copied to a GPU once: the host waits for such a copy, and for all that the GPU
    was given before."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def pixels_of(
    file: Path, *, exif_transpose: bool = False, as_opencv: bool = False
) -> NDArray[np.uint8]:
    """An image wherever it lies as (h, w, 3) RGB: what `decode` makes of `read`, and raises what
    they do."""
    return _pixels_at(locate(file), exif_transpose=exif_transpose, as_opencv=as_opencv)


def _pixels_at(
    place: Locator, *, exif_transpose: bool = False, as_opencv: bool = False
) -> NDArray[np.uint8]:
    if place.box is not None:
        return np.ascontiguousarray(cut(_pixels_at(Locator(place.file, place.member)), place.box))
    if place.member is not None and kind_of(place.file) == VIDEO:
        return _of_member(read_frame, place.file, place.member, 3 * MAX_PIXELS)
    return decode(_bytes_at(place), exif_transpose=exif_transpose, as_opencv=as_opencv)


def read(file: Path) -> bytes:
    """The bytes of an image wherever it lies, see `data.locators`; of a box those of a PNG file.
    Raises FileNotFoundError or ImageError."""
    place = locate(file)
    return _bytes_at(place) if place.box is None else as_png(_pixels_at(place))


def _bytes_at(place: Locator) -> bytes:
    """Of a whole image."""
    if place.member is not None:
        return _of_member(read_member, place.file, place.member, MAX_BYTES)
    if "#" in os.fspath(place.file) and mat_images.in_mat(place.file):
        return mat_images.read(place.file)
    return _read_file(place.file)


def _read_file(file: Path) -> bytes:
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


def _of_member(reader: Callable[[Path, str, int], T], archive: Path, name: str, limit: int) -> T:
    try:
        return reader(archive, name, limit)
    except (FileNotFoundError, ImageError):
        raise
    except DataError as error:  # of the whole archive, which its index has not shown
        raise ImageError(str(error)) from error
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error


def _read_all(handle: int, size: int) -> bytes:
    """What the file has, up to one byte more than `size`."""
    # Memory for so much, and no more: asking for the limit would cost more than decoding.
    data = os.read(handle, size + 1)
    while len(data) <= size and (more := os.read(handle, size + 1 - len(data))):
        data += more
    return data


def decode(
    data: bytes, *, exif_transpose: bool = False, as_opencv: bool = False
) -> NDArray[np.uint8]:
    """Image bytes → (h, w, 3) uint8 RGB, of an animation the first picture; alpha is dropped.

    `as_opencv`: CMYK is converted by cv2, whose colours are brighter by 1 than Pillow's.

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
                if as_opencv and image.mode == "CMYK" and image.format == "JPEG":
                    return _pixels_of_opencv(image, data)
                return _pixels(image, exif_transpose)
    except (MemoryError, ImageError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(TOO_LARGE) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"no image of a known kind ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error


def size_of(data: bytes, *, exif_transpose: bool = False) -> tuple[int, int]:
    """Height and width of what `decode` gives, read off the header; ImageError as there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                turned = exif_transpose and image.getexif().get(ORIENTATION) in QUARTER_TURNS
                return (image.width, image.height) if turned else (image.height, image.width)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(str(error)) from error


def _pixels(image: Image.Image, exif_transpose: bool) -> NDArray[np.uint8]:
    """An opened image as RGB. Its header is read, its pixels not yet."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(TOO_LARGE)
    if exif_transpose:
        with contextlib.suppress(Exception):  # as fast-reid does: a damaged EXIF turns nothing
            image = ImageOps.exif_transpose(image)
    return np.array(image.convert("RGB"))


def _pixels_of_opencv(image: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """As cv2.imread gives them, turned by EXIF, but in RGB."""
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(TOO_LARGE)
    pixels = cv2().imdecode(np.frombuffer(data, np.uint8), cv2().IMREAD_COLOR)
    if pixels is None:
        raise ImageError("cv2 cannot read it")
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _may_be_turned(jpeg: bytes) -> bool:
    """Whether Pillow could find an orientation: in EXIF, or in Adobe's XMP."""
    return b"Exif\0\0" in jpeg or b"tiff:Orientation" in jpeg

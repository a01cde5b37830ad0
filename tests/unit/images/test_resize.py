"""The resize is Pillow 12's bit for bit, by every path, whatever Pillow is installed."""

import hashlib
import json
from collections.abc import Callable

import numpy as np
import PIL
import pytest
import torch
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distreid.images import resize as module
from distreid.images.device_resize import resize_batch
from distreid.images.resize import resize
from distreid.images.resize_weights import FILTERS, weights
from distreid.images.tall_images import resized_vertically_first

Pixels = NDArray[np.uint8]
Path = Callable[[Pixels, int, int, str], Pixels]
OF_PILLOW_12 = json.loads((REPOSITORY / "tests/data/resize_pillow_12.json").read_text())["cases"]
PILLOW = int(PIL.__version__.partition(".")[0])


def by_loops(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    return module.resize_one(image, height, width, interpolation)


def by_pillow(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    return module._by_pillow(image, height, width, interpolation)


def by_torch(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    batch = torch.from_numpy(image.copy()).movedim(-1, 0)[None]
    sizes = [(image.shape[0], image.shape[1])]
    resized = resize_batch(batch, sizes, height, width, interpolation)
    return resized[0].movedim(0, -1).numpy()


def source(seed: int, height: int, width: int) -> Pixels:
    """As `tests/tools/resize_with_pillow_12.py` makes it."""
    data = hashlib.shake_256(str(seed).encode()).digest(3 * height * width)
    pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)
    return np.where(pixels > 127, 255, 0).astype(np.uint8) if seed % 3 == 0 else pixels


@pytest.mark.parametrize("path", [by_loops, by_pillow, by_torch])
@pytest.mark.parametrize("interpolation", FILTERS)
def test_every_path_gives_the_bits_of_pillow_12(path: Path, interpolation: str) -> None:
    cases = [case for case in OF_PILLOW_12 if case[1] == interpolation]
    assert len(cases) == 88
    for seed, _, height, width, to_height, to_width, expected in cases:
        made = path(source(seed, height, width), to_height, to_width, interpolation)
        digest = hashlib.sha256(np.ascontiguousarray(made).tobytes()).hexdigest()
        assert digest[:16] == expected, (height, width, to_height, to_width)


sides = st.integers(1, 400)


@settings(max_examples=60, deadline=None)
@given(sides, sides, sides, sides, st.integers(0, 99), st.sampled_from(sorted(FILTERS)))
def test_the_installed_pillow_gives_the_same_where_its_order_is_the_same(
    height: int, width: int, to_height: int, to_width: int, seed: int, interpolation: str
) -> None:
    image = source(seed, height, width)
    method = Image.Resampling[interpolation.upper()]
    theirs = np.asarray(Image.fromarray(image).resize((to_width, to_height), method))
    ours = by_loops(image, to_height, to_width, interpolation)
    if PILLOW < 13 or not resized_vertically_first(height, width, to_height, to_width):
        assert np.array_equal(ours, theirs)
    else:
        down = Image.fromarray(image).resize((width, to_height), method)
        assert np.array_equal(theirs, np.asarray(down.resize((to_width, to_height), method)))


@pytest.mark.parametrize(
    ("height", "width", "down_first"),
    [
        (357, 178, True),  # 101 rows and 50 columns less
        (356, 178, False),
        (357, 128, False),  # as wide as it shall be: there is one pass
        (257, 100, True),  # it becomes wider
        (256, 100, False),
        (200, 100, False),
    ],
)
def test_pillow_13_begins_downwards_where_it_loses_more_than_twice_as_many_rows_as_columns(
    height: int, width: int, down_first: bool
) -> None:
    assert resized_vertically_first(height, width, 256, 128) is down_first


def test_images_of_many_sizes_in_one_batch() -> None:
    sizes = [(128, 64), (61, 173), (256, 128), (1, 1), (400, 300), (128, 65)]
    images = [source(seed, *size) for seed, size in enumerate(sizes)]
    ours = resize(iter(images), 256, 128, "bicubic")
    assert ours.shape == (6, 3, 256, 128)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    # On a device they stand in the corner of what is large enough for all; the rest is not read.
    corner = np.full((6, 400, 300, 3), 200, np.uint8)
    for place, image in enumerate(images):
        corner[place, : image.shape[0], : image.shape[1]] = image
    batch = torch.from_numpy(corner).movedim(-1, 1)
    assert torch.equal(resize_batch(batch, sizes, 256, 128, "bicubic"), ours)
    assert resize([], 256, 128, "bicubic").shape == (0, 3, 256, 128)


def test_an_image_that_cannot_be_written_or_is_no_block_of_memory_is_taken() -> None:
    image = source(1, 90, 40)
    image.setflags(write=False)
    for given_image in (image, image[::-1], image[:, ::2]):
        expected = by_pillow(np.array(given_image), 256, 128, "bicubic")
        assert np.array_equal(by_loops(given_image, 256, 128, "bicubic"), expected)


def test_without_numba_the_pixels_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [source(1, 300, 60), source(2, 128, 64)]
    expected = resize(images, 256, 128, "bicubic")
    monkeypatch.setattr(module, "compiled_loops", lambda: None)
    assert torch.equal(resize(images, 256, 128, "bicubic"), expected)


def test_weights_are_whole_and_add_up_to_one() -> None:
    for interpolation in FILTERS:
        found = weights(300, 128, interpolation)
        sums: Tensor = torch.from_numpy(found.weights_NK.astype(np.int64)).sum(dim=1)
        # Each is rounded by itself.
        assert (sums - 2**22).abs().max() <= found.weights_NK.shape[1] / 2
        assert ((found.first_N >= 0) & (found.first_N + found.count_N <= 300)).all()

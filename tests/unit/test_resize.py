import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distreid import resize as module
from distreid.resize import resize

Pixels = NDArray[np.uint8]


def noise(count: int, height: int, width: int) -> list[Pixels]:
    """Half of them black and white: where the filter overshoots, and is cut."""
    pixels = np.random.default_rng(height).integers(0, 256, (count, height, width, 3), np.uint8)
    pixels[: count // 2] = np.where(pixels[: count // 2] > 127, 255, 0)
    return list(pixels)


def by_pillow(images: list[Pixels], height: int, width: int, interpolation: str) -> Tensor:
    method = Image.Resampling[interpolation.upper()]
    resized = [Image.fromarray(image).resize((width, height), method) for image in images]
    return torch.from_numpy(np.stack([np.array(image) for image in resized])).movedim(-1, 1)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("height", "width"), [(256, 128), (384, 128), (384, 192), (256, 256), (14, 10), (8, 8)]
)
def test_images_of_half_the_size_become_what_pillow_makes_of_them(
    height: int, width: int, interpolation: str
) -> None:
    images = noise(40, height // 2, width // 2)
    assert module._is_exact(interpolation)
    ours = resize(iter(images), height, width, interpolation)
    assert torch.equal(ours, by_pillow(images, height, width, interpolation))
    assert ours.is_contiguous(memory_format=torch.channels_last)


def test_images_of_many_sizes_become_what_pillow_makes_of_them() -> None:
    sizes = [(128, 64), (128, 64), (61, 173), (256, 128), (1, 1), (400, 300), (128, 65)]
    images = [noise(1, height, width)[0] for height, width in sizes]
    assert torch.equal(resize(images, 256, 128, "bicubic"), by_pillow(images, 256, 128, "bicubic"))
    assert resize([], 256, 128, "bicubic").shape == (0, 3, 256, 128)


def test_a_torch_that_rounds_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(8, 128, 64)
    expected = by_pillow(images, 256, 128, "bicubic")
    right = module._doubled
    monkeypatch.setattr(module, "_doubled", lambda *given: right(*given) ^ 1)
    module._is_exact.cache_clear()
    try:
        assert not module._is_exact("bicubic")
        assert torch.equal(resize(images, 256, 128, "bicubic"), expected)
    finally:
        module._is_exact.cache_clear()

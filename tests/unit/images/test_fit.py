"""Ways to the network's size beside Pillow's resize of the whole, and what a store says of them."""

import itertools
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as vision
from conftest import GOLDEN
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform

from distreid.errors import OptionError
from distreid.images import fit as images_fit
from distreid.images.fit import PADDING, fit
from distreid.images.preprocess import Preprocess
from distreid.models.table import find_model

SIZES = ((61, 173), (128, 256), (300, 140), (64, 128), (33, 500), (7, 5))


def noise(width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def in_torchvision(image: NDArray[np.uint8], shorter: int, crop: int) -> NDArray[np.uint8]:
    picture = Image.fromarray(image)
    resized = vision.resize(picture, [shorter], vision.InterpolationMode.BICUBIC)
    return np.asarray(vision.center_crop(resized, [crop, crop]))


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("shorter", [224, 248, 256])
def test_a_crop_of_the_shorter_side_is_torchvisions(width: int, height: int, shorter: int) -> None:
    image = noise(width, height)
    got = fit(image, 224, 224, "bicubic", f"crop={shorter}")
    assert np.array_equal(got, in_torchvision(image, shorter, 224))


def test_what_is_too_small_for_its_crop_has_a_black_border_as_in_torchvision() -> None:
    image = noise(50, 80)
    got = fit(image, 64, 64, "bicubic", "crop=32")
    assert np.array_equal(got, in_torchvision(image, 32, 64))
    assert (got[:6] == 0).all()
    assert got.any()


def test_a_crop_without_a_number_covers_the_size() -> None:
    image = noise(100, 100)
    got = fit(image, 64, 32, "bilinear", "crop")
    whole = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR))
    assert np.array_equal(got, whole[:, 16:48])


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_timms_ways_are_its_own(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    resize = Image.Image.resize

    def across_first(self: Image.Image, size: tuple[int, int], method: int) -> Image.Image:
        """In the order of every Pillow before 13."""
        return resize(resize(self, (size[0], self.height), method), size, method)

    monkeypatch.setattr(Image.Image, "resize", across_first)
    image = noise(width, height)
    for size in ((256, 128), (224, 224)):
        for mode, part in itertools.product(("center", "squash", "border"), (0.875, 1.0)):
            own: dict[str, Any] = {"input_size": (3, *size), "crop_pct": part, "crop_mode": mode}
            wanted = create_transform(**own, interpolation="bicubic", normalize=False)
            options = {
                "architecture": "resnet18",
                "pretrained_cfg": {**own, "interpolation": "bicubic"},
            }
            got = find_model("auto", {}, options).preprocess.resize([image])[0]
            assert torch.equal(got, wanted(Image.fromarray(image))), (size, mode, part)


@pytest.mark.parametrize(
    ("way", "size"),
    [("crop", (256, 128)), ("crop=64", (32, 32)), ("crop=4096", (32, 16)),
     ("cover=64x32", (32, 16))],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(1, 400_000), (400_000, 1)])
def test_no_crop_takes_more_memory_than_its_middle(
    way: str, size: tuple[int, int], shape: tuple[int, int]
) -> None:
    image = np.full((*shape, 3), 7, np.uint8)
    tracemalloc.start()
    got = fit(image, *size, "bicubic", way)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert got.shape == (*size, 3)
    assert (got == 7).all()
    assert peak < 1 << 30


@pytest.mark.parametrize("way", ["crop", "crop=160"])
@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_the_middle_cut_beforehand_is_the_middle_of_the_whole(
    way: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = noise(300, 4)
    wanted = fit(image, 64, 32, name, way)
    monkeypatch.setattr(images_fit, "MOST_RESIZED", 1)
    got = fit(image, 64, 32, name, way)
    assert np.abs(got.astype(int) - wanted).max() <= 8


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_padding_keeps_the_whole_image_in_the_middle_of_imagenets_mean(
    width: int, height: int
) -> None:
    image = noise(width, height)
    got = fit(image, 256, 128, "opencv", "pad")
    factor = min(128 / width, 256 / height)
    wide, tall = int(width * factor), int(height * factor)
    inner = cv2.resize(image, (wide, tall), interpolation=cv2.INTER_LINEAR)
    top, left = (256 - tall) // 2, (128 - wide) // 2
    assert np.array_equal(got[top : top + tall, left : left + wide], inner)
    outside = np.ones((256, 128), bool)
    outside[top : top + tall, left : left + wide] = False
    assert (got[outside] == PADDING).all()


@pytest.mark.parametrize(("width", "height", "shown"), [(1, 1000, 64), (1000, 1, 32)])
def test_a_line_of_pixels_is_padded_too(width: int, height: int, shown: int) -> None:
    got = fit(np.full((height, width, 3), 7, np.uint8), 64, 32, "bilinear", "pad")
    assert (got == 7).all(axis=2).sum() == shown


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_opencv_is_cv2s_linear_interpolation(width: int, height: int) -> None:
    image = noise(width, height)
    got = Preprocess(interpolation="opencv").resize([image, image])
    wanted = cv2.resize(image, (128, 256), interpolation=cv2.INTER_LINEAR)
    assert got.shape == (2, 3, 256, 128)
    assert np.array_equal(got[1].movedim(0, -1).numpy(), wanted)


def test_lanczos_and_nearest_are_pillows() -> None:
    image = noise(61, 173)
    for name in ("lanczos", "nearest"):
        method = Image.Resampling[name.upper()]
        wanted = np.asarray(Image.fromarray(image).resize((128, 256), method))
        got = Preprocess(interpolation=name).resize([image])[0].movedim(0, -1).numpy()
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize("name", [f"{n:04d}" for n in range(1, 17)])
def test_read_for_opencv_an_image_has_the_pixels_of_cv2_imread(name: str) -> None:
    file = next((GOLDEN / "images").glob(f"{name}_*"))
    got = Preprocess().changed(interpolation="opencv").load(file)
    wanted = cv2.imread(str(file))
    assert wanted is not None
    assert np.array_equal(got, wanted[:, :, ::-1])


def test_bgr_turns_the_channels_and_mean_and_std_are_in_their_order() -> None:
    pixels = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    plain = Preprocess(mean=(0, 0, 0), std=(1, 1, 1))
    assert (plain.normalise(pixels) * 255).flatten().round().tolist() == [10, 20, 30]
    turned = plain.changed(channels="bgr", mean=(30 / 255, 0, 0))
    assert (turned.normalise(pixels) * 255).flatten().round().tolist() == [0, 20, 10]


def test_a_range_to_255_takes_mean_and_std_on_its_scale() -> None:
    pixels = torch.tensor([10, 20, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    raw = Preprocess().changed(range="0-255", mean=(0, 0, 0), std=(1, 1, 1))
    assert raw.normalise(pixels).flatten().tolist() == [10, 20, 255]
    imagenet = Preprocess().changed(
        range="0-255", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
    )
    torch.testing.assert_close(imagenet.normalise(pixels), Preprocess().normalise(pixels))


def test_what_version_0_1_0_knew_keeps_its_identity() -> None:
    old = {
        "height": 256,
        "width": 128,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "scale": "0..1",
        "colour": "RGB",
        "exif_orientation": "ignored",
    }
    assert Preprocess().identity() == old
    changed = Preprocess().changed(channels="bgr", keep_aspect="crop=256").identity()
    assert changed == old | {"colour": "BGR", "keep_aspect": "crop=256"}
    with_cv2 = Preprocess().changed(interpolation="opencv").identity()
    assert with_cv2["opencv"] == cv2.__version__
    assert with_cv2["exif_orientation"] == "applied"


def test_the_order_of_the_channels_leaves_the_cached_pixels_as_they_are() -> None:
    assert Preprocess(channels="bgr").pixel_identity() == Preprocess().pixel_identity()
    assert Preprocess(keep_aspect="pad").pixel_identity() != Preprocess().pixel_identity()


def test_cv2_is_asked_for_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(OptionError, match=r"--interpolation opencv: pip install 'distreid\[opencv"):
        Preprocess().changed(interpolation="opencv")


def test_an_empty_batch_has_no_image(tmp_path: Path) -> None:
    assert Preprocess(keep_aspect="pad").resize([]).shape == (0, 3, 256, 128)

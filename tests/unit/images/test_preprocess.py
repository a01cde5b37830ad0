import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from conftest import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from distreid.errors import ImageError
from distreid.images.preprocess import Preprocess, decode, read

INDEX = json.loads((GOLDEN / "images" / "index.json").read_text())["images"]


def sha256(pixels: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


@pytest.mark.parametrize("image", INDEX, ids=lambda image: image["kind"])
def test_decoded_pixels_are_those_that_the_peers_decode(image: dict[str, Any]) -> None:
    pixels = decode(read(GOLDEN / "images" / image["name"]))
    assert sha256(pixels) == image["sha256_rgb"]


@pytest.mark.skipif(PIL.__version__ < "13", reason="the sums were made with Pillow 13.0.0")
@pytest.mark.parametrize("image", INDEX, ids=lambda image: image["kind"])
def test_resized_pixels_are_those_that_the_peers_resize(image: dict[str, Any]) -> None:
    pixels = decode(read(GOLDEN / "images" / image["name"]))
    for key, expected in image["sha256_resized_rgb"].items():
        size, interpolation = key.split()
        height, width = map(int, size.split("x"))
        preprocess = Preprocess(height=height, width=width, interpolation=interpolation)
        assert sha256(preprocess.resize([pixels])[0].permute(1, 2, 0).numpy()) == expected, key


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(0, 99),
    st.sampled_from(["bicubic", "bilinear"]),
)
def test_jpegs_of_any_size_give_pillows_pixels(
    height: int, width: int, seed: int, interpolation: str
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=50 + seed // 2)
    method = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.open(buffer).convert("RGB").resize((128, 256), method))
    got = Preprocess(interpolation=interpolation).resize([decode(buffer.getvalue())])[0]
    assert np.array_equal(got.permute(1, 2, 0).numpy(), expected)


def test_normalisation_is_bit_for_bit_that_of_torchvision() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 128, 3), dtype=np.uint8)
    preprocess = Preprocess()
    peer = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(preprocess.mean, preprocess.std)]
    )
    ours = preprocess.normalise(preprocess.resize([pixels]))[0]
    assert torch.equal(ours, peer(Image.fromarray(pixels)))


def encoded(mode: str, kind: str, **how: Any) -> bytes:
    pixels = Image.effect_noise((64, 128), 90).convert("RGB").convert(mode)
    buffer = io.BytesIO()
    pixels.save(buffer, kind, **how)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        encoded("P", "PNG"),
        encoded("1", "PNG"),
        encoded("LA", "PNG"),
        encoded("RGB", "PNG"),
        encoded("RGB", "GIF"),
        encoded("RGB", "WEBP", lossless=True),
        encoded("RGB", "BMP"),
        encoded("RGB", "JPEG", progressive=True, subsampling="4:4:4"),
        encoded("CMYK", "JPEG"),
    ],
    ids=["palette", "1-bit", "alpha", "png", "gif", "webp", "bmp", "progressive", "cmyk"],
)
def test_every_kind_gives_what_pillow_converts_to_rgb(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(decode(data), np.asarray(image.convert("RGB")))


JPEG = encoded("RGB", "JPEG")


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", JPEG[: len(JPEG) // 2], JPEG[:100], encoded("RGB", "PNG")[:500]],
    ids=["empty", "text", "half a jpeg", "a jpeg's head", "a cut png"],
)
def test_what_cannot_be_decoded_is_an_error_in_one_line(data: bytes) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused() -> None:
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    with pytest.raises(ImageError, match="decompression bomb"):
        decode(buffer.getvalue())


def test_a_pipe_named_like_an_image_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read(tmp_path / "a.jpg")


def test_a_folder_named_like_an_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(ImageError):
        read(tmp_path / "a.jpg")


def test_a_dangling_link_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "a.jpg")

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distreid.cameras import INSTEAD, camera_indices
from distreid.errors import DataError, OptionError
from distreid.inference import Augmentation, Extractor
from distreid.manifest import NO_CAMERA, Manifest, build_manifest
from distreid.models.architecture import Architecture
from distreid.models.checkpoint import Model, load_model
from distreid.models.vit import ClassToken
from distreid.options import CAMERA_EMBEDDINGS


def manifest(*cameras: int) -> Manifest:
    path = [f"{number}.jpg".encode() for number in range(len(cameras))]
    return build_manifest(root=Path("/data"), layout="csv", path=path, camera_id=list(cameras))


@pytest.fixture(scope="module")
def plain() -> Model:
    return load_model("sample")


@pytest.fixture(scope="module")
def six(plain: Model) -> Architecture:
    return replace(plain.architecture, cameras=6)


def indices(rows: Manifest, architecture: Architecture, choice: str) -> list[int]:
    got = camera_indices(rows, architecture, choice)
    assert got is not None
    return got.tolist()


def test_camera_1_has_the_first_embedding(six: Architecture) -> None:
    assert indices(manifest(1, 6, 3), six, "auto") == [0, 5, 2]


def test_mean_and_none_are_every_images_also_of_known_cameras(six: Architecture) -> None:
    assert indices(manifest(1, 9, NO_CAMERA), six, "mean") == [-2, -2, -2]
    assert indices(manifest(1, 9, NO_CAMERA), six, "none") == [-1, -1, -1]
    assert ("auto", *INSTEAD) == CAMERA_EMBEDDINGS


@pytest.mark.parametrize(
    ("cameras", "said"),
    [
        ((1, 7, 8), r"row 1, /data/1\.jpg: camera 7, .* knows cameras 1 to 6 \(2 such images\)"),
        ((0, 1), r"row 0, /data/0\.jpg: camera 0, "),
        ((2, NO_CAMERA), r"row 1, /data/1\.jpg: no camera, .*--camera-embedding mean or none"),
    ],
)
def test_a_camera_that_the_network_does_not_know_is_refused(
    six: Architecture, cameras: tuple[int, ...], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        camera_indices(manifest(*cameras), six, "auto")


def test_embeddings_that_nobody_can_tell_apart_are_not_used(six: Architecture) -> None:
    with pytest.raises(DataError, match="camera 1, and the network knows none"):
        camera_indices(manifest(1), replace(six, cameras=0), "auto")


def test_a_network_without_cameras_takes_none(plain: Model) -> None:
    assert camera_indices(manifest(1, NO_CAMERA), plain.architecture, "auto") is None
    with pytest.raises(OptionError, match="--camera-embedding mean: this network has none"):
        camera_indices(manifest(1), plain.architecture, "mean")


class Camera(nn.Module):
    """A feature that shows only the camera, in either mirror image."""

    def forward(self, images: Tensor, cameras: Tensor) -> Tensor:
        return nn.functional.one_hot(cameras, 30).float()


@pytest.mark.parametrize("flip", [True, False])
def test_every_image_of_a_batch_gets_its_own_camera(plain: Model, flip: bool) -> None:
    extract = Extractor(
        replace(plain, network=Camera()),
        Augmentation(flip=flip),
        precision="fp32",
        device=torch.device("cpu"),
        threads=3,
    )
    cameras = torch.arange(30).flip(0)
    features, _ = extract(torch.zeros(30, 3, 4, 4, dtype=torch.uint8), cameras)
    assert features.argmax(1).tolist() == cameras.tolist()


@pytest.fixture(scope="module")
def sie_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A DeiT-small of TransReID with so many cameras and random weights."""

    def save(cameras: int) -> Path:
        torch.manual_seed(0)
        network = ClassToken(dim=384, tokens=129, stride=16, cameras=cameras)
        for weights in (network.pos_embed, network.cls_token, network.sie_embed):
            nn.init.normal_(weights)
        file = tmp_path_factory.mktemp("sie") / "transformer_120.pth"
        torch.save({f"base.{key}": value for key, value in network.state_dict().items()}, file)
        return file

    return save

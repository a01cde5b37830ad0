from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Run, draw
from torch import Tensor, nn

import distreid
from distreid.data.manifest import NO_CAMERA, Manifest, build_manifest
from distreid.errors import DataError, OptionError
from distreid.inference.extractor import Extractor
from distreid.inference.views import Augmentation
from distreid.job.options import CAMERA_EMBEDDINGS
from distreid.models.architecture import Architecture
from distreid.models.camera_embedding import INSTEAD, camera_indices, embedding_identity
from distreid.models.checkpoint import Model, load_model
from distreid.models.vit import ClassToken
from distreid.store import FeatureStore


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


def test_a_camera_has_an_embedding_for_each_viewpoint(six: Architecture) -> None:
    both = replace(six, viewpoints=8)
    rows = manifest(1, 6, 3)
    with pytest.raises(DataError, match="have no column 'viewpoint', which counts from 0"):
        camera_indices(rows, both, "auto")
    rows.extra["viewpoint"] = np.array([b"0", b"7", b"2"])
    # As CLIP-ReID and TransReID count: the camera from 0, times the viewpoints, plus the viewpoint.
    assert indices(rows, both, "auto") == [0, 47, 18]
    assert indices(rows, both, "none") == [-1, -1, -1]
    rows.extra["viewpoint"] = np.array([b"0", b"8", b""])
    with pytest.raises(DataError, match=r"row 1, /data/1\.jpg: viewpoint is '8', and .* 0 to 7"):
        camera_indices(rows, both, "auto")


def test_viewpoints_are_of_the_identity_only_where_images_take_them(six: Architecture) -> None:
    both = replace(six, viewpoints=8)
    assert embedding_identity(six, "auto") == {"camera_embedding": "auto"}
    assert embedding_identity(both, "auto") == {"camera_embedding": "auto", "viewpoints": 8}
    assert embedding_identity(both, "mean") == {"camera_embedding": "mean"}
    assert embedding_identity(replace(six, cameras=None), "auto") == {}


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


def test_a_vehicle_takes_the_embedding_of_its_camera_and_viewpoint(
    tmp_path: Path, run_here: Run
) -> None:
    torch.manual_seed(0)
    network = ClassToken(dim=384, tokens=257, stride=16, cameras=160)
    for weights in (network.pos_embed, network.cls_token, network.sie_embed):
        nn.init.normal_(weights)
    file = tmp_path / "transformer_120.pth"
    torch.save({f"base.{key}": value for key, value in network.state_dict().items()}, file)
    for name in ("a.jpg", "b.jpg"):
        draw(tmp_path / name, 1)
    (tmp_path / "cars.csv").write_text("path,vehicleID,cam,viewID\na.jpg,1,20,7\nb.jpg,1,1,0\n")
    found = run_here(
        *("distreid", "extract", "--data", tmp_path / "cars.csv", "--checkpoint", file),
        *("--out", tmp_path / "run", "--no-evaluate"),
    )
    assert found.returncode == 0, found.stderr
    ours = FeatureStore.open(tmp_path / "run").features(np.arange(2))
    loaded = distreid.load_model(file)
    expected = loaded.features([tmp_path / "a.jpg"] * 2, cameras=[20, 1], viewpoints=[7, 0])
    assert np.array_equal(ours, expected)
    assert not np.array_equal(ours[0], ours[1])
    with pytest.raises(ValueError, match="give cameras= and viewpoints="):
        loaded.features([tmp_path / "a.jpg"], cameras=[1])
    with pytest.raises(ValueError, match="viewpoints: 1 numbers from 0 to 7 are wanted"):
        loaded.features([tmp_path / "a.jpg"], cameras=[1], viewpoints=[8])

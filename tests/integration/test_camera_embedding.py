"""Camera embeddings from the command line to the store."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw
from torch import nn

from distreid import extract as command
from distreid.cli import main
from distreid.models.vit import ClassToken
from distreid.store import FeatureStore


def save_deit(file: Path, cameras: int) -> Path:
    """A DeiT-small of TransReID with so many cameras and random weights."""
    torch.manual_seed(0)
    network = ClassToken(dim=384, tokens=129, stride=16, cameras=cameras)
    for weights in (network.pos_embed, network.cls_token, network.sie_embed):
        nn.init.normal_(weights)
    torch.save({f"base.{key}": value for key, value in network.state_dict().items()}, file)
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One picture in three files, of the cameras 1, 2 and 3."""
    for camera in (1, 2, 3):
        draw(tmp_path / f"{camera}.png", seed=1)
    rows = "".join(f"{camera}.png,1,{camera},query\n" for camera in (1, 2, 3))
    (tmp_path / "rows.csv").write_text("path,person_id,camera_id,split\n" + rows)
    return tmp_path / "rows.csv"


def test_each_image_takes_its_cameras_embedding_or_all_take_the_mean(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three, two = save_deit(tmp_path / "three.pth", 3), save_deit(tmp_path / "two.pth", 2)

    def extract(file: Path, out: Path, *more: str) -> "tuple[int, str]":
        line = ["--data", data, "--checkpoint", file, "--out", out, "--no-evaluate", *more]
        status = command.main([*map(str, line), "--num-workers", "0"])
        return status, " ".join(capsys.readouterr().err.split())

    status, said = extract(three, tmp_path / "own")
    assert status == 0, said
    assert "cameras: an embedding of each of 3" in said
    store = FeatureStore.open(tmp_path / "own")
    assert store.plan.identity["model"]["camera_embedding"] == "auto"
    first, second, third = store.features(np.arange(3))
    assert not np.allclose(first, second, atol=0.01)
    assert not np.allclose(second, third, atol=0.01)

    status, said = extract(two, tmp_path / "mean")
    assert status == 2
    assert "3.png: camera 3, and the network knows cameras 1 to 2 (1 such images)" in said
    status, said = extract(two, tmp_path / "mean", "--camera-embedding", "mean")
    assert status == 0, said
    assert "warning: every image takes the mean of all cameras' embeddings" in said
    rows = FeatureStore.open(tmp_path / "mean").features(np.arange(3))
    assert (rows == rows[0]).all()

    # A gallery of one kind of features is searched by an image, which has no camera.
    for out, checkpoint in (("mean", two), ("own", three)):
        gallery, image = str(tmp_path / f"gallery_{out}"), str(tmp_path / "2.png")
        assert main(["gallery", "create", gallery, "--run", str(tmp_path / out)]) == 0
        asked = ["search", gallery, "--image", image, "--checkpoint", str(checkpoint), "--json"]
        capsys.readouterr()
        status, answer = main(asked), capsys.readouterr()
        if out == "mean":
            assert status == 0, answer.err
            found = json.loads(answer.out)["answers"][0]["found"]
            assert found[0]["score"] == pytest.approx(1, abs=1e-5)
        else:
            assert status == 2
            assert "has an embedding of each camera, which an image alone does not" in answer.err

    status, said = extract(three, tmp_path / "own", "--camera-embedding", "none")
    assert status == 2
    assert "camera_embedding" in said

"""Checkpoints as people have them, through the command: what it takes, says and refuses."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from conftest import GOLDEN, Run
from safetensors.torch import save_file
from torch import nn

from distreid.store import FeatureStore

IMAGES = GOLDEN / "images"


def extract(run_here: Run, file: Path, out: Path, *options: str) -> FeatureStore:
    found = run_here(
        *("distreid", "extract", "--data", IMAGES, "--checkpoint", file, "--out", out),
        *("--layout", "folder", "--no-evaluate", *options),
    )
    assert found.returncode == 0, found.stderr
    return FeatureStore.open(out)


def own(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A ResNet-18 with a neck as an own training would save it."""
    torch.manual_seed(0)
    body = torchvision.models.resnet18(weights=None)
    state = {f"model.backbone.{k}": v for k, v in body.state_dict().items()}
    state |= {f"model.neck.{k}": v for k, v in nn.BatchNorm1d(512).state_dict().items()}
    state["model.classifier.weight"] = torch.zeros(751, 512)
    file = folder / "own.safetensors"
    save_file(state, file)
    return file, state


def test_the_choices_are_said_and_stand_in_the_identity(run_here: Run, tmp_path: Path) -> None:
    file, _ = own(tmp_path)
    said = run_here("distreid", "inspect", "--checkpoint", file)
    assert said.returncode == 0
    text = " ".join(said.stdout.split())
    assert "resnet18 under 'model.backbone'" in text
    assert "(--feature says otherwise)" in text
    store = extract(
        *(run_here, file, tmp_path / "run", "--feature", "before-neck", "--last-stride", "2"),
        *("--pooling", "gem=3", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"),
        *("--channels", "bgr", "--keep-aspect", "pad", "--input-size", "64x32"),
    )
    identity = store.plan.identity
    assert identity["model"] == {
        "name": "resnet18",
        "feature": "last map pooled by gem=3",
        "last_stride": 2,
        "pooling": "gem=3",
    }
    preprocess = identity["preprocess"]
    assert (preprocess["colour"], preprocess["keep_aspect"]) == ("BGR", "pad")
    assert (preprocess["height"], preprocess["width"]) == (64, 32)
    assert (list(preprocess["mean"]), list(preprocess["std"])) == ([0.5] * 3, [0.25] * 3)
    other = run_here(
        *("distreid", "extract", "--data", IMAGES, "--checkpoint", file, "--out", tmp_path / "run"),
        *("--layout", "folder", "--no-evaluate", "--input-size", "64x32"),
    )
    assert other.returncode == 2
    assert "preprocess" in other.stderr


def hyper(folder: Path) -> Path:
    class Call:
        def __reduce__(self) -> Any:
            import os

            return os.system, (f"touch {folder}/ran",)

    torch.save({"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": Call()}, folder / "a.ckpt")
    return folder / "a.ckpt"


def bomb(folder: Path) -> Path:
    torch.save({"a": torch.zeros(1)}, folder / "plain.pth")
    with (
        zipfile.ZipFile(folder / "plain.pth") as old,
        zipfile.ZipFile(folder / "a.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, bytes(1 << 30) if name.endswith("data/0") else old.read(name))
    return folder / "a.pth"


def terabyte(folder: Path) -> Path:
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", 10**12) + b"{}")
    return folder / "a.safetensors"


def two(folder: Path) -> Path:
    _, state = own(folder)
    torch.save({"teacher": state, "student": state}, folder / "a.pth")
    return folder / "a.pth"


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (hyper, (), "holds posix.system, which loading would run"),
        (bomb, (), "not a checkpoint, or a damaged one|far more memory"),
        (terabyte, (), "a header of 1,000,000,000,000 bytes is missing"),
        (two, (), r"teacher \(\d+ tensors\), student \(\d+ tensors\); --weights NAME chooses"),
        (two, ("--weights", "third"), "--weights third: .* has no such weights"),
        (lambda f: own(f)[0], ("--pooling", "median"), "--pooling median: choose one of"),
        (lambda f: own(f)[0], ("--mean", "0.5"), "three numbers separated by commas"),
        (lambda f: own(f)[0], ("--semantic-weight", "0.5"), "leaves no such choice"),
        (lambda f: own(f)[0], ("--keep-aspect", "crop=x"), "--keep-aspect crop=x: choose one of"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_writes_nothing(
    make: Any, options: tuple[str, ...], message: str, run_here: Run, tmp_path: Path
) -> None:
    import re

    found = run_here(
        *("distreid", "extract", "--data", IMAGES, "--checkpoint", make(tmp_path)),
        *("--out", tmp_path / "run", "--layout", "folder", *options),
    )
    assert found.returncode == 2
    errors = [line for line in found.stderr.splitlines() if line.startswith("distreid: error: ")]
    assert len(errors) == 1
    assert re.search(message, errors[0]), errors[0]
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "ran").exists()

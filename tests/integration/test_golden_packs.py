"""The golden packs through the command, as their users would give them, by the engines of a CPU;
test_extractor.py has torch. A graph is converted once for both. ONNX Runtime, which gets the same
graph, computes one pack of each project, and with DISTREID_ALL_PACKS=1 all of them."""

import contextlib
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, GOLDEN_MODELS, GOLDEN_SAID, Pack
from PIL import Image

from distreid import extract
from distreid.images.tall_images import resized_vertically_first
from distreid.inference.engines import ENGINES, choose_engine
from distreid.inference.openvino_engine import OpenVINO
from distreid.models.choices import Choices, flag
from distreid.store import FeatureStore

CPU = torch.device("cpu")
SOMETIMES_BY_TORCH = ("openvino", "person_reid_baseline_pytorch/ft_net_swinv2_512")
"""OpenVINO 2026.4 has been seen to give other features of it (cosine 0.998), and right ones."""


OF_EACH_PROJECT = {name.partition("/")[0]: name for name in reversed(GOLDEN_MODELS)}
BY_ALL_ENGINES = GOLDEN_MODELS if "DISTREID_ALL_PACKS" in os.environ else OF_EACH_PROJECT.values()


@pytest.mark.parametrize("name", GOLDEN_MODELS)
def test_a_golden_pack_through_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    golden = Pack(GOLDEN / name)
    choices = GOLDEN_SAID.get(name, Choices()).given()
    options = [text for field, value in choices.items() for text in (flag(field), str(value))]
    if name.endswith("_ms"):  # the peer ran with --ms 1,1.1,1.2
        options += ["--scales", "1,1.1,1.2", "--scale-mode", "compound"]
    checkpoint = golden.save(tmp_path / "in")
    images = tmp_path / "images"
    images.mkdir()
    some = slice(None, None, 4 if golden.is_large else 1)
    for image in golden.images[some]:
        shutil.copy(image, images)
    shown = [file.name for file in golden.images[some]]
    theirs = dict(zip(shown, golden.features[some], strict=True))
    for engine in ENGINES if name in BY_ALL_ENGINES else [OpenVINO.name]:
        said, out = io.StringIO(), tmp_path / engine
        chosen = [] if engine == choose_engine("auto", "fp32", CPU) else ["--engine", engine]
        with contextlib.redirect_stderr(said):
            status = extract.main(
                [
                    *("--data", str(images), "--pattern", r"(?P<person>\d+)_c(?P<camera>\d+)s"),
                    *("--checkpoint", str(checkpoint), "--out", str(out)),
                    *("--device", "cpu", "--no-evaluate", *options, *chosen),
                ]
            )
        assert status == 0, said.getvalue()
        store = FeatureStore.open(out)
        identity = store.plan.identity
        taken = identity.get("engine", "torch")
        if (engine, name) != SOMETIMES_BY_TORCH:
            assert taken == engine, said.getvalue()
        ours = store.features(np.arange(len(store.manifest)))
        names = [path.decode() for path in store.manifest.path]
        assert sorted(names) == sorted(theirs)
        for feature, image in zip(ours, names, strict=True):
            with Image.open(images / image) as opened:
                width, height = opened.size
            if resized_vertically_first(height, width, *_size(identity)):
                continue  # the packs were made with Pillow 13, which resizes it in another order
            assert float(feature @ theirs[image]) >= 0.99999, (engine, image)


def _size(identity: dict[str, object]) -> tuple[int, int]:
    preprocess = identity["preprocess"]
    assert isinstance(preprocess, dict)
    return preprocess["height"], preprocess["width"]

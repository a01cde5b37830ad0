"""The golden packs through the command, as their users would give them, by the engines of a CPU;
test_extractor.py has all of them by torch. A graph is converted once for both engines. ONNX
Runtime, which gets the same graph, computes one pack of each project. With DISTREID_ALL_PACKS=1
each engine computes every pack."""

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


# Of another pack each has the layers, with other weights or without the last one.
LIKE_ANOTHER = (
    "fastreid/bagtricks_R50-ibn",
    "fastreid/bagtricks_R50_embed512",
    "fastreid/osnet_x1_0",
    "open_metric_learning/vits16_mlp384",
    "person_reid_baseline_pytorch/ft_net_r50_s1_512",
    "person_reid_baseline_pytorch/ft_net_r50_s2_512_module",
    "person_reid_baseline_pytorch/ft_net_r50_s2_512_ms",
    "person_reid_baseline_pytorch/ft_net_r50_s2_512_swa",
    "person_reid_baseline_pytorch/ft_net_r50_s2_linear0",
    "person_reid_baseline_pytorch/ft_net_swinv2_512",
    "reid_strong_baseline/resnet50_before",
    "reid_strong_baseline/resnet50_ibn_a_before",
    "roboflow_reid/osnet_x1_0",
    "solider_reid/swin_tiny_sw1",
    "torchreid/osnet_x0_25_module",
    "transreid_ssl/vit_small",
)
OF_EACH_PROJECT = {
    name.partition("/")[0]: name for name in GOLDEN_MODELS if name not in LIKE_ANOTHER
} | {  # smaller ones
    "clipreid": "clipreid/rn50",
    "person_reid_baseline_pytorch": "person_reid_baseline_pytorch/ft_net_r50_s2_512",
    "transreid": "transreid/deit_small",
}
ALL = "DISTREID_ALL_PACKS" in os.environ
BY_ALL_ENGINES = GOLDEN_MODELS if ALL else [*OF_EACH_PROJECT.values()]


@pytest.mark.parametrize(
    "name", [each for each in GOLDEN_MODELS if ALL or each not in LIKE_ANOTHER]
)
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
    on_a_cpu = [each for each, engine in ENGINES.items() if engine.device == "cpu"]
    for engine in on_a_cpu if name in BY_ALL_ENGINES else [OpenVINO.name]:
        said, out = io.StringIO(), tmp_path / engine
        chosen = [] if engine == choose_engine("auto", "fp32", CPU) else ["--engine", engine]
        with contextlib.redirect_stderr(said):
            status = extract.main(
                [
                    *("--data", str(images), "--pattern", r"(?P<person>\d+)_c(?P<camera>\d+)s"),
                    *("--checkpoint", str(checkpoint), "--out", str(out)),
                    *("--device", "cpu", "--num-workers", "0", "--no-evaluate"),
                    *(*options, *chosen),
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

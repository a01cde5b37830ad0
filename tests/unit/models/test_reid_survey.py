"""AGW of ReID-Survey, against a loop over torchvision's layers with the formulas of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from distreid.errors import CheckpointError
from distreid.models.checkpoint import load_model

NON_LOCAL = {2: 2, 3: 3}  # how many follow the last blocks of a stage


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    block = network.layer4[0]
    block.conv2.stride = block.downsample[0].stride = (1, 1)
    return network


def norm(features: int) -> dict[str, Tensor]:
    names = ("weight", "bias", "running_mean")
    return {name: torch.randn(features) for name in names} | {
        "running_var": torch.rand(features) + 0.5
    }


def file_of(network: Any, *, non_local: bool, gem: bool) -> dict[str, Tensor]:
    state = {f"base.{k}": v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    if non_local:
        for stage, count in NON_LOCAL.items():
            channels = 128 << stage
            for place in range(count):
                name = f"base.NL_{stage}.{place}"
                for part in ("g", "theta", "phi"):
                    state[f"{name}.{part}.weight"] = torch.randn(1, channels, 1, 1) * 0.001
                    state[f"{name}.{part}.bias"] = torch.randn(1) * 0.1
                state[f"{name}.W.0.weight"] = torch.randn(channels, 1, 1, 1) * 0.01
                state[f"{name}.W.0.bias"] = torch.randn(channels) * 0.1
                state |= {f"{name}.W.1.{leaf}": value for leaf, value in norm(channels).items()}
    if gem:
        state["global_pool.p"] = torch.tensor([2.5])
    state |= {f"bottleneck.{leaf}": value for leaf, value in norm(2048).items()}
    return state | {"classifier.weight": torch.zeros(751, 2048)}


def normed(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    mean, variance, weight, bias = (
        state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    shape = (1, -1, *[1] * (x.ndim - 2))
    scale = (weight / (variance + 1e-5).sqrt()).view(shape)
    return (x - mean.view(shape)) * scale + bias.view(shape)


def looked_around(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    def project(part: str) -> Tensor:
        weight = state[f"{name}.{part}.weight"][:, :, 0, 0]
        return torch.einsum("bchw,dc->bdhw", x, weight) + state[f"{name}.{part}.bias"][0]

    g, theta, phi = (project(part)[:, 0].flatten(1) for part in ("g", "theta", "phi"))
    y = theta * (phi * g).mean(1, keepdim=True)  # one inner channel: theta_i Σ_j phi_j g_j / N
    weight, bias = state[f"{name}.W.0.weight"][:, 0, 0, 0], state[f"{name}.W.0.bias"]
    by_channel = (1, -1, 1, 1)
    spread = y.reshape(len(x), 1, *x.shape[2:]) * weight.view(by_channel) + bias.view(by_channel)
    return x + normed(spread, state, f"{name}.W.1")


@pytest.mark.parametrize(("non_local", "gem"), [(True, True), (True, False), (False, True)])
def test_features_are_those_of_the_papers_formulas(
    network: Any, tmp_path: Path, non_local: bool, gem: bool
) -> None:
    state = file_of(network, non_local=non_local, gem=gem)
    torch.save(state, tmp_path / "a.pth")
    model = load_model(str(tmp_path / "a.pth"))
    architecture = model.architecture
    assert (architecture.name, architecture.peer) == ("reid_survey", "ReID-Survey")
    assert architecture.classes == 751
    assert any("no ReLU" in note for note in architecture.notes) == (not non_local)
    images = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        x = network.maxpool(network.bn1(network.conv1(images)))
        for stage in range(1, 5):
            blocks = getattr(network, f"layer{stage}")
            count = NON_LOCAL.get(stage, 0) if non_local else 0
            for place, block in enumerate(blocks):
                x = block(x)
                if (number := place - len(blocks) + count) >= 0:
                    x = looked_around(x, state, f"base.NL_{stage}.{number}")
        exponent = 2.5 if gem else 1
        pooled = (x.clamp(min=1e-6) if gem else x).pow(exponent).mean((2, 3)).pow(1 / exponent)
        expected = normed(pooled, state, "bottleneck")
        torch.testing.assert_close(model.network(images), expected, rtol=1e-4, atol=1e-4)


def test_a_size_is_read_from_its_configuration(network: Any, tmp_path: Path) -> None:
    torch.save(file_of(network, non_local=True, gem=True), tmp_path / "a.pth")
    (tmp_path / "config.yaml").write_text("INPUT:\n  IMG_SIZE: [384, 128]\n")
    preprocess = load_model(str(tmp_path / "a.pth")).architecture.preprocess
    assert (preprocess.height, preprocess.width, preprocess.interpolation) == (384, 128, "bilinear")


def test_a_body_that_the_project_has_not(network: Any, tmp_path: Path) -> None:
    state = file_of(network, non_local=True, gem=True)
    shallow = {key: value for key, value in state.items() if not key.startswith("base.layer3.5")}
    torch.save(shallow, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a body with 5 blocks in its third stage; known are"):
        load_model(str(tmp_path / "a.pth"))

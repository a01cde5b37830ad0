"""What is read off the files of the projects whose golden packs the extractor's tests compare."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDEN, Pack
from torch import Tensor

from distreid.errors import CheckpointError, OptionError
from distreid.models.architecture import Architecture
from distreid.models.checkpoint import load_model
from distreid.models.choices import Choices
from distreid.models.table import find_model

SOLIDER = "solider_reid/swin_tiny"
STRONG = "reid_strong_baseline/resnet50_after"
SSL = "transreid_ssl/resnet50_backbone"
PASS = "pass_reid/pass_vit_small"
OML = "open_metric_learning/resnet50_projector_gem5"
MM = "mmtracking/resnet50_reid_pipeline"


def shapes(pack: str) -> dict[str, Tensor]:
    spec = json.loads((GOLDEN / pack / "spec.json").read_text())
    entries = spec["checkpoint"]["entries"]
    return {entry[0]: torch.empty(entry[1], device="meta") for entry in entries}


def found(pack: str, options: dict[str, Any] | None = None, **said: Any) -> Architecture:
    return find_model("auto", shapes(pack), options or {}, None, Choices(**said))


@pytest.mark.parametrize(
    ("pack", "name", "peer", "feature"),
    [
        (STRONG, "strong_baseline", "reid-strong-baseline", "pooled last map, batch norm"),
        (SSL, "transreid_ssl_cnn", "TransReID-SSL", "pooled last map"),
        (SOLIDER, "solider", "SOLIDER", "mean of the normed last tokens"),
        (PASS, "pass", "PASS", "the whole's token and the mean of the parts'"),
        (MM, "mmtracking", "mmtracking", None),
        (OML, "oml", "open-metric-learning", None),
        ("boxmot/lmbn_n", "lmbn_n", "BoxMOT", None),
        ("deep_sort_pytorch/ckpt_test", "deep_sort", "deep_sort_pytorch", "pooled layer4"),
    ],
)
def test_a_project_is_recognised_by_its_weights(
    pack: str, name: str, peer: str, feature: str | None
) -> None:
    architecture = found(pack)
    assert (architecture.name, architecture.peer) == (name, peer)
    assert feature in (None, architecture.feature)


def test_the_stem_of_the_cnns_of_one_frame_is_told_by_the_order_of_the_names() -> None:
    assert found(STRONG).options["stem_relu"] is False
    assert "stem_relu" not in found(SSL).options
    assert found(SSL).options["small_max_pool"]
    assert any("--model transreid_cnn" in note for note in found(SSL).notes)
    other = find_model("transreid_cnn", shapes(SSL), {})
    assert other.options["stem_relu"] is False
    ibn = found("reid_strong_baseline/resnet50_ibn_a_before")
    assert "stem_relu" not in ibn.options


@pytest.mark.parametrize("pack", [STRONG, SSL, SOLIDER, PASS])
def test_neck_feat_of_a_config_yaml_and_the_option_before_it(pack: str) -> None:
    for neck in ("before", "after"):
        by_file = found(pack, {"TEST": {"NECK_FEAT": neck}})
        by_option = found(pack, feature=f"{neck}-neck")
        assert by_file.identity() == by_option.identity()
        assert by_file.feature.endswith("batch norm") == (neck == "after")
        against = found(pack, {"TEST": {"NECK_FEAT": neck}}, feature="before-neck")
        assert not against.feature.endswith("batch norm")


def test_passs_neck_is_a_batch_norm_for_each_token() -> None:
    architecture = found(PASS, feature="after-neck")
    state = Pack(GOLDEN / PASS).state
    networks = []
    for one in (found(PASS), architecture):
        network = one.build().eval()
        kept = {k: v for k, v in state.items() if not k.startswith(one.not_for_features)}
        network.load_state_dict({one.rename(k): v for k, v in kept.items()})
        networks.append(network)
    images = torch.randn(2, 3, 256, 128)
    with torch.inference_mode():
        raw, normed = (network(images) for network in networks)

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    torch.testing.assert_close(normed[:, :384], norm(raw[:, :384], "bottleneck"))
    # Each part has its own norm: of the mean of three, no single one gives the result.
    assert not torch.allclose(normed[:, 384:], norm(raw[:, 384:], "bottleneck_1"), atol=1e-3)
    fused = shapes(PASS) | {"classifier.weight": torch.empty(751, 384, device="meta")}
    assert find_model("auto", fused, {}).dim == 384


@pytest.mark.parametrize(
    ("options", "said", "weight", "guessed"),
    [
        ({}, {}, 0.2, True),
        ({}, {"semantic_weight": 0.7}, 0.7, False),
        ({"MODEL": {"SEMANTIC_WEIGHT": 1.0}}, {}, 1.0, False),
        ({"hyper_parameters": {"semantic_weight": 0.4}}, {}, 0.4, False),
        ({"hyper_parameters": {"semantic_weight": 0.4}}, {"semantic_weight": 0.0}, 0.0, False),
    ],
)
def test_soliders_semantic_weight_is_said_or_the_published_one(
    options: dict[str, Any], said: dict[str, Any], weight: float, guessed: bool
) -> None:
    architecture = found(SOLIDER, options, **said)
    assert architecture.options["semantic_weight"] == weight
    notes = [note for note in architecture.notes if "--semantic-weight" in note]
    assert bool(notes) == guessed


@pytest.mark.parametrize("prefix", ["", "model."])
def test_solider_is_found_in_a_lightning_frame(prefix: str) -> None:
    state = {prefix + key: value for key, value in shapes(SOLIDER).items()}
    architecture = find_model("auto", state, {})
    with torch.device("meta"):
        wanted = architecture.build().state_dict()
    given = {
        architecture.rename(key)
        for key in state
        if not key.startswith(architecture.not_for_features) and "position_index" not in key
    }
    assert given == set(wanted)


def test_the_hyper_parameters_of_lightning_are_read_as_plain_values(tmp_path: Path) -> None:
    golden = Pack(GOLDEN / SOLIDER)
    state = {f"model.{key}": value for key, value in golden.state.items()}
    hyper = {"semantic_weight": 0.3, "path": Path("/x"), "neck_feat": "before"}
    torch.save({"state_dict": state, "hyper_parameters": hyper}, tmp_path / "a.ckpt")
    model = load_model(str(tmp_path / "a.ckpt"))
    assert model.architecture.options["semantic_weight"] == 0.3
    assert model.checkpoint.options == {
        "hyper_parameters": {"semantic_weight": 0.3, "neck_feat": "before"}
    }


def test_omls_gem_comes_from_hydras_configuration_beside_the_run(tmp_path: Path) -> None:
    file = Pack(GOLDEN / OML).save(tmp_path / "checkpoints")
    assert "pooling" not in load_model(str(file)).architecture.options
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("extractor: {name: resnet, args: {gem_p: 5.0}}")
    assert load_model(str(file)).architecture.options["pooling"] == "gem=5.0"
    chosen = load_model(str(file), choices=Choices(pooling="gem=3"))
    assert chosen.architecture.options["pooling"] == "gem=3"


def test_omls_linear_layers_are_said_and_can_be_left_out() -> None:
    assert "--feature trunk leaves them out" in found(OML).notes[0]
    assert (found(OML).dim, found(OML, feature="trunk").dim) == (128, 2048)
    with pytest.raises(OptionError, match="have no batch norm neck"):
        found(OML, feature="after-neck")


def test_a_frame_of_other_heads_under_omls_prefix_is_not_taken_for_omls() -> None:
    state = {k: v for k, v in shapes("open_metric_learning/vits16").items()}
    state["model.model.head.weight"] = torch.empty(751, 384, device="meta")
    assert find_model("auto", state, {}).name == "timm:vit_small_patch16_224"


@pytest.mark.parametrize("pack", [SOLIDER, PASS, "transreid/deit_small", "fastreid/AGW_R50"])
def test_what_a_project_calls_its_classifier_is_no_embedding(pack: str) -> None:
    with pytest.raises(OptionError, match="--feature"):
        found(pack, feature="embedding")


def test_an_fc_under_omls_prefix_is_a_classifier_unless_oml_is_named() -> None:
    body = {k: v for k, v in shapes(OML).items() if ".fc." not in k and "projection" not in k}
    state = {**body, "model.model.fc.weight": torch.empty(751, 2048, device="meta")}
    state["model.model.fc.bias"] = torch.empty(751, device="meta")
    own = find_model("auto", state, {})
    assert (own.name, own.dim, own.classes) == ("resnet50", 2048, 751)
    assert find_model("auto", body, {}).name == "oml"
    named = find_model("oml", state, {})
    assert named.dim == 751
    assert {named.rename(key) for key in state} == set(named.build().state_dict())


def test_mmtrackings_network_is_found_in_a_whole_tracker() -> None:
    state = {f"reid.{key}": value for key, value in shapes(MM).items()}
    state["detector.backbone.conv1.weight"] = torch.empty(64, 3, 7, 7, device="meta")
    architecture = find_model("auto", state, {})
    assert (architecture.name, architecture.dim, architecture.classes) == ("mmtracking", 128, 380)
    assert "detector.backbone.conv1.weight" in architecture.not_for_features
    lacking = {k: v for k, v in shapes(MM).items() if "layer3" not in k}
    with pytest.raises(CheckpointError, match="no known network under"):
        find_model("auto", lacking, {})


HUB = {
    "architecture": "resnet18",
    "num_classes": 0,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
}


@pytest.mark.parametrize(
    ("changed", "aspect"),
    [
        ({}, "crop=256"),
        ({"crop_mode": "squash"}, "stretch=256x256"),
        ({"crop_mode": "squash", "crop_pct": 1.0}, "no"),
        ({"crop_mode": "border", "crop_pct": 1.0}, "border=224x224 on 128,128,128"),
        ({"crop_pct": 1.0}, "crop=224"),
        ({"input_size": [3, 256, 128]}, "cover=292x146"),
    ],
)
def test_timms_own_data_configuration_is_obeyed(changed: dict[str, Any], aspect: str) -> None:
    hub = {**HUB, "pretrained_cfg": {**HUB["pretrained_cfg"], **changed}}  # type: ignore[dict-item]
    architecture = find_model("auto", {}, hub)
    pre = architecture.preprocess
    assert (architecture.name, pre.keep_aspect, pre.mean) == ("timm:resnet18", aspect, (0.5,) * 3)
    stretched = find_model("auto", {}, hub, None, Choices(keep_aspect="no"))
    assert stretched.preprocess.keep_aspect == "no"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.pop("input_size"), "pretrained_cfg is damaged"),
        (lambda own: own.update(crop_pct=0), "center|damaged|not known"),
        (lambda own: own.update(interpolation="fancy"), "fancy, center: not known"),
        (lambda own: own.update(mean="red"), "pretrained_cfg is damaged"),
        (lambda own: own.update(crop_pct=0.001), r"crop_pct 0\.001 resizes to 224000×224000 pix"),
        (lambda own: own.update(crop_pct=1e-320), "pretrained_cfg is damaged"),
        (lambda own: own.update(crop_mode="border", mean=[2, 0, 0]), "pretrained_cfg is damaged"),
        (lambda own: own.update(crop_pct=-1), r"crop_pct -1 resizes to -224×-224 pixels"),
    ],
)
def test_a_damaged_config_json_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    hub = json.loads(json.dumps(HUB))
    change(hub["pretrained_cfg"])
    if message.startswith("center"):
        assert find_model("auto", {}, hub).preprocess.keep_aspect == "crop=256"  # 0: timm's default
        return
    with pytest.raises(CheckpointError, match=message):
        find_model("auto", {}, hub)

"""What is read off the checkpoints of fast-reid, TransReID and CLIP-ReID, without their weights."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from conftest import GOLDEN, Pack
from torch import Tensor, nn

from distreid.errors import CheckpointError
from distreid.models.architecture import MEAN_CAMERA, NO_CAMERA, Architecture
from distreid.models.checkpoint import load_model
from distreid.models.choices import Choices
from distreid.models.fastreid import RESNESTS
from distreid.models.fastreid_network import GeM
from distreid.models.table import find_model
from distreid.models.transreid import shuffle
from distreid.models.vit import SIZES, STRIDES, ViT, of_camera, peer_block, size_and_stride
from distreid.models.weights import read_checkpoint

AGW = "fastreid/AGW_R50"
BOT = "fastreid/bagtricks_R50-ibn"
SBS = "fastreid/sbs_R50-ibn"
MGN = "fastreid/mgn_R50-ibn"
JPM = "transreid/vit_transreid_stride12"
DEIT = "transreid/deit_small"


def shapes(pack: str) -> dict[str, Tensor]:
    """The names and shapes of a golden pack, without numbers."""
    spec = json.loads((GOLDEN / pack / "spec.json").read_text())
    entries = spec["checkpoint"]["entries"]
    return {entry[0]: torch.empty(entry[1], device="meta") for entry in entries}


def network_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = architecture.build().state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


def fits(architecture: Architecture, state: dict[str, Tensor]) -> bool:
    given = {
        architecture.rename(key): tuple(value.shape)
        for key, value in state.items()
        if not key.startswith(architecture.not_for_features)
    }
    return given == network_shapes(architecture)


def with_tokens(pack: str, tokens: int) -> dict[str, Tensor]:
    """The pack's shapes with so many position embeddings, and SIE rows of 6 cameras."""
    state = shapes(pack)
    dim = state["base.pos_embed"].shape[2]
    state["base.pos_embed"] = torch.empty(1, tokens, dim, device="meta")
    return state


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (129, (256, 128, 16)),
        (211, (256, 128, 12)),
        (243, (256, 128, 11)),
        (193, (384, 128, 16)),
        (311, (384, 128, 12)),
        (257, (256, 256, 16)),
        (442, (256, 256, 12)),
    ],
)
def test_size_and_stride_follow_from_the_number_of_position_embeddings(
    tokens: int, expected: tuple[int, int, int]
) -> None:
    assert size_and_stride(tokens, {}) == expected


def test_no_two_sizes_and_strides_have_the_same_number_of_position_embeddings() -> None:
    counts = [
        ((height - 16) // stride + 1) * ((width - 16) // stride + 1)
        for height, width in SIZES
        for stride in STRIDES
    ]
    assert len(set(counts)) == len(counts)


def test_another_size_comes_from_config_yaml_and_without_it_is_refused() -> None:
    with pytest.raises(CheckpointError, match="82 position embeddings fit no stride"):
        size_and_stride(82, {})
    assert size_and_stride(82, {"INPUT": {"SIZE_TEST": [144, 144]}}) == (144, 144, 16)


@pytest.mark.parametrize("tokens", [129, 211, 243, 193, 311, 257, 442])
@pytest.mark.parametrize("pack", [DEIT, JPM])
def test_transreid_fits_at_every_size_and_stride(pack: str, tokens: int) -> None:
    state = with_tokens(pack, tokens)
    architecture = find_model("auto", state, {})
    assert architecture.fixed_size
    assert fits(architecture, state)
    vehicles = architecture.preprocess.height == architecture.preprocess.width
    assert architecture.options.get("shift") == (None if pack == DEIT else 8 if vehicles else 5)


def test_the_parts_shuffle_is_a_roll_and_two_halves_in_turn() -> None:
    rolled_and_dealt = shuffle(torch.arange(6.0).view(1, 6, 1), shift=3)
    assert rolled_and_dealt.flatten().tolist() == [2, 5, 3, 0, 4, 1]
    # Odd: 1 2 3 4 0, and the last but one once more.
    assert shuffle(torch.arange(5.0).view(1, 5, 1), shift=2).flatten().tolist() == [
        1,
        4,
        2,
        0,
        3,
        4,
    ]


def test_a_camera_has_its_row_and_the_mean_and_nothing_stand_in_for_it() -> None:
    table = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    rows = of_camera(table, torch.tensor([1, MEAN_CAMERA, NO_CAMERA, 0]))
    assert rows.tolist() == [[3, 6], [2, 4], [0, 0], [1, 2]]


def test_without_an_embedding_a_vit_is_the_one_that_has_none() -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"dim": 64, "tokens": 5, "stride": 16}
    plain = ViT(**settings).eval()
    with_cameras = ViT(**settings, cameras=3, coefficient=3.0).eval()
    with_cameras.load_state_dict(plain.state_dict() | {"sie_embed": torch.randn(3, 1, 64)})
    images = torch.randn(2, 3, 32, 32)
    none = with_cameras(images, torch.full((2,), NO_CAMERA))
    assert torch.equal(none, plain(images))
    assert not torch.equal(with_cameras(images, torch.tensor([0, 1])), none)


@pytest.mark.parametrize(
    ("tokens", "rows", "said", "cameras", "viewpoints"),
    [
        (129, 30, None, 30, 1),
        (257, 20, None, 20, 1),
        (257, 160, None, 20, 8),
        (257, 160, 4, 40, 4),
        (257, 160, 1, 160, 1),
        (129, 30, 3, 10, 3),
    ],
)
def test_more_embeddings_of_a_square_input_than_veri_has_cameras_are_of_viewpoints_too(
    tokens: int, rows: int, said: int | None, cameras: int, viewpoints: int
) -> None:
    state = with_tokens(JPM, tokens) | {"base.sie_embed": torch.empty(rows, 1, 768, device="meta")}
    architecture = find_model("auto", state, {}, choices=Choices(viewpoints=said))
    assert (architecture.cameras, architecture.viewpoints) == (cameras, viewpoints)
    assert fits(architecture, state)


def test_embeddings_that_are_no_cameras_times_viewpoints_are_refused() -> None:
    state = with_tokens(JPM, 257) | {"base.sie_embed": torch.empty(150, 1, 768, device="meta")}
    with pytest.raises(CheckpointError, match="150 embeddings are not of cameras times 8 view"):
        find_model("auto", state, {})


def test_config_yaml_beside_the_weights_says_what_they_do_not_tell(tmp_path: Path) -> None:
    config = {"MODEL": {"SIE_COE": 2, "SHIFT_NUM": 7}, "TEST": {"NECK_FEAT": "before"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "a.pth")
    content = read_checkpoint(tmp_path / "a.pth")
    assert "options read from config.yaml beside it" in content.notes
    architecture = find_model("auto", shapes(JPM), content.options)
    assert architecture.options["coefficient"] == 2.0
    assert architecture.options["shift"] == 7
    assert architecture.notes == ()


@pytest.mark.parametrize(
    ("pack", "config", "message"),
    [
        (JPM, {"MODEL": {"SIE_COE": "much"}}, "MODEL.SIE_COE is 'much', not such as 3.0"),
        (DEIT, {"TEST": {"NECK_FEAT": "middle"}}, "NECK_FEAT is 'middle', not before or after"),
        (
            "clipreid/rn50",
            {"TEST": {"NECK_FEAT": "middle"}},
            "NECK_FEAT is 'middle', not before or after",
        ),
        (JPM, {"MODEL": {"RE_ARRANGE": False}}, "RE_ARRANGE is False; only True is supported"),
        (JPM, {"MODEL": {"DEVIDE_LENGTH": 6}}, "DEVIDE_LENGTH is 6; only 4 is supported"),
        (BOT, {"INPUT": {"CROP": {"ENABLED": True}}}, "CROP.ENABLED is True; only False"),
        (BOT, {"MODEL": {"PIXEL_MEAN": [0.5]}}, r"PIXEL_MEAN is \[0.5\], not three numbers"),
        (BOT, {"INPUT": {"SIZE_TEST": [256]}}, "not height and width"),
        (BOT, {"MODEL": {"HEADS": {"POOL_LAYER": "Max"}}}, "POOL_LAYER is Max; known are"),
    ],
)
def test_a_config_yaml_that_cannot_be_followed_is_refused(
    pack: str, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_model("auto", shapes(pack), config)


def recipe(architecture: Architecture) -> tuple[int, str, str]:
    options = architecture.options
    return architecture.preprocess.height, options["pool"], options["max_pool"]


@pytest.mark.parametrize(
    ("pack", "name", "expected"),
    [
        (BOT, "auto", (256, "GlobalAvgPool", "ceil")),
        (BOT, "fastreid_agw", (256, "GeneralizedMeanPooling", "ceil")),
        (BOT, "fastreid_bot_v0", (256, "GlobalAvgPool", "padded")),
        (AGW, "auto", (256, "GeneralizedMeanPooling", "ceil")),
        (AGW, "fastreid_bot", (256, "GlobalAvgPool", "ceil")),
        (SBS, "auto", (384, "GeneralizedMeanPoolingP", "ceil")),
        (SBS, "fastreid_agw_v0", (256, "GeneralizedMeanPoolingP", "padded")),
        (MGN, "auto", (384, "GeneralizedMeanPoolingP", "ceil")),
        ("fastreid/bagtricks_S50", "fastreid_bot", (256, "GlobalAvgPool", "padded")),
    ],
)
def test_fastreids_recipe_is_guessed_and_said_or_named(
    pack: str, name: str, expected: tuple[int, str, str]
) -> None:
    architecture = find_model(name, shapes(pack), {})
    assert recipe(architecture) == expected
    assert fits(architecture, shapes(pack))
    assert bool(architecture.notes) == (name == "auto")


def test_fastreids_own_config_yaml_decides_over_the_guess() -> None:
    config = {
        "INPUT": {"SIZE_TEST": [256, 256]},
        "MODEL": {"BACKBONE": {"LAST_STRIDE": 2}, "HEADS": {"POOL_LAYER": "gempool"}},
    }
    architecture = find_model("auto", shapes(BOT), config)
    assert recipe(architecture) == (256, "GeneralizedMeanPooling", "ceil")
    assert architecture.preprocess.width == 256
    assert architecture.options["last_stride"] == 2


@pytest.mark.parametrize(
    ("pack", "section", "white"),
    [(BOT, "MODEL", 255), ("fastreid/bagtricks_vit", "MODEL", 255), (DEIT, "INPUT", 1)],
)
def test_the_colours_of_config_yaml_are_those_of_the_preprocessing(
    pack: str, section: str, white: int
) -> None:
    colours = {"PIXEL_MEAN": [0.485 * white] * 3, "PIXEL_STD": [0.25 * white, white, 1.0 * white]}
    preprocess = find_model("auto", shapes(pack), {section: colours}).preprocess
    assert preprocess.mean == (0.485, 0.485, 0.485)
    assert preprocess.std == (0.25, 1, 1)


def test_mgn_has_the_stride_of_its_last_stage_in_the_first_copy_alone() -> None:
    config = {"MODEL": {"BACKBONE": {"LAST_STRIDE": 2}}}
    with torch.device("meta"):
        network = find_model("auto", shapes(MGN), config).build()
    strides = [
        network.get_submodule(f"{branch}.1.0.{layer}").stride[0]  # type: ignore[index]
        for branch in ("b1", "b2", "b3")
        for layer in ("conv2", "downsample.0")
    ]
    assert strides == [2, 2, 1, 1, 1, 1]


def small(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The shapes of the ViT-Small instead of the ViT-Base: 8 blocks, MLPs 3 times as wide."""
    found = {}
    for key, value in state.items():
        if any(f"blocks.{block}." in key for block in range(8, 12)) or key.endswith("qkv.bias"):
            continue
        shape = [2304 if side == 3072 else side for side in value.shape]
        found[key] = torch.empty(shape, device="meta")
    return found


@pytest.mark.parametrize("pack", ["fastreid/bagtricks_vit", JPM])
def test_the_vit_small_is_told_by_its_blocks(pack: str) -> None:
    state = small(shapes(pack))
    architecture = find_model("auto", state, {})
    assert fits(architecture, state)
    assert "small" in str(architecture.options)
    assert fits(find_model("auto", shapes(pack), {}), shapes(pack))


def test_a_block_of_the_vit_small_scales_by_the_width_of_all_heads() -> None:
    torch.manual_seed(0)
    block, tokens = peer_block(64, small=True).eval(), torch.randn(2, 5, 64)
    normed = block.norm1(tokens)  # type: ignore[operator]
    query, key, value = (
        normed @ part.T for part in block.get_parameter("attn.qkv.weight").chunk(3)
    )
    heads = [
        (query[..., head] @ key[..., head].transpose(1, 2) / 8).softmax(2) @ value[..., head]
        for head in map(slice, range(0, 64, 8), range(8, 65, 8))
    ]
    projected = block.get_submodule("attn.proj")(torch.cat(heads, dim=2))
    torch.testing.assert_close(block.get_submodule("attn")(normed), projected)


@pytest.mark.parametrize("tokens", [129, 211, 193, 257, 442])
@pytest.mark.parametrize("cameras", [0, 15])
def test_clipreids_vit_fits_at_every_size_and_stride(tokens: int, cameras: int) -> None:
    state = shapes("clipreid/vit_b16_stride12_sie")
    state["image_encoder.positional_embedding"] = torch.empty(tokens, 768, device="meta")
    state["cv_embed"] = torch.empty(cameras, 768, device="meta")
    if not cameras:
        del state["cv_embed"]
    architecture = find_model("auto", state, {})
    assert fits(architecture, state)
    assert architecture.cameras == (cameras or None)


def test_clipreids_rn50_of_vehicles_fits() -> None:
    state = shapes("clipreid/rn50")
    key = "image_encoder.attnpool.positional_embedding"
    state[key] = torch.empty(257, 2048, device="meta")
    architecture = find_model("auto", state, {})
    assert fits(architecture, state)
    assert (architecture.preprocess.height, architecture.preprocess.width) == (256, 256)


def test_the_max_pooling_is_that_of_the_version() -> None:
    pools = {}
    for name in ("fastreid_bot", "fastreid_bot_v0"):
        with torch.device("meta"):
            network = find_model(name, shapes(BOT), {}).build()
        pool = network.get_submodule("backbone.maxpool")
        assert isinstance(pool, nn.MaxPool2d)
        pools[name] = pool.ceil_mode, pool.padding
    assert pools == {"fastreid_bot": (True, 0), "fastreid_bot_v0": (False, 1)}


def test_resnet101_and_its_nine_non_local_blocks_are_counted() -> None:
    state = shapes(AGW)
    for block in range(6, 23):
        like = {k: v for k, v in state.items() if k.startswith("backbone.layer3.5.")}
        state |= {k.replace("layer3.5.", f"layer3.{block}."): v for k, v in like.items()}
    for block in range(3, 9):
        like = {k: v for k, v in state.items() if k.startswith("backbone.NL_3.0.")}
        state |= {k.replace("NL_3.0.", f"NL_3.{block}."): v for k, v in like.items()}
    architecture = find_model("auto", state, {})
    assert architecture.options["body"] == "resnet101"
    assert fits(architecture, state)


@pytest.mark.parametrize(("blocks", "body"), RESNESTS.items())
def test_a_resnest_is_told_by_its_blocks(blocks: int, body: str) -> None:
    with torch.device("meta"):
        state = timm.create_model(body, num_classes=0).state_dict()
    state = {f"backbone.{key}": value for key, value in state.items()}
    state |= {k: v for k, v in shapes("fastreid/bagtricks_S50").items() if k.startswith("heads.")}
    assert f"backbone.layer3.{blocks - 1}.conv1.weight" in state
    architecture = find_model("auto", state, {})
    assert architecture.options["body"] == body
    assert fits(architecture, state)


def old_names(key: str) -> str:
    return key.replace("heads.bottleneck.0.", "heads.bnneck.").replace(
        "heads.weight", "heads.classifier.weight"
    )


def test_names_of_fastreid_0_1_1_load_and_pad_the_max_pooling(tmp_path: Path) -> None:
    state = Pack(GOLDEN / BOT).state
    old = {old_names(key): value for key, value in state.items()}
    old["pixel_mean"] = torch.zeros(1, 3, 1, 1)
    torch.save({"model": old}, tmp_path / "a.pth")
    model = load_model(str(tmp_path / "a.pth"))
    assert model.architecture.options["max_pool"] == "padded"
    assert model.architecture.classes == 751
    loaded = model.network.state_dict()["heads.bottleneck.0.running_var"]
    assert torch.equal(loaded, state["heads.bottleneck.0.running_var"])


def test_the_mgn_of_fastreid_0_1_1_is_refused_with_an_explanation() -> None:
    state = shapes(MGN)
    old = {k: v for k, v in state.items() if "_head." not in k}
    old |= {"b1_head.bnneck.weight": torch.empty(256, device="meta")}
    reducing = state | {"b1_head.bnneck.weight": torch.empty(256, device="meta")}
    for refused in (old, reducing):
        with pytest.raises(CheckpointError, match=r"fast-reid 0\.1\.1.*cannot be reproduced"):
            find_model("auto", refused, {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("transreid", "no base.pos_embed"),
        ("clipreid", "no image_encoder.positional_embedding"),
        ("fastreid_sbs", "a body with 0 blocks in its third stage; known are resnet50"),
    ],
)
def test_a_name_that_does_not_fit_the_weights_says_what_is_missing(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_model(name, {"weight": torch.empty(3)}, {})


def test_gem_of_1_is_the_average_and_of_much_the_maximum() -> None:
    x = torch.rand(2, 3, 4, 4) + 0.1
    pool = GeM(learned=True)
    for p, expected in ((1.0, x.mean((2, 3))), (200.0, x.amax((2, 3)))):
        pool.p = nn.Parameter(torch.tensor([p]))
        torch.testing.assert_close(
            pool(x.double())[:, :, 0, 0].float(), expected, rtol=0.02, atol=0
        )


def test_a_network_of_timms_parts_says_so_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    architecture = find_model("auto", shapes(DEIT), {})
    with pytest.raises(CheckpointError, match=r"pip install 'distreid\[models\]'"):
        architecture.build()


@pytest.mark.parametrize(
    ("pack", "necks"),
    [
        (DEIT, {"bottleneck": 384}),
        (JPM, {"bottleneck": 768, **{f"bottleneck_{part}": 768 for part in range(1, 5)}}),
        ("clipreid/vit_b16_stride12_sie", {"bottleneck": 768, "bottleneck_proj": 512}),
    ],
)
def test_neck_feat_after_is_what_leaves_the_batch_norms(pack: str, necks: dict[str, int]) -> None:
    after = find_model("auto", shapes(pack), {"TEST": {"NECK_FEAT": "after"}})
    before = find_model("auto", shapes(pack), {})
    assert after.feature == f"{before.feature}, batch norm"
    chosen = find_model("auto", shapes(pack), {}, None, Choices(feature="after-neck"))
    assert chosen.identity() == after.identity() != before.identity()
    assert fits(after, shapes(pack))
    state = Pack(GOLDEN / pack).state
    networks = []
    for architecture in (before, after):
        network = architecture.build().eval()
        dropped = architecture.not_for_features
        network.load_state_dict(
            {architecture.rename(k): v for k, v in state.items() if not k.startswith(dropped)}
        )
        networks.append(network)
    pre = before.preprocess
    inputs = [torch.randn(2, 3, pre.height, pre.width)]
    if before.cameras:
        inputs.append(torch.tensor([0, 1]))
    with torch.inference_mode():
        raw, normed = (network(*inputs) for network in networks)
    places = 0
    for number, (name, dim) in enumerate(necks.items()):
        part = slice(places, places + dim)
        quarter = 4 if pack == JPM and number else 1  # TransReID divides after the norm
        mean, var, weight, bias = (
            state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        wanted = (raw[:, part] * quarter - mean) / (var + 1e-5).sqrt() * weight + bias
        torch.testing.assert_close(normed[:, part], wanted / quarter, rtol=1e-4, atol=1e-5)
        places += dim
    assert places == after.dim

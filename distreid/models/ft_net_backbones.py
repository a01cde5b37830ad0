"""The other networks of Person_reID_baseline_pytorch: ft_net with another body.

The bodies are torchvision's and timm's; `classifier` is ft_net's ClassBlock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from distreid.images.preprocess import Preprocess
from distreid.models import efficientnet, timm_extra
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.ft_net import Baseline, linear_num_of, stride_of
from distreid.models.torchvision_networks import torchvision_networks

SIZE = (256, 128)


@dataclass(frozen=True, kw_only=True)
class Body:
    """What stands before the ClassBlock."""

    build: Callable[[], nn.Module]
    """Without weights: (N, 3, H, W) normalised images → (N, dim)."""
    dim: int
    key: str
    """A tensor that only its files have."""
    feature: str = "pooled last map"
    size: tuple[int, int] = SIZE
    fixed_size: bool = False
    rename: Callable[[str], str] = str
    """A name after `model.` in the file to the body's."""


class DenseBody(nn.Module):
    """torchvision's DenseNet-121 up to its last batch norm, without the ReLU after it."""

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.features = torchvision_networks().densenet121(weights=None).features
        self.features.transition3.pool.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean((2, 3))  # type: ignore[no-any-return]


def convnext() -> nn.Module:
    """timm's ConvNeXt without the norm that follows its pooling."""
    network = timm_extra.create("convnext_base")
    network.head.norm = nn.Identity()
    return network  # type: ignore[no-any-return]


def nasnet() -> nn.Module:
    """timm's NASNet-A-Large, without the ReLU after its last cell."""
    network = timm_extra.create("nasnetalarge")
    network.act = nn.Identity()
    return network  # type: ignore[no-any-return]


class DinoBody(nn.Module):
    """timm's DINOv3 ViT-B/16; the mean of all its tokens, the class and register tokens too."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm_extra.create("vit_base_patch16_dinov3", img_size=SIZE)

    def forward(self, x: Tensor) -> Tensor:
        return self.vit.forward_features(x).mean(1)  # type: ignore[no-any-return]


def stage_after(key: str) -> str:
    """timm before 0.9 counted Swin's `downsample` to the stage before it."""
    return re.sub(r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", key)


BODIES = {
    "ft_net_dense": Body(
        build=DenseBody,
        dim=1024,
        key="features.conv0.weight",
        feature="pooled dense block 4",
    ),
    "ft_net_hr": Body(
        build=partial(timm_extra.create, "hrnet_w18"),
        dim=2048,
        key="incre_modules.0.0.conv1.weight",
    ),
    "ft_net_swin": Body(
        build=partial(timm_extra.create, "swin_base_patch4_window7_224"),
        dim=1024,
        key="layers.0.blocks.0.attn.relative_position_bias_table",
        feature="mean of the normed last tokens",
        size=(224, 224),
        fixed_size=True,
    ),
    "ft_net_swinv2": Body(
        build=partial(timm_extra.create, "swinv2_base_window8_256", img_size=SIZE),
        dim=1024,
        key="layers.0.blocks.0.attn.logit_scale",
        feature="mean of the normed last tokens",
        fixed_size=True,
    ),
    "ft_net_convnext": Body(build=convnext, dim=1024, key="stages.0.blocks.0.conv_dw.weight"),
    "ft_net_efficient": Body(
        build=efficientnet.efficientnet_b4,
        dim=efficientnet.POOLED_DIM,
        key="_conv_stem.weight",
        rename=efficientnet.torchvision_name,
    ),
    "ft_net_NAS": Body(build=nasnet, dim=4032, key="cell_stem_0.conv_1x1.conv.weight"),
    "ft_net_dino": Body(
        build=DinoBody,
        dim=768,
        key="reg_token",
        feature="mean of all normed last tokens",
        fixed_size=True,
        rename=lambda key: f"vit.{key}",
    ),
}


def recognise(state: StateDict) -> str | None:
    """The key of `BODIES` whose weights these are, or None."""
    if "classifier.add_block.0.weight" not in state:
        return None
    return next((name for name, body in BODIES.items() if f"model.{body.key}" in state), None)


def read(
    name: str, state: StateDict, options: Mapping[str, Any], stride: int | None = None
) -> Architecture:
    """The architecture of a key of `BODIES`; `stride` is ft_net_dense's."""
    body = BODIES[name]
    build, known = body.build, {}
    notes: tuple[str, ...] = ()
    if name == "ft_net_dense":
        stride, notes = stride_of(options, stride, name)
        build, known = partial(DenseBody, stride), {"stride": stride}
    rename = body.rename
    if "model.layers.0.downsample.reduction.weight" in state:
        rename = stage_after
    linear_num = linear_num_of(state)
    return Architecture(
        name=name,
        peer="Person_reID_baseline_pytorch",
        build=partial(Baseline, build, body.dim, linear_num),
        dim=linear_num or body.dim,
        feature=f"{body.feature}, " + ("linear, " if linear_num else "") + "batch norm",
        preprocess=Preprocess(height=body.size[0], width=body.size[1]),
        flip=True,
        options=known | {"linear_num": linear_num},
        rename=partial(rename_body, rename),
        not_for_features=(
            "model.classifier.",
            "model._fc.",
            "model.last_linear.",
            "classifier.classifier.",
        ),
        classes=rows_of(state, "classifier.classifier.0.weight"),
        fixed_size=body.fixed_size,
        obeys=("last_stride",) if name == "ft_net_dense" else (),
        notes=notes,
    )


def rename_body(rename: Callable[[str], str], key: str) -> str:
    """Renames what stands after `model.`."""
    return "model." + rename(key[6:]) if key.startswith("model.") else key

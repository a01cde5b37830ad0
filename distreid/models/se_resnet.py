"""torchreid's SE-ResNets and SE-ResNeXts (Hu et al., CVPR 2018, arXiv:1709.01507).

They are timm's `legacy` ones: both keep the names of the first weights that were published.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from distreid.models import timm_extra
from distreid.models.architecture import Architecture, StateDict
from distreid.models.resnet import blocks_of
from distreid.models.torchreid import (
    FC_DIM,
    HEADS,
    architecture,
    fc_block,
    has_only,
    pooled_feature,
)

POOLED_DIM = 2048
# timm's name, and what tells them apart: blocks in layer3, inputs of a group in layer1.
NETWORKS = {
    "se_resnet50": ("legacy_seresnet50", 6, 64),
    "se_resnet101": ("legacy_seresnet101", 23, 64),
    "se_resnet152": ("legacy_seresnet152", 36, 64),
    "se_resnext50_32x4d": ("legacy_seresnext50_32x4d", 6, 4),
    "se_resnext101_32x4d": ("legacy_seresnext101_32x4d", 23, 4),
    "senet154": ("legacy_senet154", 36, 2),
}
PARTS = ("layer0", "layer1", "layer2", "layer3", "layer4", *HEADS)
NAMES = (*NETWORKS, "se_resnet50_fc512")


def build(name: str) -> nn.Module:
    """An untrained network by torchreid's name, one of `NAMES`; pooled features, or its `fc`'s."""
    base = name.removesuffix("_fc512")
    network = timm_extra.create(NETWORKS[base][0])
    if base != name:
        first = network.layer4[0]
        first.conv1.stride = first.downsample[0].stride = (1, 1)
        network.last_linear = fc_block(POOLED_DIM)
    return network  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """The name of the network whose weights these are, or None."""
    if "layer1.0.se_module.fc1.weight" not in state or "layer1.0.conv2.weight" not in state:
        return None
    if not has_only(state, PARTS):
        return None
    shape = blocks_of(state), state["layer1.0.conv2.weight"].shape[1]
    fc = "_fc512" if "fc.0.weight" in state else ""
    return next((name + fc for name in NETWORKS if NETWORKS[name][1:] == shape), None)


def read(name: str, state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture of a name of `NAMES`."""
    fc = name.endswith("_fc512")
    return architecture(
        name,
        partial(build, name),
        state,
        dim=FC_DIM if fc else POOLED_DIM,
        feature=pooled_feature("layer4", fc),
        rename=lambda key: f"last_linear.{key[3:]}" if key.startswith("fc.") else key,
    )

"""torchreid's DenseNets: torchvision's, whose names the parameters carry."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.torchreid import (
    FC_DIM,
    HEADS,
    architecture,
    fc_block,
    has_only,
    pooled_feature,
)
from distreid.models.torchvision_networks import torchvision_networks

# Pooled features, which tell them apart.
DIMS = {"densenet121": 1024, "densenet169": 1664, "densenet201": 1920, "densenet161": 2208}
NAMES = (*DIMS, "densenet121_fc512")


def build(name: str) -> nn.Module:
    """An untrained network by torchreid's name, one of `NAMES`; pooled features, or its `fc`'s."""
    base = name.removesuffix("_fc512")
    network = torchvision_networks().get_model(base, weights=None)
    network.classifier = nn.Identity() if base == name else fc_block(DIMS[base])
    return network  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """The name of the network whose weights these are, or None."""
    if not has_only(state, ("features", *HEADS)):
        return None
    dim = rows_of(state, "features.norm5.weight")
    fc = "_fc512" if "fc.0.weight" in state else ""
    return next((name + fc for name in DIMS if DIMS[name] == dim), None)


def read(name: str, state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture of a name of `NAMES`."""
    fc = name.endswith("_fc512")
    return architecture(
        name,
        partial(build, name),
        state,
        dim=FC_DIM if fc else DIMS[name],
        feature=pooled_feature("dense block 4", fc),
        rename=lambda key: f"classifier.{key[3:]}" if key.startswith("fc.") else key,
    )

"""What the families of torchreid (KaiyangZhou/deep-person-reid) share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from distreid.images.preprocess import Preprocess
from distreid.models.architecture import Architecture, StateDict, rows_of

FC_DIM = 512
HEADS = ("fc", "classifier")


def has_only(state: StateDict, parts: tuple[str, ...]) -> bool:
    """Whether all names begin with one of these, so that nothing stands on the network that is not
    torchreid's."""
    return all(key.partition(".")[0] in parts for key in state)


def fc_block(inputs: int, outputs: int = FC_DIM) -> nn.Sequential:
    """The layers that some networks put between the pooled map and the feature."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())


def architecture(
    name: str,
    build: Callable[[], nn.Module],
    state: StateDict,
    *,
    dim: int,
    feature: str,
    **others: Any,
) -> Architecture:
    """torchreid's way to test a network, unless `others` says otherwise."""
    usual: dict[str, Any] = {
        "preprocess": Preprocess(interpolation="bilinear"),
        "not_for_features": ("classifier.",),
        "classes": rows_of(state, "classifier.weight"),
    }
    return Architecture(
        name=name,
        peer="torchreid",
        build=build,
        dim=dim,
        feature=feature,
        flip=False,
        **(usual | others),
    )


def pooled_feature(layer: str, fc: bool) -> str:
    """The feature in words, with or without an `fc_block`."""
    return f"pooled {layer}" + (", linear, batch norm, ReLU" if fc else "")

"""What the families of torchreid (KaiyangZhou/deep-person-reid) share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from distreid.images.preprocess import Preprocess
from distreid.models.architecture import Architecture, StateDict, rows_of

FC_DIM = 512
FC_BLOCK = {f"fc.0.{leaf}" for leaf in ("weight", "bias")} | {
    f"fc.1.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")
}
CLASSIFIER = "classifier.weight"
HEADS = ("fc", "classifier")
PLAIN = ("resnet", "resnext", "densenet")  # whose names torchvision's have, too
NO_CLASSIFIER = (
    "a plain network without a classifier, taken as torchreid tests its own: 256×128, bilinear, "
    "no mirror image, Euclidean distances of features that keep their length (--input-size, "
    "--interpolation, --flip and --protocol say otherwise)"
)
OWN_FC = (
    "taken for torchreid's, which has a ReLU behind the layers of fc and no stride in its last "
    "stage; but it has no classifier, as torchreid's files have: one's own is named by --model "
    "package.module:function"
)


def has_only(state: StateDict, parts: tuple[str, ...]) -> bool:
    """Whether all names begin with one of these and the classifier is a linear layer, so that
    nothing stands on the network that is not torchreid's."""
    own = {key for key in state if key.startswith("classifier.")}
    return own <= {CLASSIFIER, "classifier.bias"} and all(
        key.partition(".")[0] in parts for key in state
    )


def fc_block(inputs: int, outputs: int = FC_DIM) -> nn.Sequential:
    """The layers that some networks put between the pooled map and the feature."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())


def has_fc_block(state: StateDict) -> bool:
    """Whether what is called `fc` can be an `fc_block`."""
    own = {key for key in state if key.startswith("fc.")} - {"fc.1.num_batches_tracked"}
    return own == FC_BLOCK and state["fc.0.weight"].shape[0] == FC_DIM


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
        "classes": rows_of(state, CLASSIFIER),
        "notes": _guesses(name) if CLASSIFIER not in state else (),
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


def _guesses(name: str) -> tuple[str, ...]:
    """What is to be said of a file without torchreid's classifier."""
    if name.endswith("_fc512"):
        return (OWN_FC,)
    return (NO_CLASSIFIER,) if name.startswith(PLAIN) else ()


def pooled_feature(layer: str, fc: bool) -> str:
    """The feature in words, with or without an `fc_block`."""
    return f"pooled {layer}" + (", linear, batch norm, ReLU" if fc else "")

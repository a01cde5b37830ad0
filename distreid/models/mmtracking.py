"""The re-identification networks of mmtracking, mmdetection 3 and mmpretrain: a ResNet, and the
head of linear layers that they call LinearReIDHead. The batch norm behind its last layer serves
the training alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from distreid.errors import CheckpointError
from distreid.images.preprocess import Preprocess
from distreid.models import known_body
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.network_index import find

# A whole tracker's file has its network under this.
IN_TRACKER = "reid."
OUT = "head.fc_out.weight"
FULLY = re.compile(r"head\.fcs\.(\d+)\.fc\.weight")


class LinearReID(nn.Module):
    """(B, 3, H, W) normalised images → (B, dim)."""

    def __init__(self, body: str, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = known_body.build(body, None, None)
        *inner, last = dims[1:]
        self.linears = len(inner)
        fcs = nn.ModuleList(
            nn.ModuleDict({"fc": nn.Linear(before, after), "bn": nn.BatchNorm1d(after)})
            for before, after in zip(dims, inner, strict=False)
        )
        self.head = nn.ModuleDict({"fcs": fcs, "fc_out": nn.Linear(dims[-2], last)})

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.backbone(images_BCHW)
        for number in range(self.linears):
            layer = self.get_submodule(f"head.fcs.{number}")
            x = layer.get_submodule("bn")(layer.get_submodule("fc")(x)).relu()
        return self.head["fc_out"](x)  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """`mmtracking` if these are weights of it, or of a tracker that holds it."""
    return "mmtracking" if {OUT, IN_TRACKER + OUT} & state.keys() else None


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture that the weights tell."""
    prefix = "" if OUT in state else IN_TRACKER
    own = {key.removeprefix(prefix): key for key in state if key.startswith(prefix)}
    body = next(
        (
            found.networks[0].name
            for found in find({key: state[whole] for key, whole in own.items()})
            if found.prefix == "backbone." and not found.numbered
        ),
        None,
    )
    if body is None:
        raise CheckpointError(
            f"a head of mmtracking's, and no known network under {prefix}backbone."
        )
    widths = [state[own[key]].shape for key in own if FULLY.fullmatch(key)]
    last = state[own[OUT]].shape
    dims = (*(shape[1] for shape in widths), last[1], last[0])
    needed = ("backbone.", "head.fcs.", "head.fc_out.")
    others = tuple(
        key
        for key in state
        if not key.removeprefix(prefix).startswith(needed) or (not key.startswith(prefix))
    )
    return Architecture(
        name="mmtracking",
        peer="mmtracking",
        build=partial(LinearReID, body, dims),
        dim=last[0],
        feature="pooled last map, linear layers; before the batch norm that training adds",
        preprocess=Preprocess(interpolation="opencv", exif_transpose=True, scale="0..255"),
        flip=False,
        options={"body": body},
        not_for_features=others,
        rename=lambda key: key.removeprefix(prefix),
        classes=rows_of(state, f"{prefix}head.classifier.weight"),
        notes=(
            "resized before it is normalised, as mmtracking's own test of its data set does; its "
            "trackers resize the normalised crop of a frame instead, whose features differ",
        ),
    )

"""AGW and its ResNets of ReID-Survey (Ye et al., TPAMI 2021, arXiv:2001.04193): ResNet-50, 101 or
152 under `base.`, with non-local blocks or without, GeM or the mean, and a batch norm.

As in reid-strong-baseline, whose frame it is, no ReLU follows the stem's batch norm, and the last
stage has no stride. Without non-local blocks and GeM the files are that project's, and so are the
features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from distreid.errors import CheckpointError
from distreid.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.fastreid_network import (
    AVERAGE,
    BODY_DIM,
    LEARNED,
    Baseline,
    Body,
    Head,
    pooling_of,
)
from distreid.models.peer_config import colour_of, settings, size_of
from distreid.models.resnet import resnet
from distreid.models.vit import count_of

NAME = "reid_survey"
EXPONENT = "global_pool.p"
OURS = {
    "base.": "backbone.",
    "global_pool.": "heads.pool_layer.",
    "bottleneck.": "heads.bottleneck.0.",
}
PARTS = (*OURS, "classifier.")
STAGES = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "NL_1", "NL_2", "NL_3", "NL_4")
BODIES = {6: "resnet50", 23: "resnet101", 36: "resnet152"}
"""By the blocks of the third stage."""
WITHOUT_RELU = (
    "taken for ReID-Survey's, whose ResNet has no ReLU after its first batch norm; of one's own, "
    "--model torchvision:{body} says so"
)


def recognise(state: StateDict) -> str | None:
    """`reid_survey` for a plain ResNet of bottlenecks with its GeM or its non-local blocks."""
    is_theirs = EXPONENT in state or any(key.startswith("base.NL_") for key in state)
    needed = {"base.conv1.weight", "base.layer1.0.conv3.weight", "bottleneck.weight"}
    if not is_theirs or not needed <= state.keys() or not all(map(_is_known, state)):
        return None
    return NAME


def _is_known(key: str) -> bool:
    if key.startswith("base."):
        words = key.split(".")
        return words[1] in STAGES and not {"IN", "BN", "se_module"} & {*words}
    return key.startswith(PARTS)


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture that the weights tell; CheckpointError for another depth."""
    blocks = count_of(state, "base.layer3.")
    if blocks not in BODIES:
        known = ", ".join(BODIES.values())
        raise CheckpointError(f"a body with {blocks} blocks in its third stage; known are {known}")
    said, notes = settings(options, {"MODEL.LAST_STRIDE": 1, "INPUT.IMG_SIZE": (256, 128)})
    stride = said["MODEL.LAST_STRIDE"]
    if stride not in (1, 2):
        raise CheckpointError(f"config.yaml: MODEL.LAST_STRIDE is {stride}")
    height, width = size_of(said["INPUT.IMG_SIZE"])
    body, non_local = BODIES[blocks], _non_local(state)
    described = {name: list(numbers) for name, numbers in non_local.items()}
    pool = LEARNED if EXPONENT in state else AVERAGE

    def build() -> nn.Module:
        trunk = Body(resnet(body, "", stride), non_local, stem_relu=False)
        return Baseline(trunk, Head(pooling_of(pool), BODY_DIM))

    return Architecture(
        name=NAME,
        peer="ReID-Survey",
        build=build,
        dim=BODY_DIM,
        feature="pooled last map, batch norm",
        preprocess=Preprocess(
            height=height,
            width=width,
            interpolation="bilinear",
            mean=colour_of(options, "INPUT.PIXEL_MEAN", IMAGENET_MEAN),
            std=colour_of(options, "INPUT.PIXEL_STD", IMAGENET_STD),
        ),
        flip=False,
        options={
            "body": body,
            "last_stride": stride,
            "pool": pool,
            **({"non_local": described} if described else {}),
        },
        not_for_features=("classifier.",),
        rename=_rename,
        classes=rows_of(state, "classifier.weight"),
        notes=(*notes, *(() if non_local else (WITHOUT_RELU.format(body=body),))),
    )


def _non_local(state: StateDict) -> dict[str, tuple[int, int]]:
    """How many non-local blocks follow a stage, and their inner channels."""
    return {
        name: (count_of(state, f"base.{name}."), state[f"base.{name}.0.g.weight"].shape[0])
        for name in STAGES
        if f"base.{name}.0.g.weight" in state
    }


def _rename(key: str) -> str:
    for theirs, ours in OURS.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key

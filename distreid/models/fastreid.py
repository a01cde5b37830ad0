"""fast-reid (He et al., arXiv:2006.02631): BoT, AGW, SBS and MGN.

Bodies are ResNets, ResNeSts and a ViT, with instance norm (ibn) and non-local blocks where the
weights have them. Whatever NECK_FEAT says, fast-reid tests with the feature after the batch norm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from distreid.errors import CheckpointError
from distreid.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from distreid.models.architecture import Architecture, Size, StateDict, rows_of
from distreid.models.fastreid_bodies import OtherBody, find_body
from distreid.models.fastreid_network import (
    AVERAGE,
    BODY_DIM,
    BOTH,
    CEIL,
    CLIPPED,
    GEM,
    LEARNED,
    MAX,
    MGN_HEADS,
    PADDED,
    Baseline,
    Head,
    build,
    pooling_of,
)
from distreid.models.peer_config import (
    HALF,
    Triple,
    colour_of,
    refuse_others,
    settings,
    size_of,
)
from distreid.models.vit import ClassToken, count_of, is_small, size_and_stride, tokens_and_dim

# By the blocks of layer3.
RESNETS = {6: "resnet50", 23: "resnet101", 36: "resnet152"}
BASIC, BASIC_DIM = {2: "resnet18", 6: "resnet34"}, 512  # without conv3
RESNESTS = {6: "resnest50d", 23: "resnest101e", 36: "resnest200e", 48: "resnest269e"}
# fast-reid's names of poolings that give the same feature, of this and of its first version.
POOLS = {
    AVERAGE: AVERAGE,
    "FastGlobalAvgPool": AVERAGE,
    "avgpool": AVERAGE,
    "fastavgpool": AVERAGE,
    GEM: GEM,
    "gempool": GEM,
    LEARNED: LEARNED,
    MAX: MAX,
    "maxpool": MAX,
    BOTH: BOTH,
    "avgmaxpool": BOTH,
    CLIPPED: CLIPPED,
    "clipavgpool": CLIPPED,
}
OLD_REDUCTION = (
    "a head of fast-reid 0.1.1, which reduced its features by other layers than fast-reid 1 does "
    "(MGN's is such a one): its features cannot be reproduced; take a file of fast-reid 1"
)
FLIPPED = (
    "config.yaml: TEST.FLIP is on; each view is normalised once, as it is meant, where fast-reid's "
    "own code normalises the mirror image twice: its features differ (--no-flip leaves it out)"
)
# Class weights, and the colours that old files hold and fast-reid no longer reads.
NOT_FOR_FEATURES = (
    "heads.weight",
    "heads.classifier.",
    *(f"{name}_head.weight" for name in MGN_HEADS),
    "pixel_mean",
    "pixel_std",
)


# fast-reid's heads number the layers of their bottleneck, and their classifier has no bias.
OF_OTHER_HEADS = re.compile(r"heads\.(\d|bias$|classifier\.bias$|bottleneck\.[a-z])")
# A ResNet and a classifier called `heads` may be anybody's.
WITHOUT_NECK = (
    "taken for fast-reid's by its names alone, as no batch norm stands behind the pooling; "
    "--model torchvision:NAME takes it for a ResNet of your own"
)


@dataclass(frozen=True)
class Recipe:
    """What fast-reid's configurations of that name have, and the weights do not tell."""

    size: tuple[int, int]
    pool: str


RECIPES = {
    "bot": Recipe((256, 128), AVERAGE),
    "agw": Recipe((256, 128), GEM),
    "sbs": Recipe((384, 128), GEM),
    "mgn": Recipe((384, 128), GEM),
}


def recognise(state: StateDict) -> str | None:
    """`fastreid` if these are weights of it."""
    mgn = any(key.startswith("b1_head.") for key in state)
    heads = any(key.startswith("heads.") for key in state)
    if any(OF_OTHER_HEADS.match(key) for key in state):
        return None
    body = "backbone.layer4.0.conv1.weight" in state or "backbone.cls_token" in state
    return "fastreid" if mgn or (heads and (body or find_body(state))) else None


def read(
    state: StateDict, options: Mapping[str, Any], recipe: str = "", max_pool: str = ""
) -> Architecture:
    """The architecture that the weights, and the `config.yaml` beside them, tell.

    What they do not tell is guessed and said, unless it is given: `recipe`, a key of `RECIPES`,
    and `max_pool`, `ceil` or `padded`.
    """
    refuse_others(options, {"INPUT.CROP.ENABLED": False})
    if "backbone.cls_token" in state:
        return _read_vit(state, options)
    if other := find_body(state):
        return _read_other(state, options, other, recipe)
    mgn = any(key.startswith("b1_head.") for key in state)
    head = "b1_head" if mgn else "heads"
    reduced, old = _reduced(state, head), f"{head}.bnneck.weight" in state
    if (mgn and not reduced) or (old and (mgn or reduced)):
        raise CheckpointError(OLD_REDUCTION)
    body, ibn = _body(state, mgn)
    body_dim = BASIC_DIM if body in BASIC.values() else BODY_DIM
    non_local = _non_local(state)
    learned = f"{head}.pool_layer.p" in state
    guess = "mgn" if mgn else "sbs" if learned else "agw" if non_local else "bot"
    said, notes = _unsaid({} if recipe else options, RECIPES[recipe or guess], learned)
    description = {
        "body": body,
        "ibn": ibn,
        "last_stride": said["MODEL.BACKBONE.LAST_STRIDE"],
        "max_pool": _max_pool(state, body, max_pool),
        "pool": _pool(said["MODEL.HEADS.POOL_LAYER"]),
        "reduced": reduced,
        "mgn": mgn,
        **_neck(state, head),
    }
    whole = "layer4 pooled as a whole, in halves and in thirds" if mgn else "pooled layer4"
    return _architecture(
        state,
        options,
        head=head,
        build=partial(build, non_local, channels=body_dim, **description),
        dim=len(MGN_HEADS) * reduced if mgn else reduced or body_dim,
        feature=f"{whole}{', reduced' if reduced else ''}{_normed(description)}",
        preprocess=_preprocess(size_of(said["INPUT.SIZE_TEST"]), options),
        options=description,
        notes=()
        if recipe
        else (
            *(() if description.get("neck", True) else (WITHOUT_NECK,)),
            _taken_for(guess, description),
            *notes,
        ),
    )


def _read_vit(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    tokens, dim = tokens_and_dim(state, "backbone.pos_embed")
    height, width, stride = size_and_stride(tokens, options)
    small = is_small(state, "backbone.blocks.")
    neck = _neck(state, "heads")
    return _architecture(
        state,
        options,
        build=lambda: Baseline(
            ClassToken(dim=dim, tokens=tokens, stride=stride, small=small),
            Head(nn.Unflatten(1, (dim, 1, 1)), dim, **neck),
        ),
        dim=dim,
        feature=f"class token, layer norm{_normed(neck)}",
        preprocess=_preprocess((height, width), options, mean=HALF, std=HALF),
        options={"body": "vit_small" if small else "vit", "stride": stride, **neck},
        fixed_size=True,
    )


def _read_other(
    state: StateDict, options: Mapping[str, Any], other: OtherBody, recipe: str
) -> Architecture:
    reduced, learned = _reduced(state, "heads"), "heads.pool_layer.p" in state
    guess = recipe or ("sbs" if learned else "bot")
    said, notes = _unsaid({} if recipe else options, RECIPES[guess], learned)
    last_stride = said["MODEL.BACKBONE.LAST_STRIDE"]
    pool = _pool(said["MODEL.HEADS.POOL_LAYER"])
    stride = {"last_stride": last_stride} if other.strided else {}
    neck = _neck(state, "heads")
    description = {
        "body": other.name,
        "ibn": other.ibn,
        **stride,
        "pool": pool,
        "reduced": reduced,
        **neck,
    }

    def build_it() -> nn.Module:
        return Baseline(
            other.build(last_stride), Head(pooling_of(pool), other.dim, reduced, **neck)
        )

    return _architecture(
        state,
        options,
        build=build_it,
        dim=reduced or other.dim,
        feature=f"pooled last map{', reduced' if reduced else ''}{_normed(description)}",
        preprocess=_preprocess(size_of(said["INPUT.SIZE_TEST"]), options),
        options=description,
        notes=() if recipe else (_taken(guess), *notes),
    )


def _architecture(
    state: StateDict, options_beside: Mapping[str, Any], head: str = "heads", **particulars: Any
) -> Architecture:
    flip = settings(options_beside, {"TEST.FLIP.ENABLED": False})[0]["TEST.FLIP.ENABLED"]
    notes = (*particulars.pop("notes", ()), *((FLIPPED,) if flip else ()))
    if not particulars["options"].get("neck", True):
        notes = (*notes, "the head's weights hold no batch norm, so the feature has none")
    return Architecture(
        name="fastreid",
        peer="fast-reid",
        flip=flip,
        notes=notes,
        not_for_features=NOT_FOR_FEATURES,
        rename=lambda key: key.replace("heads.bnneck.", "heads.bottleneck.0."),
        classes=rows_of(state, f"{head}.weight") or rows_of(state, "heads.classifier.weight"),
        **particulars,
    )


def _preprocess(
    size: Size,
    options: Mapping[str, Any],
    mean: Triple = IMAGENET_MEAN,
    std: Triple = IMAGENET_STD,
) -> Preprocess:
    return Preprocess(
        height=size[0],
        width=size[1],
        interpolation="bicubic",
        mean=colour_of(options, "MODEL.PIXEL_MEAN", mean, white=255),
        std=colour_of(options, "MODEL.PIXEL_STD", std, white=255),
        exif_transpose=True,
        scale="0..255",
    )


def _body(state: StateDict, mgn: bool) -> tuple[str, bool]:
    """timm's or torchvision's name of the body, and whether it has instance norm."""
    blocks = 1 + count_of(state, "b1.0.") if mgn else count_of(state, "backbone.layer3.")
    bodies = RESNESTS if "backbone.conv1.0.weight" in state else RESNETS
    if blocks not in bodies and blocks not in BASIC:
        known = ", ".join((*RESNETS.values(), *RESNESTS.values()))
        raise CheckpointError(f"a body with {blocks} blocks in its third stage; known are {known}")
    first = "backbone.4.0" if mgn else "backbone.layer1.0"
    if not mgn and f"{first}.conv3.weight" not in state and blocks in BASIC:
        return BASIC[blocks], f"{first}.bn1.IN.weight" in state
    return bodies[blocks], f"{first}.bn1.IN.weight" in state


def _non_local(state: StateDict) -> dict[str, tuple[int, int]]:
    """How many non-local blocks follow a stage, and their inner channels, by fast-reid's names."""
    names = [f"NL_{stage}" for stage in range(1, 5)]
    return {
        name: (count_of(state, f"backbone.{name}."), state[f"backbone.{name}.0.g.weight"].shape[0])
        for name in names
        if f"backbone.{name}.0.g.weight" in state
    }


def _reduced(state: StateDict, head: str) -> int:
    """The channels that the head reduces the map to; 0 if it does not."""
    first = state.get(f"{head}.bottleneck.0.weight")
    return first.shape[0] if first is not None and first.ndim == 4 else 0


def _neck(state: StateDict, head: str) -> dict[str, bool]:
    """That there is no batch norm (WITH_BNNECK of config.yaml), where there is none; as it always
    was described where there is one."""
    names = (f"{head}.bnneck.weight", *(f"{head}.bottleneck.{n}.running_mean" for n in range(2)))
    return {} if any(name in state for name in names) else {"neck": False}


def _normed(description: Mapping[str, Any]) -> str:
    return ", batch norm" if description.get("neck", True) else ""


def _unsaid(
    options: Mapping[str, Any], recipe: Recipe, learned: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the weights do not tell: by config.yaml, else by the recipe, and what to say then."""
    wanted: dict[str, Any] = {"INPUT.SIZE_TEST": recipe.size, "MODEL.BACKBONE.LAST_STRIDE": 1}
    if not learned:
        wanted["MODEL.HEADS.POOL_LAYER"] = recipe.pool
    said, notes = settings(options, wanted)
    return {"MODEL.HEADS.POOL_LAYER": LEARNED} | said, notes


def _pool(name: str) -> str:
    if name not in POOLS:
        raise CheckpointError(
            f"config.yaml: MODEL.HEADS.POOL_LAYER is {name}; known are {', '.join(POOLS)}"
        )
    return POOLS[name]


def _max_pool(state: StateDict, body: str, chosen: str) -> str:
    """ResNeSt's always pads. Else as chosen, or as the names of the weights tell the version."""
    old = "heads.bnneck.weight" in state or "heads.classifier.weight" in state
    if body in RESNESTS.values():
        return PADDED
    return chosen or (PADDED if old else CEIL)


def _taken(guess: str) -> str:
    names = ", ".join(f"fastreid_{name}" for name in RECIPES)
    return f"taken for the recipe {guess} (--model {names} and --input-size say otherwise)"


def _taken_for(guess: str, description: Mapping[str, Any]) -> str:
    """What was guessed, and the names of `--model` that say otherwise."""
    recipe = _taken(guess)
    if description["body"] in RESNESTS.values():
        return recipe
    if description["max_pool"] == PADDED:
        return f"{recipe}; its max pooling pads, by the names of the weights, as in fast-reid 0.1.1"
    return (
        f"{recipe}; with _v0 after the name, its max pooling pads, as in fast-reid 0.1.1, which "
        "made the files of the model zoo"
    )

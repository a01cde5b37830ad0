"""The models that distreid knows: one visible table, one file per family.

To add a family, write its file and add its names here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from distreid.errors import CheckpointError, OptionError
from distreid.models import (
    clipreid,
    densenet,
    fastreid,
    ft_net,
    ft_net_backbones,
    generic,
    hacnn,
    mlfn,
    mobilenet,
    osnet,
    osnet_ain,
    pcb,
    resnet,
    se_resnet,
    transreid,
)
from distreid.models.architecture import Architecture, Size, StateDict, resized

Reader = Callable[[StateDict, Mapping[str, Any]], Architecture]
"""Weights, and the options saved beside them, to the architecture that they fit."""

MODELS: dict[str, Reader] = {
    "ft_net": ft_net.read,
    "ft_net_stride1": partial(ft_net.read, stride=1),
    "ft_net_stride2": partial(ft_net.read, stride=2),
    **{name: partial(ft_net_backbones.read, name) for name in ft_net_backbones.BODIES},
    "ft_net_dense_stride1": partial(ft_net_backbones.read, "ft_net_dense", stride=1),
    "ft_net_dense_stride2": partial(ft_net_backbones.read, "ft_net_dense", stride=2),
    "PCB": pcb.read_baseline,
    **{name: partial(osnet.read, name) for name in osnet.NAMES},
    **{name: partial(osnet_ain.read, name) for name in osnet_ain.NAMES},
    **{name: partial(resnet.read, name) for name in resnet.NAMES},
    **{name: partial(pcb.read, name) for name in pcb.PARTS},
    **{name: partial(se_resnet.read, name) for name in se_resnet.NAMES},
    **{name: partial(densenet.read, name) for name in densenet.NAMES},
    **{name: partial(mobilenet.read, name) for name in mobilenet.WIDTHS},
    "mlfn": mlfn.read,
    "hacnn": hacnn.read,
    "fastreid": fastreid.read,
    **{
        f"fastreid_{name}": partial(fastreid.read, recipe=name, max_pool="ceil")
        for name in fastreid.RECIPES
    },
    **{
        f"fastreid_{name}_v0": partial(fastreid.read, recipe=name, max_pool="padded")
        for name in fastreid.RECIPES
    },
    "transreid": transreid.read,
    "clipreid": clipreid.read,
}

RECOGNISERS: tuple[Callable[[StateDict], str | None], ...] = (
    ft_net.recognise,
    ft_net_backbones.recognise,
    osnet.recognise,
    osnet_ain.recognise,
    pcb.recognise,
    resnet.recognise,
    se_resnet.recognise,
    densenet.recognise,
    mobilenet.recognise,
    mlfn.recognise,
    hacnn.recognise,
    fastreid.recognise,
    transreid.recognise,
    clipreid.recognise,
)
"""Weights to a key of `MODELS`, or None. The first that knows them decides."""


def find_model(
    name: str, state: StateDict, options: Mapping[str, Any], size: Size | None = None
) -> Architecture:
    """The architecture by name, or with `auto` by what the weights look like.

    `size` is the input's, None for what the architecture says.
    """
    if ":" in name:
        return generic.read(name, state, size)
    if name == "auto":
        name = recognise(state)
    if name not in MODELS:
        raise OptionError(f"--model {name}: not known; choose auto or one of {', '.join(MODELS)}")
    architecture = MODELS[name](state, options)
    preprocess = architecture.preprocess
    if size in (None, (preprocess.height, preprocess.width)):
        return architecture
    if architecture.fixed_size:
        raise OptionError(f"--input-size: {name} takes {preprocess.height}x{preprocess.width} only")
    return replace(architecture, preprocess=resized(preprocess, size))


def recognise(state: StateDict) -> str:
    """The name that fits the weights; CheckpointError if none does."""
    for recogniser in RECOGNISERS:
        if name := recogniser(state):
            return name
    first = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"{len(state)} tensors of no known model ({first}, …); name it by --model: timm:NAME, "
        f"torchvision:NAME, your own package.module:function, or one of {', '.join(MODELS)}"
    )

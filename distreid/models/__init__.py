"""The models that distreid knows: one visible table, one file per family.

To add a family, write its file and add its names here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from distreid.errors import CheckpointError, OptionError
from distreid.models import clipreid, fastreid, ft_net, osnet, osnet_ain, pcb, resnet, transreid
from distreid.models.architecture import Architecture, StateDict

Reader = Callable[[StateDict, Mapping[str, Any]], Architecture]
"""Weights, and the options saved beside them, to the architecture that they fit."""

MODELS: dict[str, Reader] = {
    "ft_net": ft_net.read,
    "ft_net_stride1": partial(ft_net.read, stride=1),
    "ft_net_stride2": partial(ft_net.read, stride=2),
    "PCB": pcb.read_baseline,
    **{name: partial(osnet.read, name) for name in osnet.NAMES},
    **{name: partial(osnet_ain.read, name) for name in osnet_ain.NAMES},
    **{name: partial(resnet.read, name) for name in resnet.NAMES},
    **{name: partial(pcb.read, name) for name in pcb.PARTS},
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
    osnet.recognise,
    osnet_ain.recognise,
    pcb.recognise,
    resnet.recognise,
    fastreid.recognise,
    transreid.recognise,
    clipreid.recognise,
)
"""Weights to a key of `MODELS`, or None. The first that knows them decides."""


def find_model(name: str, state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture by name, or with `auto` by what the weights look like."""
    if name == "auto":
        name = recognise(state)
    if name not in MODELS:
        raise OptionError(f"--model {name}: not known; choose auto or one of {', '.join(MODELS)}")
    return MODELS[name](state, options)


def recognise(state: StateDict) -> str:
    """The name that fits the weights; CheckpointError if none does."""
    for recogniser in RECOGNISERS:
        if name := recogniser(state):
            return name
    first = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"{len(state)} tensors of no known model ({first}, …); known are {', '.join(MODELS)}"
    )

"""The models that distreid knows: one visible table, one file per family.

To add a family, write its file and add its names here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from distreid.errors import CheckpointError, OptionError
from distreid.models import ft_net, osnet
from distreid.models.architecture import Architecture, StateDict

Reader = Callable[[StateDict, Mapping[str, Any]], Architecture]
"""Weights, and the options saved beside them, to the architecture that they fit."""

MODELS: dict[str, Reader] = {
    "ft_net": ft_net.read,
    "ft_net_stride1": partial(ft_net.read, stride=1),
    "ft_net_stride2": partial(ft_net.read, stride=2),
    "osnet_x0_25": lambda state, options: osnet.read("osnet_x0_25"),
    "osnet_x0_5": lambda state, options: osnet.read("osnet_x0_5"),
    "osnet_x0_75": lambda state, options: osnet.read("osnet_x0_75"),
    "osnet_x1_0": lambda state, options: osnet.read("osnet_x1_0"),
}


def find_model(name: str, state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture by name, or with `auto` by what the weights look like."""
    if name == "auto":
        name = recognise(state)
    if name not in MODELS:
        raise OptionError(f"--model {name}: not known; choose auto or one of {', '.join(MODELS)}")
    return MODELS[name](state, options)


def recognise(state: StateDict) -> str:
    """The name that fits the weights; CheckpointError if none does."""
    if ft_net.recognise(state):
        return "ft_net"
    if osnet.recognise(state):
        return osnet.name_of(state)
    first = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"{len(state)} tensors of no known model ({first}, …); known are {', '.join(MODELS)}"
    )

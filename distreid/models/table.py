"""The models that distreid knows: one visible table, one file per family.

To add a family, write its file and add its names here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from distreid.errors import CheckpointError, OptionError
from distreid.host.counts import counted
from distreid.models import (
    clipreid,
    deep_sort,
    densenet,
    fastreid,
    ft_net,
    ft_net_backbones,
    generic,
    hacnn,
    lmbn,
    mlfn,
    mmtracking,
    mobilenet,
    mudeep,
    nasnet,
    oml,
    osnet,
    osnet_ain,
    pass_reid,
    pcb,
    reid_survey,
    resnet,
    se_resnet,
    shufflenet,
    solider,
    strong_baseline,
    timm_hub,
    torchreid_others,
    transreid,
    trunk,
)
from distreid.models.architecture import Architecture, Size, StateDict, resized
from distreid.models.choices import (
    EMBEDDING,
    INPUT,
    KEY,
    NETWORK,
    NO_CHOICES,
    Choices,
    choices_in,
    flag,
)

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
    **{name: partial(torchreid_others.read, name) for name in torchreid_others.NAMES},
    "shufflenet": shufflenet.read,
    nasnet.NAME: nasnet.read,
    "mudeep": mudeep.read,
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
    "pass": pass_reid.read,
    "solider": solider.read,
    "oml": oml.read,
    "mmtracking": mmtracking.read,
    "deep_sort": deep_sort.read,
    "lmbn_n": lmbn.read,
    reid_survey.NAME: reid_survey.read,
    **{name: partial(strong_baseline.read, name) for name in strong_baseline.PEERS},
}

RECOGNISERS: tuple[Callable[[StateDict], str | None], ...] = (
    deep_sort.recognise,
    lmbn.recognise,
    mmtracking.recognise,
    pass_reid.recognise,
    solider.recognise,
    oml.recognise,
    torchreid_others.recognise,
    nasnet.recognise,
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
    shufflenet.recognise,
    mudeep.recognise,
    hacnn.recognise,
    fastreid.recognise,
    transreid.recognise,
    clipreid.recognise,
    reid_survey.recognise,
    strong_baseline.recognise,
)
"""Weights to a key of `MODELS`, or None. The first that knows them decides."""


def find_model(
    name: str,
    state: StateDict,
    options: Mapping[str, Any],
    size: Size | None = None,
    choices: Choices = NO_CHOICES,
) -> Architecture:
    """The architecture by name, or with `auto` by what the weights look like.

    `size` is the input's, None for what the architecture says; `choices` what the user says beside
    it. OptionError for one that this network does not leave open.
    """
    return with_input(_find(name, state, {**options, KEY: choices}, size), choices)


def with_input(architecture: Architecture, choices: Choices) -> Architecture:
    """The same with the preprocessing that the user says. OptionError for a choice that this
    network does not leave open."""
    for choice in NETWORK:
        if choice in choices.given() and choice not in architecture.obeys:
            raise OptionError(
                f"{flag(choice)}: {architecture.name} leaves no such choice; take it away"
            )
    if choices.feature == EMBEDDING and EMBEDDING not in architecture.obeys:
        raise OptionError(f"--feature {EMBEDDING}: {architecture.name} has none; take it away")
    given = {name: value for name, value in choices.given().items() if name in INPUT}
    if not given:
        return architecture
    preprocess = architecture.preprocess.changed(**given)
    shorter = (choices.keep_aspect or "").partition("=")[2]
    if shorter and int(shorter) < (least := min(preprocess.height, preprocess.width)):
        raise OptionError(
            f"--keep-aspect crop={shorter}: leaves black borders in an input of "
            f"{preprocess.height}x{preprocess.width}; give {least} or more"
        )
    return replace(architecture, preprocess=preprocess)


def _find(
    name: str, state: StateDict, options: Mapping[str, Any], size: Size | None
) -> Architecture:
    choices = choices_in(options)
    of_trunk = choices.last_stride is not None or choices.pooling is not None
    of_trunk = of_trunk or choices.feature == EMBEDDING
    if ":" in name:
        # Under a prefix, or with a neck; as it is, it is loaded as it always was.
        under = trunk.best(state, only=name)
        if under and (under.prefix or of_trunk or trunk.head_of(state, under).layers):
            found = trunk.read(state, options, size, only=name)
            assert found is not None
            return found
        return generic.read(name, state, size)
    if name == "auto" and timm_hub.is_hub(options):
        return timm_hub.read(state, options, size)
    if name == "auto":
        known = recognise(state)
        if known is None or (known in resnet.SHAPES and of_trunk):
            return _known_trunk(state, options, size)
        name = known
    if name not in MODELS:
        near = ", ".join(difflib.get_close_matches(name, MODELS, 3, cutoff=0))
        raise OptionError(f"--model {name}: not known; near it: {near}; distreid models lists all")
    architecture = MODELS[name](state, options)
    preprocess = architecture.preprocess
    if size in (None, (preprocess.height, preprocess.width)):
        return architecture
    if architecture.fixed_size:
        raise OptionError(f"--input-size: {name} takes {preprocess.height}x{preprocess.width} only")
    return replace(architecture, preprocess=resized(preprocess, size))


def recognise(state: StateDict) -> str | None:
    """The name of `MODELS` that fits the weights, or None."""
    return next((name for recogniser in RECOGNISERS if (name := recogniser(state))), None)


def _known_trunk(state: StateDict, options: Mapping[str, Any], size: Size | None) -> Architecture:
    """A known network under any prefix; CheckpointError if there is none."""
    if found := trunk.read(state, options, size):
        return found
    first = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"{counted(len(state), 'tensor')} of no known model ({first}, …); name it by --model: "
        "timm:NAME, torchvision:NAME, your own package.module:function, or one that distreid "
        "models lists"
    )

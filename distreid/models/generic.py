"""Networks that no table lists: any of timm's or torchvision's, or the user's own.

    timm:NAME                  pooled features, as timm gives them without its classifier
    torchvision:NAME           what the last linear layer of a classifier takes, or a SqueezeNet's
                               classifier, pooled
    package.module:function    the user's: function() gives the nn.Module. It is the user's code,
                               and runs because the user named it.

None is recognised from a checkpoint: it has to be named. An image is resized whole to the size
that the network's own description names; the crop of its centre, which ImageNet's tests make
after that, would cut off heads and feet.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distreid.errors import CheckpointError, OptionError
from distreid.images.preprocess import Preprocess
from distreid.models import timm_extra
from distreid.models.architecture import Architecture, Size, StateDict, resized, rows_of
from distreid.models.network_index import FC_NORM, NORM
from distreid.models.torchvision_networks import torchvision_networks


def read(name: str, state: StateDict, size: Size | None) -> Architecture:
    """The architecture of a name with a colon; OptionError if there is none.

    `size` is the input's, None for the network's own.
    """
    source, _, what = name.partition(":")
    if source == "timm":
        return _of_timm(name, what, state, size)
    if source == "torchvision":
        return _of_torchvision(name, what, state, size)
    return _of_user(name, source, what, size)


def _of_timm(name: str, what: str, state: StateDict, size: Size | None) -> Architecture:
    timm = timm_extra.timm_for(name)
    if not timm.is_model(what):
        raise OptionError(f"--model {name}: timm has no such network")
    config = timm.get_pretrained_cfg(what)
    # Such as ViTs: their embeddings of places are made for one size.
    arguments: dict[str, Any] = {}
    if size and config.fixed_input_size:
        arguments["img_size"] = size
    if f"{FC_NORM}.weight" in state and f"{NORM}.weight" not in state:
        arguments["global_pool"] = "avg"  # timm puts the norm behind the mean then
    network = timm_extra.create(what, **arguments)
    own = timm.data.resolve_model_data_config(network)
    height, width = size or own["input_size"][1:]
    preprocess = Preprocess(
        height=height,
        width=width,
        interpolation=own["interpolation"],
        mean=tuple(own["mean"]),
        std=tuple(own["std"]),
    )
    heads = config.classifier if isinstance(config.classifier, tuple) else (config.classifier,)
    return _architecture(
        name,
        network,
        preprocess,
        peer="timm",
        feature="pooled, as timm gives it without a classifier",
        not_for_features=tuple(f"{head}." for head in heads),
        classes=rows_of(state, f"{heads[0]}.weight"),
        fixed_size=bool(config.fixed_input_size),
    )


def _of_torchvision(name: str, what: str, state: StateDict, size: Size | None) -> Architecture:
    if what not in torchvision_networks().list_models(module=torchvision_networks()):
        raise OptionError(f"--model {name}: torchvision has no such network for images")
    network = torchvision_networks().get_model(what, weights=None)
    linear = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)]
    if linear:
        last, feature = linear[-1], f"what {linear[-1]} takes"
        network.set_submodule(last, nn.Identity())
    else:  # SqueezeNets
        last, feature = "classifier.1", "pooled, what classifier takes"
        network.classifier = nn.AdaptiveAvgPool2d(1)
    own = torchvision_networks().get_model_weights(what).DEFAULT.transforms()
    height, width = size or own.crop_size * 2
    preprocess = Preprocess(
        height=height,
        width=width,
        interpolation=own.interpolation.value,
        mean=tuple(own.mean),
        std=tuple(own.std),
    )
    return _architecture(
        name,
        network,
        preprocess,
        peer="torchvision",
        feature=feature,
        not_for_features=(f"{last}.",),
        classes=rows_of(state, f"{last}.weight"),
    )


def _of_user(name: str, module_name: str, function: str, size: Size | None) -> Architecture:
    sys.path.append(os.getcwd())  # as `python -m` does, so that every command finds the module
    try:
        module = importlib.import_module(module_name)
        network = getattr(module, function)()
    except Exception as error:  # it is the user's code
        what = f"{type(error).__name__}: {error}"
        raise OptionError(f"--model {name}: {what}; MODULE:FUNCTION is wanted") from error
    if not isinstance(network, nn.Module):
        kind = type(network).__name__
        raise OptionError(f"--model {name}: gave a {kind}; torch.nn.Module is wanted")
    # A function that nobody wrote into a file is no module's.
    source = Path(str(module.__file__)).read_bytes()
    preprocess = getattr(network, "preprocess", None)
    if not isinstance(preprocess, Preprocess):  # a method of the user's own may have that name
        preprocess = Preprocess()
    return _architecture(
        name,
        network,
        preprocess if size is None else resized(preprocess, size),
        peer="your own code",
        feature="what it gives",
        options={"source": hashlib.sha256(source).hexdigest()[:16]},
    )


def _architecture(
    name: str, network: nn.Module, preprocess: Preprocess, **others: Any
) -> Architecture:
    return Architecture(
        name=name,
        build=lambda: network,
        dim=dim_of(network.eval(), preprocess),
        preprocess=preprocess,
        flip=False,
        **others,
    )


def dim_of(network: nn.Module, preprocess: Preprocess) -> int:
    """The dimension of the features, by trying; CheckpointError if the network gives none."""
    size = preprocess.height, preprocess.width
    try:
        with torch.inference_mode():
            features = network(torch.zeros(2, 3, *size))
    except Exception as error:  # anything may be wrong in a network that nobody knows
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(
            f"the network fails on 2 images of {size[0]}×{size[1]} ({reason}); "
            "--input-size says another size, and a batch may have any length"
        ) from error
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 2:
        kind = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise CheckpointError(f"the network gives {kind} for 2 images; (2, dim) is wanted")
    return features.shape[1]

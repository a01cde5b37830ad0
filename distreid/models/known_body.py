"""A known network by its name, without a classifier, and the input that it was made for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from distreid.images.preprocess import Preprocess
from distreid.models import timm_extra
from distreid.models.architecture import Size
from distreid.models.network_index import FC_NORM
from distreid.models.resnet import resnet
from distreid.models.torchvision_networks import torchvision_networks


def build(name: str, size: Size | None, last_stride: int | None) -> Any:
    """The network by its name in the index, untrained and without a classifier.

    `size` is the input's, for networks that are made for one.
    """
    source, _, what = name.rpartition(":")
    if source == "timm":
        takes_size = size and timm_extra.timm_for(name).get_pretrained_cfg(what).fixed_input_size
        network = timm_extra.create(what, **({"img_size": size} if takes_size else {}))
    elif source == "torchvision":
        network = torchvision_networks().get_model(what, weights=None)
        linear = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)]
        if linear:
            network.set_submodule(linear[-1], nn.Identity())
        else:
            network.classifier = nn.AdaptiveAvgPool2d(1)
    elif "_ibn_" in what and what.startswith("res"):
        base, _, ibn = what.partition("_ibn_")
        network = resnet(base, ibn)
    else:
        network = _family(what)
    if last_stride == 1:
        unstride(network.layer4)
    return network


def _family(name: str) -> Any:
    from distreid.models.table import MODELS  # which knows this module

    return MODELS[name]({}, {}).build()


def unstride(stage: Any) -> None:
    """The stage then keeps the size of its map, without dilation."""
    for name, module in list(stage[0].named_modules()):
        if isinstance(module, nn.Conv2d) and max(module.stride) == 2:
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d) and name.startswith(("downsample", "aa")):
            stage[0].set_submodule(name, nn.Identity())
        elif name == "aa" and hasattr(module, "filt"):
            module.stride = 1  # timm's BlurPool2d, which then blurs alone


def norm_last(network: Any) -> bool:
    """Makes a ViT of timm's take the mean of its patches before its last norm, as timm does for
    `global_pool="avg"`; False for what is none."""
    if not hasattr(network, FC_NORM):
        return False
    network.fc_norm, network.norm, network.global_pool = network.norm, nn.Identity(), "avg"
    return True


def has_last_stride(name: str) -> bool:
    """Whether it is a network of ResNet's kind; most have their last stage in `layer4`."""
    words = ("resnet", "resnext", "wide_resnet", "seresne", "senet", "skresne", "ecaresnet")
    return name.rpartition(":")[2].removeprefix("legacy_").startswith(words)


def own_preprocess(name: str) -> tuple[Preprocess, bool]:
    """The input that a network's own description names, and whether it takes that size alone."""
    source, _, what = name.rpartition(":")
    if source == "torchvision" and what.startswith(("vit_", "maxvit_")):
        return Preprocess(height=224, width=224, interpolation="bilinear"), True
    if source != "timm":
        return Preprocess(interpolation="bilinear"), False
    config = timm_extra.timm_for(name).get_pretrained_cfg(what)
    height, width = config.input_size[1:]
    own = Preprocess(
        height=height,
        width=width,
        interpolation=config.interpolation or "bicubic",
        mean=tuple(config.mean),
        std=tuple(config.std),
    )
    return own, bool(config.fixed_input_size)


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Within it, networks are built without memory for their numbers."""
    with torch.device("meta"):
        yield

"""A known network by its name, without a classifier: its last map, and its pooled feature."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.images.preprocess import Preprocess
from distreid.models import timm_extra
from distreid.models.architecture import Size
from distreid.models.fastreid_network import GeM
from distreid.models.resnet import resnet
from distreid.models.torchvision_networks import torchvision_networks

STAGES = ("layer1", "layer2", "layer3", "layer4")


class Body(nn.Module):
    """(B, 3, H, W) normalised images → (B, dim) pooled features.

    `pooling` is one of `choices.POOLINGS` or `gem=P`, or None for the network's own; ValueError if
    this network's last map cannot be had.
    """

    def __init__(self, network: Any, pooling: str | None) -> None:
        super().__init__()
        self.network = network
        word, _, number = (pooling or "").partition("=")
        if pooling and not has_map(network):
            raise ValueError(pooling)
        self.pooling = word
        self.gem = GeM(learned=False) if word == "gem" else None
        if self.gem is not None and number:
            self.gem.p = float(number)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        if not self.pooling:
            return self.network(images_BCHW)  # type: ignore[no-any-return]
        found = last_map(self.network, images_BCHW)
        if found.ndim == 3:  # tokens, the class token and the registers first
            first = int(getattr(self.network, "num_prefix_tokens", 1))
            if self.pooling == "token":
                return found[:, 0]
            found = found[:, first:].transpose(1, 2)[..., None]
        if self.gem is not None:
            return self.gem(found).flatten(1)  # type: ignore[no-any-return]
        average, most = found.mean((2, 3)), found.amax((2, 3))
        return {"avg": average, "max": most, "avg+max": average + most}[self.pooling]


def has_map(network: Any) -> bool:
    """Whether `last_map` knows the way."""
    return hasattr(network, "forward_features") or hasattr(network, "layer4") or _is_dense(network)


def has_token(network: Any) -> bool:
    """Whether the network has a class token."""
    return any("cls_token" in name for name, _ in network.named_parameters())


def last_map(network: Any, images_BCHW: Tensor) -> Tensor:
    """(B, C, h, w), or (B, tokens, C)."""
    if hasattr(network, "forward_features"):
        found: Tensor = network.forward_features(images_BCHW)
        channels_last = str(getattr(network, "output_fmt", "")).endswith("NHWC")
        return found.permute(0, 3, 1, 2) if channels_last and found.ndim == 4 else found
    if _is_dense(network):
        return F.relu(network.features(images_BCHW))
    x = network.maxpool(network.relu(network.bn1(network.conv1(images_BCHW))))
    for stage in STAGES:
        x = getattr(network, stage)(x)
    return x  # type: ignore[no-any-return]


def _is_dense(network: Any) -> bool:
    return type(network).__name__ == "DenseNet" and hasattr(network, "features")


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


def has_last_stride(name: str) -> bool:
    """Whether it is a network of ResNet's kind; most have their last stage in `layer4`."""
    words = ("resnet", "resnext", "wide_resnet", "seresne", "senet", "skresne", "ecaresnet")
    return name.rpartition(":")[2].removeprefix("legacy_").startswith(words)


def own_preprocess(name: str) -> tuple[Preprocess, bool]:
    """The input that a network's own description names, and whether it takes that size alone."""
    source, _, what = name.rpartition(":")
    if source == "torchvision" and what.startswith("vit_"):
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

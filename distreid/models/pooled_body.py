"""The feature of a known network by another pooling of its last map than its own."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.models.architecture import Size
from distreid.models.fastreid_network import GeM

STAGES = ("layer1", "layer2", "layer3", "layer4")


class Pooling(nn.Module):
    """(B, C, h, w) → (B, C), by one of `choices.POOLINGS` but `token`, or by `gem=P`."""

    def __init__(self, word: str, *, learned: bool = False) -> None:
        super().__init__()
        self.word, _, number = word.partition("=")
        self.gem = GeM(learned) if self.word == "gem" else None
        if self.gem is not None and number:
            self.gem.p = float(number)

    def forward(self, x: Tensor) -> Tensor:
        if self.gem is not None:
            return self.gem(x).flatten(1)  # type: ignore[no-any-return]
        if self.word == "max":
            return x.amax((2, 3))
        return x.mean((2, 3)) + x.amax((2, 3)) if self.word == "avg+max" else x.mean((2, 3))


class InPlace(nn.Module):
    """Another pooling where a network of timm's has its own, which gives the result its shape: of
    a map of one place it leaves the numbers as they are."""

    def __init__(self, pooling: Pooling, own: Any) -> None:
        super().__init__()
        self.pooling = pooling
        self.own = own
        self.channels_last = getattr(own.pool, "dim", None) == (1, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.channels_last:
            return self.own(self.pooling(x.permute(0, 3, 1, 2))[:, None, None])  # type: ignore[no-any-return]
        return self.own(self.pooling(x)[..., None, None])  # type: ignore[no-any-return]


class Body(nn.Module):
    """(B, 3, H, W) normalised images → (B, dim) pooled features.

    `pooling` is one of `choices.POOLINGS` or `gem=P`, or None for the network's own; layers that
    a network has behind its pooling follow this one. ValueError if the network's last map cannot
    be had. `learned` says that GeM's exponent is among the weights, under `exponent(network)`.
    """

    def __init__(self, network: Any, pooling: str | None, *, learned: bool = False) -> None:
        super().__init__()
        self.network = network
        self.token = pooling == "token"
        self.pooling = None
        if not pooling:
            return
        if not has_map(network):
            raise ValueError("the way to the network's last map is not known")
        place = _pooling_place(network)
        if place and not self.token:
            own = network.get_submodule(place)
            network.set_submodule(place, InPlace(Pooling(pooling, learned=learned), own))
        elif not self.token:
            self.pooling = Pooling(pooling, learned=learned)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        if not self.token and self.pooling is None:
            return self.network(images_BCHW)  # type: ignore[no-any-return]
        found = last_map(self.network, images_BCHW)
        if found.ndim == 4:
            assert self.pooling is not None
            return _behind(self.network, self.pooling(found)[..., None, None])
        first = _tokens_before_places(self.network)
        if self.pooling is None:
            pooled = found[:, 0]
        elif found.shape[1] == first:
            raise ValueError("the network gives tokens alone, without places")
        else:
            pooled = self.pooling(found[:, first:].transpose(1, 2)[..., None])
        return _behind(self.network, pooled[:, None].expand(-1, first + 1, -1))


def exponent(network: Any) -> str:
    """The name in `Body` of GeM's learned exponent."""
    place = _pooling_place(network)
    return f"network.{place}.pooling.gem.p" if place else "pooling.gem.p"


def pooled_dim(network: Any, pooling: str, size: Size) -> int | None:
    """How many numbers `Body` gives of an image of this size; None if it gives no feature."""
    device = next(network.parameters()).device
    try:
        body = Body(copy.deepcopy(network), pooling).eval()
        with torch.inference_mode():
            found: Any = body(torch.zeros(1, 3, *size, device=device))
    except (AttributeError, ValueError):  # several maps, or none
        return None
    return found.shape[1] if found.ndim == 2 else None


def _pooling_place(network: Any) -> str:
    """The name of the module with which a network of timm's pools its last map; empty if it does
    that by a line of code."""
    named = network.named_modules()
    places = [name for name, module in named if type(module).__name__ == "SelectAdaptivePool2d"]
    return places[-1] if places else ""


def _attends(network: Any) -> bool:
    """Whether the network pools by attention, whose weights are of no use to another pooling."""
    named = network.named_modules()
    return any("attn_pool" in name or "AttentionPool" in type(one).__name__ for name, one in named)


def _tokens_before_places(network: Any) -> int:
    own = getattr(network, "num_prefix_tokens", None)
    return int(has_token(network) if own is None else own)


def _behind(network: Any, pooled: Tensor) -> Tensor:
    """What a network of timm's does behind a pooling that is a line of code, which of one place
    makes that place again."""
    if _attends(network) or not hasattr(network, "forward_head"):
        return pooled.flatten(2)[..., 0] if pooled.ndim == 4 else pooled[:, 0]
    if str(getattr(network, "output_fmt", "")).endswith("NHWC"):
        pooled = pooled.permute(0, 2, 3, 1)
    return network.forward_head(pooled)  # type: ignore[no-any-return]


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

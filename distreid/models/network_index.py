"""Which known networks' tensors a file holds, under whatever prefix: by an index, not by trying.

The index has, of every network of timm's, torchvision's and our own families, a hash of the names
and shapes below each of its children (`conv1`, `layer1`, …). It is made by
tests/tools/networks/make_index.py. A network is found where a file has all of its children, each
with exactly these tensors, below one prefix; they may also be numbered, as in
`nn.Sequential(*network.children())`.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distreid.models.architecture import StateDict

FILE = Path(__file__).parent / "networks.json.gz"
HASH_BYTES = 6
# Not read in eval mode, or computed by every network for itself.
PASSED_OVER = (
    "num_batches_tracked",
    "relative_position_index",
    "relative_coords_table",
    "attn_mask",
)
POSITIONS = "pos_embed"
"""A child whose rows depend on the size of the input, so that only its width is compared."""
NORM, FC_NORM = "norm", "fc_norm"
"""A ViT's last norm, and timm's name of it where the mean of the patches comes first."""
LEAST_TENSORS = 8
LEAVES = ("weight", "bias")


@dataclass(frozen=True)
class Network:
    """An entry of the index."""

    name: str
    """`timm:NAME`, `torchvision:NAME`, or a name of `models.table`."""
    dim: int
    """Of its pooled features."""
    classifier: tuple[str, ...]
    """Names of the layers that tell classes apart: of no feature's use."""
    children: Mapping[str, tuple[int, str]]
    """Its parts that have tensors: place among the children, and hash."""


@dataclass(frozen=True)
class Found:
    """Networks of one structure in a file."""

    prefix: str
    """What stands before the names; empty, or ends with a dot."""
    networks: tuple[Network, ...]
    """Those that have exactly these tensors, the most likely first."""
    numbered: bool
    """Whether children have numbers instead of names."""
    tensors: int
    only_child: str = ""
    """The network's one child with tensors, if these stand below the prefix without its name, as
    of `self.backbone = densenet121().features`."""
    norm_is_last: bool = False
    """Whether the file has a ViT's last norm as `fc_norm`."""

    def name_of(self, key: str) -> str | None:
        """The network's own name of a tensor in the file; None if it is not the network's."""
        if not key.startswith(self.prefix):
            return None
        if self.only_child:
            return f"{self.only_child}.{key.removeprefix(self.prefix)}"
        network = self.networks[0]
        child, dot, rest = key.removeprefix(self.prefix).partition(".")
        if self.numbered:
            names = {str(place): name for name, (place, _) in network.children.items()}
            child = names.get(child, "")
        if child == FC_NORM and self.norm_is_last:
            child = NORM
        own = f"{child}{dot}{rest}"
        return own if child in network.children and own not in of_classes(network) else None

    def is_classifier(self, key: str) -> bool:
        """Whether the tensor is the network's own classifier."""
        own = key.removeprefix(self.prefix)
        if self.only_child or not key.startswith(self.prefix):
            return False
        return own in of_classes(self.networks[0])


def of_classes(network: Network) -> set[str]:
    """The names of its classifier's tensors."""
    return {f"{layer}.{leaf}" for layer in network.classifier for leaf in LEAVES}


@functools.cache
def networks() -> tuple[Network, ...]:
    """The index, in order of preference where two have the same structure."""
    with gzip.open(FILE, "rt", encoding="ascii") as stream:
        content = json.load(stream)
    hashes = content["hashes"]
    return tuple(
        Network(
            name,
            dim,
            tuple(classifier),
            {child: (place, hashes[number]) for child, (place, number) in children.items()},
        )
        for name, dim, classifier, children in content["networks"]
    )


@functools.cache
def _by_hash() -> dict[str, tuple[Network, ...]]:
    """Networks by the hash of their first child, where the search begins."""
    found: dict[str, list[Network]] = {}
    for network in networks():
        found.setdefault(next(iter(network.children.values()))[1], []).append(network)
    return {key: tuple(listed) for key, listed in found.items()}


class _Parts:
    """The tensors of a file by the prefixes and children that they could have."""

    def __init__(self, state: StateDict) -> None:
        self.shapes = {
            key: tuple(value.shape) for key, value in state.items() if not key.endswith(PASSED_OVER)
        }
        self.below: dict[str, dict[str, list[str]]] = {}
        for key in self.shapes:
            parts = key.split(".")
            for depth in range(len(parts)):
                prefix = "".join(f"{part}." for part in parts[:depth])
                self.below.setdefault(prefix, {}).setdefault(parts[depth], []).append(key)
        self.norm_is_last = {
            prefix
            for prefix, children in self.below.items()
            if FC_NORM in children and NORM not in children
        }
        for prefix in self.norm_is_last:
            self.below[prefix][NORM] = self.below[prefix][FC_NORM]
        self.hashes: dict[tuple[str, str, tuple[str, ...]], str] = {}

    def hash_of(self, prefix: str, child: str, classifier: tuple[str, ...] = ()) -> str:
        """Of a child without what of it belongs to a classifier; empty if nothing is left."""
        inner = tuple(layer for layer in classifier if layer.startswith(f"{child}."))
        place = prefix, child, inner
        if place not in self.hashes:
            left = [
                ("".join(key.removeprefix(prefix).partition(".")[1:]), self.shapes[key])
                for key in self.below.get(prefix, {}).get(child, ())
                if key.removeprefix(prefix) not in {f"{a}.{b}" for a in inner for b in LEAVES}
            ]
            self.hashes[place] = child_hash(child, left) if left else ""
        return self.hashes[place]


def child_hash(child: str, tensors: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """Of the names below a child, with their shapes."""
    lines = sorted(
        f"{name}:{shape[-1] if child == POSITIONS and len(shape) == 3 else shape}"
        for name, shape in tensors
    )
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=HASH_BYTES).hexdigest()


def find(state: StateDict, only: str = "") -> list[Found]:
    """The known networks in a file, the largest first; `only` is the name of one that is wanted."""
    parts = _Parts(state)
    found: dict[tuple[str, bool, str], dict[tuple[Any, ...], list[Network]]] = {}
    for prefix, children in parts.below.items():
        for child in children:
            for network in _by_hash().get(parts.hash_of(prefix, child), ()):
                if only and network.name != only:
                    continue
                places = [
                    (prefix, numbered, "")
                    for numbered in (False, True)
                    if _fits(parts, prefix, network, numbered)
                ]
                if not places and len(network.children) == 1:
                    places = [(f"{prefix}{child}.", False, next(iter(network.children)))]
                for where in places:
                    key = tuple(sorted(hash for _, hash in network.children.values()))
                    listed = found.setdefault(where, {}).setdefault(key, [])
                    if network not in listed:
                        listed.append(network)
    order = {network.name: place for place, network in enumerate(networks())}
    all_found = []
    for (prefix, numbered, only_child), groups in found.items():
        for listed in groups.values():
            listed.sort(key=lambda network: order[network.name])
            is_last = prefix in parts.norm_is_last and FC_NORM not in listed[0].children
            one = Found(prefix, tuple(listed), numbered, 0, only_child, is_last)
            tensors = sum(one.name_of(key) is not None for key in parts.shapes)
            if tensors >= LEAST_TENSORS:
                all_found.append(replace(one, tensors=tensors))
    return sorted(all_found, key=lambda one: (-one.tensors, len(one.prefix)))


def _fits(parts: _Parts, prefix: str, network: Network, numbered: bool) -> bool:
    return all(
        parts.hash_of(prefix, str(place) if numbered else name, network.classifier) == wanted
        if not numbered or name != POSITIONS
        else False
        for name, (place, wanted) in network.children.items()
    )

"""Makes distreid/models/networks.json.gz: names and shapes of all known networks' tensors, hashed.

    python tests/tools/networks/make_index.py

takes minutes: every network of timm and torchvision is built, without memory for its numbers.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from distreid.models import osnet, osnet_ain, resnet
from distreid.models.network_index import FILE, PASSED_OVER, child_hash
from distreid.models.table import MODELS

# Of networks of one structure, the first is the most likely; others are said.
FAMILIES = (*resnet.NAMES, *osnet.NAMES, *osnet_ain.NAMES, "mlfn", "mobilenetv2_x1_0")
SHALLOW = ("resnet18", "resnet34")  # without a bottleneck, so without IBN-b
IBN = tuple(
    f"{name}_ibn_{kind}"
    for name in (*SHALLOW, "resnet50", "resnet101", "resnet152", "resnext101_32x8d")
    for kind in "ab"
    if name not in SHALLOW or kind == "a"
)
UNLIKELY = re.compile(
    r"^(tf_|gc|test_|ig_|swsl_|ssl_|flexivit|deit|beit|samvit|eva_)|_lingbot$"
)  # by their names, not by their quality


def entry(name: str, network: nn.Module, dim: int, classifier: tuple[str, ...]) -> list[Any]:
    """A network's row, with hashes instead of their numbers."""
    shapes = {
        key: tuple(value.shape)
        for key, value in network.state_dict().items()
        if not key.endswith(PASSED_OVER)
        and not any(key.startswith(f"{layer}.") for layer in classifier)
    }
    places = {child: place for place, (child, _) in enumerate(network.named_children())}
    children: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for key, shape in shapes.items():
        child = key.split(".")[0]
        children.setdefault(child, []).append((key[len(child) :], shape))
    # The first child is where a search begins: one that tells as much as can be.
    ordered = sorted(children, key=lambda child: -len(children[child]))
    hashed = {
        child: (places.get(child, -1), child_hash(child, children[child])) for child in ordered
    }
    return [name, dim, list(classifier), hashed]


def of_timm(name: str) -> list[Any]:
    network = built(lambda: timm.create_model(name, num_classes=0))
    config: Any = timm.get_pretrained_cfg(name)
    classifier = getattr(config, "classifier", None) or ()
    layers = classifier if isinstance(classifier, tuple) else (classifier,)
    dim = dim_of(network, config.input_size)
    return entry(f"timm:{name}", network, dim, tuple(layers))


def of_torchvision(name: str) -> list[Any]:
    network = built(lambda: torchvision.models.get_model(name, weights=None))
    linear = [key for key, module in network.named_modules() if isinstance(module, nn.Linear)]
    last = linear[-1] if linear else "classifier"
    network.set_submodule(last, nn.Identity())
    if not linear:
        network.classifier = nn.AdaptiveAvgPool2d(1)
    size = 3, *((getattr(network, "image_size", 224),) * 2)
    return entry(f"torchvision:{name}", network, dim_of(network, size), (last,))


def of_family(name: str) -> list[Any]:
    architecture = MODELS[name]({}, {})
    network = built(architecture.build)
    plain = "resn" in name and "fc512" not in name
    return entry(name, network, architecture.dim, ("classifier", *(("fc",) if plain else ())))


def of_ibn(name: str) -> list[Any]:
    base, _, kind = name.partition("_ibn_")
    network = built(lambda: resnet.resnet(base, kind))
    return entry(name, network, resnet.SHAPES[base][2], ("fc",))


def built(make: Callable[[], Any]) -> Any:
    """A network without numbers; some read their own numbers while they are built."""
    try:
        with torch.device("meta"):
            return make().eval()
    except NotImplementedError:
        return make().eval().to("meta")


def dim_of(network: Any, size: tuple[int, ...]) -> int:
    try:
        with torch.inference_mode(), torch.device("meta"):
            features = network(torch.empty(2, *size))
        if isinstance(features, Tensor) and features.ndim == 2:
            return features.shape[1]
    except Exception:  # some operations have no meaning without numbers
        pass
    return int(getattr(network, "head_hidden_size", None) or network.num_features)


def likelihood(name: str) -> tuple[bool, int, str]:
    """For sorting timm's names: what trainers take first."""
    return bool(UNLIKELY.search(name)), len(name), name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--timm", nargs="*", help="only these of timm's, for a try")
    options = parser.parse_args()
    rows, failed = [], []
    of_vision = torchvision.models.list_models(module=torchvision.models)
    of_all_timm = timm.list_models() if options.timm is None else options.timm
    todo: list[tuple[Any, str]] = [(of_family, name) for name in FAMILIES]
    todo += [(of_ibn, name) for name in IBN if name not in FAMILIES]
    todo += [(of_torchvision, name) for name in of_vision]
    todo += [(of_timm, name) for name in sorted(of_all_timm, key=likelihood)]
    for number, (make, name) in enumerate(todo):
        try:
            rows.append(make(name))
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}: {str(error)[:90]}")
        if number % 50 == 0:
            print(number, len(todo), name, flush=True)
    write(rows, options.out)
    print(len(rows), "networks,", options.out.stat().st_size, "bytes; failed:", *failed, sep="\n")


def write(rows: list[list[Any]], file: Path) -> None:
    """Each hash once, and the same bytes each time."""
    hashes = sorted({hash for *_, children in rows for _, hash in children.values()})
    number_of = {hash: number for number, hash in enumerate(hashes)}
    listed = [
        [*row, {child: (place, number_of[hash]) for child, (place, hash) in children.items()}]
        for *row, children in rows
    ]
    text = json.dumps({"hashes": hashes, "networks": listed}, separators=(",", ":"))
    file.write_bytes(gzip.compress(text.encode("ascii"), 9, mtime=0))


if __name__ == "__main__":
    main()

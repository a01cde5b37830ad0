"""reid-strong-baseline (Luo et al., CVPRW 2019, arXiv:1903.07071), and the CNNs of those who took
its frame: TransReID, TransReID-SSL and SOLIDER. A ResNet under `base.`, batch norm `bottleneck`.

Their files have the same names and shapes, and differ in what no file holds:

    project                 ReLU of the stem        its max pooling   feature   mean, std
    reid-strong-baseline    only with IBN-a and SE  3×3               after     ImageNet's
    TransReID               only with IBN-a         2×2, IBN-a: 3×3   before    0.5
    TransReID-SSL, SOLIDER  yes                     2×2, IBN-a: 3×3   before    0.5

The first writes `bottleneck` before `classifier`, the others after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from distreid.errors import CheckpointError
from distreid.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from distreid.models.architecture import Architecture, StateDict
from distreid.models.network_index import Found
from distreid.models.peer_config import HALF, colour_of, settings, size_of
from distreid.models.trunk import Head, Preset, best, head_of
from distreid.models.trunk import read as read_trunk

PREFIX, NECK, CLASSIFIER = "base.", "bottleneck.weight", "classifier.weight"
PEERS = {
    "strong_baseline": "reid-strong-baseline",
    "transreid_cnn": "TransReID",
    "transreid_ssl_cnn": "TransReID-SSL",
}
UNDECIDED = (
    "the weights do not tell TransReID-SSL's ResNet from TransReID's, which has no ReLU after its "
    "first batch norm (--model transreid_cnn says so)"
)
WITHOUT_RELU = (
    "taken for {peer}'s, whose ResNet has no ReLU after its first batch norm; of one's own, "
    "--model torchvision:{network} says so"
)
NECK_FEATURES = {"before": "before-neck", "after": "after-neck"}


def recognise(state: StateDict) -> str | None:
    """A key of `PEERS`, or None."""
    if not {f"{PREFIX}conv1.weight", f"{PREFIX}layer0.conv1.weight"} & state.keys():
        return None
    found = best(state) if NECK in state else None
    if found is None or found.prefix != PREFIX:
        return None
    head = head_of(state, found)
    if head.unknown:
        return None
    names = list(state)
    if CLASSIFIER in state and names.index(CLASSIFIER) < names.index(NECK):
        return "transreid_ssl_cnn"
    return None if head.gem else "strong_baseline"  # which pools by the mean


def read(name: str, state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture of a key of `PEERS`."""
    found = read_trunk(state, options, preset=partial(_preset, name, options))
    if found is None:
        raise CheckpointError(f"no known network under {PREFIX!r}, as {PEERS[name]} has")
    return found


def _preset(name: str, options: Mapping[str, Any], found: Found, head: Head) -> Preset:
    ours = name == "strong_baseline"
    said, notes = settings(
        options,
        {
            "TEST.NECK_FEAT": "after" if ours else "before",
            "MODEL.LAST_STRIDE": 1,
            "INPUT.SIZE_TEST": (256, 128),
        },
    )
    if said["TEST.NECK_FEAT"] not in NECK_FEATURES:
        raise CheckpointError(f"config.yaml: TEST.NECK_FEAT is {said['TEST.NECK_FEAT']!r}")
    if said["MODEL.LAST_STRIDE"] not in (1, 2):
        raise CheckpointError(f"config.yaml: MODEL.LAST_STRIDE is {said['MODEL.LAST_STRIDE']}")
    height, width = size_of(said["INPUT.SIZE_TEST"])
    network = found.networks[0].name
    plain = "ibn" not in network and "se" not in network
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if ours else (HALF, HALF)
    return Preset(
        name=name,
        peer=PEERS[name],
        feature=NECK_FEATURES[said["TEST.NECK_FEAT"]],
        last_stride=said["MODEL.LAST_STRIDE"],
        stem_relu=not plain or name == "transreid_ssl_cnn",
        small_max_pool=plain and not ours,
        preprocess=Preprocess(
            height=height,
            width=width,
            interpolation="bilinear",
            mean=colour_of(options, "INPUT.PIXEL_MEAN", mean),
            std=colour_of(options, "INPUT.PIXEL_STD", std),
        ),
        notes=(*notes, *_not_told(name, network if plain else "")),
    )


def _not_told(name: str, plain: str) -> tuple[str, ...]:
    """What no file of a plain ResNet, by its name, tells."""
    if not plain:
        return ()
    if name == "transreid_ssl_cnn":
        return (UNDECIDED,)
    return (WITHOUT_RELU.format(peer=PEERS[name], network=plain),)

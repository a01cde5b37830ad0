"""What a store says of its features: which space they lie in, and how they were computed.

On the disk the identity is one flat object of keys. This table divides it. Two stores of one
feature space can be searched together and merged; a run is continued only where both parts are
equal. A key is absent where it has the value that distreid 0.1.0 had, which knew nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distreid.errors import StoreError

CROP = "crop"
VIDEO = "video"
PASSES, FILLED = "passes", "filled"
EXPORTED = "exported"
MERGED = "merged"
RESIZE, HORIZONTAL_FIRST = "resize", "horizontal first"
TALL_VERTICALLY_FIRST = "tall images vertically first"
"""As Pillow does since version 13, and distreid 0.1.0 with it did."""

FEATURE_SPACE = (
    "weights",  # SHA-256 of the checkpoint's bytes, hex; see `models.weights.Checkpoint`
    "model",  # the network and the layer that the feature is taken from
    "preprocess",  # decoding, size, normalisation
    RESIZE,  # the order of the passes; of distreid 0.1.0's stores see `resize_rule`
    "augmentation",  # the views that are summed
    "imported",  # of features made elsewhere: the name of their space; absent: made here
    "dim",  # of a feature
)
"""What makes two features comparable."""
HOW_COMPUTED = (
    "manifest",  # SHA-256 of the rows, hex
    "file",  # of features made elsewhere, the SHA-256 of their file, hex
    "dtype",  # of the stored features
    "precision",  # of the forward pass
    "engine",  # what computed the network; absent: torch
    "int8",  # of an int8 network, its SHA-256 and what it was calibrated on; absent: it is none
    EXPORTED,  # SHA-256 of the file that computed, an export of the weights, hex; absent: none
    "compile",  # torch's mode; absent: not compiled
    MERGED,  # how images became tracklets, and the rows that they were; absent: they did not
    VIDEO,  # what decoded frames of videos, and how; absent: there are none
    CROP,  # how boxes are cut out of frames; absent: there are none
    PASSES,  # `FILLED`: every pass on a CPU has 8 rows; absent: as many as were left
    "versions",  # of the libraries that the last bits depend on, and of the store's format
)
"""What else the bytes depend on: with another value they differ in their last bits, or rows."""

ABSENT = {"engine": "torch", "compile": "off"}
"""What the absence of a key says, where it has a name."""


def feature_space(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an identity that two stores must share to be searched together.

    StoreError names a key that neither part has: a newer distreid wrote it.
    """
    resize = {} if "imported" in identity else {RESIZE: resize_rule(identity)}
    return _part(identity, FEATURE_SPACE) | resize


def how_computed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The other part; StoreError as `feature_space`."""
    return _part(identity, HOW_COMPUTED)


def resize_rule(identity: Mapping[str, Any]) -> str:
    """In which order the passes of the resize were made.

    Of a store that does not say it, by the version of Pillow that made it. `TALL_VERTICALLY_FIRST`
    is the same as `HORIZONTAL_FIRST` where no image is tall enough.
    """
    if RESIZE in identity:
        return str(identity[RESIZE])
    pillow = str(identity["versions"]["Pillow"])
    return HORIZONTAL_FIRST if int(pillow.partition(".")[0]) < 13 else TALL_VERTICALLY_FIRST


def _part(identity: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    if unknown := sorted(identity.keys() - {*FEATURE_SPACE, *HOW_COMPUTED}):
        raise StoreError(
            f"an identity with {', '.join(unknown)}, which this distreid does not know; use the "
            "version that wrote it"
        )
    return {key: identity[key] for key in keys if key in identity}

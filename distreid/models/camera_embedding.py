"""Which of a network's camera embeddings every image takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distreid.data import manifest as rows_of
from distreid.data.manifest import VIEWPOINT, Manifest
from distreid.errors import DataError, OptionError
from distreid.models.architecture import MEAN_CAMERA, NO_CAMERA, Architecture

INSTEAD = {"mean": MEAN_CAMERA, "none": NO_CAMERA}


def camera_indices(manifest: Manifest, architecture: Architecture, choice: str) -> Tensor | None:
    """(N,) int64 for `Architecture.cameras`; None for a network that takes no cameras.

    `auto`: camera_id - 1, as TransReID and CLIP-ReID number the cameras of file names, times the
    viewpoints plus the image's own, where the network has embeddings of these; DataError names the
    first image whose camera or viewpoint the network does not know. `mean` and `none`, which are
    keys of `INSTEAD`: the same for every image, so that all features are of one kind.
    OptionError if one is asked of a network that takes none.
    """
    known = architecture.cameras
    if known is None:
        if choice != "auto":
            raise OptionError(f"--camera-embedding {choice}: this network has none of any camera")
        return None
    if choice != "auto":
        return torch.full((len(manifest),), INSTEAD[choice])
    unknown = np.flatnonzero((manifest.camera_id < 1) | (manifest.camera_id > known))
    if len(unknown):
        row = int(unknown[0])
        camera = manifest.camera_id[row]
        has = "no camera" if camera == rows_of.NO_CAMERA else f"camera {camera}"
        raise DataError(
            f"row {row}, {manifest.file(row)}: {has}, and the network knows cameras 1 to {known} "
            f"({len(unknown):,} such images); give --camera-embedding mean or none"
        )
    return torch.from_numpy(
        (manifest.camera_id - 1) * architecture.viewpoints + _viewpoints(manifest, architecture)
    )


def _viewpoints(manifest: Manifest, architecture: Architecture) -> NDArray[np.int64]:
    """(N,): the column of viewpoints; zeros for a network that knows none."""
    if architecture.viewpoints == 1:
        return np.zeros(len(manifest), np.int64)
    each = f"the network has an embedding for each of {architecture.viewpoints} viewpoints"
    if VIEWPOINT not in manifest.extra:
        raise DataError(
            f"{manifest.root}: {each}, and the images have no column {VIEWPOINT!r}, which counts "
            "from 0; add it to the table, or give --camera-embedding mean or none"
        )
    known = {str(number).encode(): number for number in range(architecture.viewpoints)}
    found = [known.get(value, -1) for value in manifest.extra[VIEWPOINT].tolist()]
    if -1 in found:
        row = found.index(-1)
        value = manifest.extra[VIEWPOINT][row].decode(errors="replace")
        raise DataError(
            f"row {row}, {manifest.file(row)}: {VIEWPOINT} is {value!r}, and {each}, from 0 to "
            f"{architecture.viewpoints - 1}; mend it, or give --camera-embedding mean or none"
        )
    return np.array(found, np.int64)


def embedding_identity(architecture: Architecture, choice: str) -> dict[str, Any]:
    """What a store's identity says of the embeddings that the images take."""
    if architecture.cameras is None:
        return {}
    own = choice == "auto" and architecture.viewpoints > 1
    return {"camera_embedding": choice} | ({"viewpoints": architecture.viewpoints} if own else {})


def describe_choice(architecture: Architecture, choice: str) -> list[str]:
    """What the images' cameras are taken for, and what is lost if they are not, for people."""
    if choice == "auto":
        return [
            "each image takes the embedding of its camera, by number: camera 1 must be the first "
            "that the network was trained with, and so on; else give --camera-embedding mean"
        ]
    instead = {"mean": "the mean of all cameras' embeddings", "none": "no camera's embedding"}
    return [
        f"warning: every image takes {instead[choice]}. The network was trained with each image's "
        "own, so these are not the features of its own code, images of different cameras are less "
        "alike than it can make them, and its published scores will not be reached"
    ]

"""Which of a network's camera embeddings every image takes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distreid import manifest as rows_of
from distreid.errors import DataError, OptionError
from distreid.manifest import Manifest
from distreid.models.architecture import MEAN_CAMERA, NO_CAMERA, Architecture

INSTEAD = {"mean": MEAN_CAMERA, "none": NO_CAMERA}


def camera_indices(manifest: Manifest, architecture: Architecture, choice: str) -> Tensor | None:
    """(N,) int64 for `Architecture.cameras`; None for a network that takes no cameras.

    `auto`: camera_id - 1, as TransReID and CLIP-ReID number the cameras of file names; DataError
    names the first image whose camera the network does not know. `mean` and `none`, which are
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
        knows = f"the network knows cameras 1 to {known}" if known else "the network knows none"
        raise DataError(
            f"row {row}, {manifest.file(row)}: {has}, and {knows} ({len(unknown):,} such images); "
            "give --camera-embedding mean or none"
        )
    return torch.from_numpy(manifest.camera_id - 1)


def cost(architecture: Architecture, choice: str) -> list[str]:
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

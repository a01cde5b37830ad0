"""Checkpoints of the usual networks with the weights that torch starts training from."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from distreid.models.checkpoint import load_model

sys.path.insert(0, str(Path(__file__).parent.parent))

from conftest import GOLDEN, Pack

FT_NET = "ft_net ResNet-50"
NETWORKS = {
    FT_NET: "person_reid_baseline_pytorch/ft_net_r50_s2_512",
    "OSNet x1.0": "torchreid/osnet_x1_0",
    "ViT-B/16": "fastreid/bagtricks_vit",
}
"""A name to the golden pack of the same architecture."""


def untrained(network: str, folder: Path) -> Path:
    """A checkpoint file in the folder. The packs' own weights would magnify rounding more than
    any that are trained."""
    file = Pack(GOLDEN / NETWORKS[network]).save(folder)
    architecture = load_model(str(file)).architecture
    torch.manual_seed(0)
    torch.save(architecture.build().state_dict(), file)
    return file

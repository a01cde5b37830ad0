"""torchvision's networks, loaded with the first that is built: importing torchvision takes as
long as importing torch, and most checkpoints are of networks that do without."""

from __future__ import annotations

from typing import Any


def torchvision_networks() -> Any:
    """The module `torchvision.models`."""
    import torchvision

    return torchvision.models

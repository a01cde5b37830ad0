"""timm's networks, which are an extra of distreid's."""

from __future__ import annotations

from typing import Any

from distreid.errors import CheckpointError


def timm_for(what: str) -> Any:
    """The module; CheckpointError without it, which says that `what` needs it."""
    try:
        import timm
    except ImportError as error:
        raise CheckpointError(
            f"{what} is one of timm's networks: pip install 'distreid[models]'"
        ) from error
    return timm


def create(name: str, **arguments: Any) -> Any:
    """timm's untrained network of that name, without a classifier."""
    return timm_for(name).create_model(name, pretrained=False, num_classes=0, **arguments)

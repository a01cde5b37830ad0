"""timm's networks, which are an extra of distreid's."""

from __future__ import annotations

from typing import Any

from distreid.errors import CheckpointError


def create(name: str, **arguments: Any) -> Any:
    """timm's untrained network of that name, without a classifier; CheckpointError if timm
    is not installed."""
    try:
        import timm
    except ImportError as error:
        raise CheckpointError(
            f"its network is timm's {name}; install timm: pip install 'distreid[models]'"
        ) from error
    return timm.create_model(name, pretrained=False, num_classes=0, **arguments)

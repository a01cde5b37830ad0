"""What is supported, as the table in the README; a test keeps that one equal to this."""

from __future__ import annotations

from torch import empty

from distreid.models import MODELS
from distreid.models.architecture import Architecture

HEADER = (
    "| `--model` | of | input | feature | dimensions | mirror image |\n|---|---|---|---|---|---|"
)
RESNET50: dict[str, tuple[int, ...]] = {
    f"backbone.layer3.{block}.conv1.weight": (1,) for block in range(6)
}
# Shapes, for the families that a name alone does not tell: the table shows what these give.
EXAMPLES: dict[str, dict[str, tuple[int, ...]]] = {
    **{name: RESNET50 for name in MODELS if name.startswith("fastreid")},
    "transreid": {"base.pos_embed": (1, 129, 768)},
    "clipreid": {
        "image_encoder.class_embedding": (768,),
        "image_encoder.positional_embedding": (129, 768),
        "image_encoder.proj": (768, 512),
    },
}


def models_table() -> str:
    """The rows of `MODELS`, in its order, in Markdown; equal ones become one row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, reader in MODELS.items():
        shapes = EXAMPLES.get(name, {})
        state = {key: empty(shape, device="meta") for key, shape in shapes.items()}
        rows.setdefault(cells(reader(state, {})), []).append(f"`{name}`")
    lines = [" | ".join(("| " + ", ".join(names), *row)) + " |" for row, names in rows.items()]
    return "\n".join((HEADER, *lines))


def cells(architecture: Architecture) -> tuple[str, ...]:
    """A row without its name."""
    pre = architecture.preprocess
    only = " only" if architecture.fixed_size else ""
    return (
        architecture.peer,
        f"{pre.height}×{pre.width}{only}, {pre.interpolation}",
        architecture.feature,
        str(architecture.dim),
        "summed" if architecture.flip else "no",
    )

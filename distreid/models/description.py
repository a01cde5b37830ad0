"""The networks that a name stands for, as tables: in Markdown, in a terminal, for programs."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from torch import device, empty

from distreid.models.architecture import Architecture
from distreid.models.resnet import resnet
from distreid.models.strong_baseline import PEERS
from distreid.models.table import MODELS

HEADER = (
    "| `--model` | of | input | feature | dimensions | mirror image |\n|---|---|---|---|---|---|"
)


def resnet50_shapes() -> _Shapes:
    """Of torchvision's ResNet-50 without its classifier."""
    with device("meta"):
        return {key: tuple(value.shape) for key, value in resnet("resnet50").state_dict().items()}


# The shapes that a family's architecture depends on; it shows what these give.
_Shapes = dict[str, tuple[int, ...]]
_RESNET50: _Shapes = {
    f"backbone.layer3.{block}.conv1.weight": (256, 1024, 1, 1) for block in range(6)
}
_MGN: _Shapes = {f"b1.0.{block}.conv1.weight": (256, 1024, 1, 1) for block in range(5)}
_MGN |= {"b1_head.bottleneck.0.weight": (256, 2048, 1, 1)}
_STRONG: _Shapes = {
    **{f"base.{key}": shape for key, shape in resnet50_shapes().items()},
    **{f"bottleneck.{leaf}": (2048,) for leaf in ("weight", "bias", "running_mean", "running_var")},
}
_SOLIDER: _Shapes = {
    "base.patch_embed.projection.weight": (96, 3, 4, 4),
    "base.semantic_embed_w.0.weight": (192, 2),
    **{
        f"base.stages.{stage}.blocks.{block}.norm1.weight": (96 << stage,)
        for stage, depth in enumerate((2, 2, 6, 2))
        for block in range(depth)
    },
}
_OML: _Shapes = {
    "model.model.pos_embed": (1, 197, 384),
    "model.model.patch_embed.proj.weight": (384, 3, 16, 16),
    "model.model.blocks.0.attn.qkv.weight": (1152, 384),
}
EXAMPLES: dict[str, _Shapes] = {
    **{
        name: _MGN if "mgn" in name else _RESNET50 for name in MODELS if name.startswith("fastreid")
    },
    **dict.fromkeys(PEERS, _STRONG),
    "reid_survey": {**_STRONG, "global_pool.p": (1,), "base.NL_2.0.g.weight": (1, 512, 1, 1)},
    "pass": {"base.pos_embed": (1, 128, 768)},
    "solider": _SOLIDER,
    "oml": _OML,
    "mmtracking": {
        **{f"backbone.{key}": shape for key, shape in resnet50_shapes().items()},
        "head.fcs.0.fc.weight": (1024, 2048),
        "head.fc_out.weight": (128, 1024),
    },
    "transreid": {"base.pos_embed": (1, 129, 768)},
    "clipreid": {
        "image_encoder.positional_embedding": (129, 768),
        "image_encoder.proj": (768, 512),
    },
}


def models_table() -> str:
    """The rows of `MODELS`, in its order, in Markdown; equal ones become one row."""
    lines = [
        " | ".join(("| " + ", ".join(f"`{name}`" for name in names), *row)) + " |"
        for row, names in grouped().items()
    ]
    return "\n".join((HEADER, *lines))


def terminal_tables() -> Group:
    """The same for a terminal, a table for each family."""
    tables: dict[str, Table] = {}
    for (family, size, feature, dimensions, mirror), names in grouped().items():
        if family not in tables:
            tables[family] = table = Table(
                title=family, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
            )
            table.add_column("--model", no_wrap=True)
            table.add_column("input", no_wrap=True)
            table.add_column("dimensions", justify="right")
            table.add_column("feature; mirror image")
        shown = f"{feature}; mirror image {mirror}" if mirror == "summed" else feature
        tables[family].add_row("\n".join(names), size, dimensions, shown)
    return Group(*tables.values())


def model_rows() -> list[dict[str, str]]:
    """The same for programs, a row for each name."""
    keys = ("family", "input", "feature", "dimensions", "mirror_image")
    return [
        {"name": name, **dict(zip(keys, row, strict=True))}
        for row, names in grouped().items()
        for name in names
    ]


def grouped() -> dict[tuple[str, ...], list[str]]:
    """What a row of the tables says, and the names that it says it of."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, reader in MODELS.items():
        shapes = EXAMPLES.get(name, {})
        state = {key: empty(shape, device="meta") for key, shape in shapes.items()}
        rows.setdefault(cells(reader(state, {})), []).append(name)
    return rows


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

"""What a checkpoint is taken for, and what is in it, as two tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich import box
from rich.table import Table
from torch import Tensor

from distreid.errors import printable
from distreid.models.checkpoint import Model
from distreid.protocol import preset_of

SHAPES_SHOWN = 2
ROWS_WANTED = 8


def model_table(model: Model) -> Table:
    """What the checkpoint was recognised as, and what could not be read off it."""
    arch, pre = model.architecture, model.architecture.preprocess
    fixed = "; this size only" if arch.fixed_size else ""
    mean, std = (", ".join(f"{value:g}" for value in three) for three in (pre.mean, pre.std))
    options = ", ".join(f"{key} {value}" for key, value in arch.options.items())
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("family", arch.peer)
    table.add_row("architecture", arch.name + (f" ({options})" if options else ""))
    table.add_row("input", f"{pre.height}×{pre.width}, {pre.interpolation}{fixed}")
    table.add_row("", f"mean {mean}; std {std}")
    table.add_row("feature", f"{arch.feature}; {arch.dim} dimensions")
    table.add_row("mirror image", "summed" if arch.flip else "not used")
    if preset := preset_of(arch.peer):
        table.add_row("metric", f"{', '.join(preset.words)} (protocol {preset.name})")
    classes = "no classifier in the file" if arch.classes is None else f"{arch.classes:,}"
    table.add_row("classes", classes)
    if arch.cameras is not None:
        known = "with an embedding each" if arch.cameras else "embeddings, nobody knows whose"
        table.add_row("cameras", f"{arch.options['cameras']} {known}")
    table.add_row("weights", f"{model.loaded} tensors, all that the network has")
    for note in model.checkpoint.notes:
        table.add_row("", printable(note))
    for note in arch.notes or ("nothing",):
        table.add_row("not read off", note)
    return table


def key_table(state: Mapping[str, Tensor], dropped: tuple[str, ...] = ()) -> Table:
    """The names in the file by prefix: how many tensors, how many numbers, their shapes."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("keys", no_wrap=True)
    table.add_column("tensors", justify="right")
    table.add_column("numbers", justify="right")
    table.add_column("shapes")
    table.add_column("")
    for prefix, keys in groups(list(state)):
        shapes = dict.fromkeys("×".join(map(str, state[key].shape)) for key in keys)
        shapes.pop("", None)  # of counters
        more = ", …" if len(shapes) > SHAPES_SHOWN else ""
        table.add_row(
            printable(prefix),
            f"{len(keys):,}",
            f"{sum(state[key].numel() for key in keys):,}",
            ", ".join(list(shapes)[:SHAPES_SHOWN]) + more,
            "not needed" if set(keys) <= set(dropped) else "",
        )
    return table


def groups(keys: list[str], depth: int = 1) -> Iterator[tuple[str, list[str]]]:
    """Names by their first parts, in the order of the file: as few parts as give enough rows,
    for a file may put all under `model.` or `backbone.`."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(".".join(key.split(".")[:depth]), []).append(key)
    if len(found) < ROWS_WANTED and depth < max(key.count(".") for key in keys):
        yield from groups(keys, depth + 1)
    else:
        yield from found.items()

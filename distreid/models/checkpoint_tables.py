"""What a checkpoint is taken for, and what is in it, as two tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich import box
from rich.table import Table
from torch import Tensor

from distreid.errors import printable
from distreid.evaluation.protocol import preset_of
from distreid.images.preprocess import Preprocess
from distreid.models.checkpoint import Model

SHAPES_SHOWN = 2
ROWS_WANTED = 8


def model_table(model: Model) -> Table:
    """What the checkpoint was recognised as, and what could not be read off it."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in description(model):
        table.add_row(name, printable(value))
    return table


def description(model: Model) -> list[tuple[str, str]]:
    """What a model is, as pairs of a name and a value; further lines of a name have none."""
    arch, pre = model.architecture, model.architecture.preprocess
    fixed = "; this size only" if arch.fixed_size else ""
    mean, std = (", ".join(f"{value:g}" for value in three) for three in (pre.mean, pre.std))
    options = ", ".join(f"{key} {value}" for key, value in arch.options.items())
    found = [
        ("family", arch.peer),
        ("architecture", arch.name + (f" ({options})" if options else "")),
        ("input", f"{pre.height}×{pre.width}, {pre.interpolation}{fixed}"),
        ("", f"mean {mean}; std {std}{_input_of(pre)}"),
        ("feature", f"{arch.feature}; {arch.dim} dimensions"),
        ("mirror image", "summed" if arch.flip else "not used"),
    ]
    if preset := preset_of(arch.peer):
        found.append(("metric", f"{', '.join(preset.words)} (protocol {preset.name})"))
    classes = "no classifier in the file" if arch.classes is None else f"{arch.classes:,}"
    found.append(("classes", classes))
    if arch.cameras is not None:
        known = "with an embedding each"
        if arch.viewpoints > 1:
            known = f"times {arch.viewpoints} viewpoints (--viewpoints)"
        found.append(("cameras", f"{arch.cameras} {known}"))
    all_of_it = f"{model.loaded} tensors, all that the network has"
    found.append(("weights", all_of_it if model.loaded else "in the graph of the file"))
    found += [("", note) for note in model.checkpoint.notes]
    return found + [("not read off", note) for note in arch.notes or ("nothing",)]


def _input_of(pre: Preprocess) -> str:
    """What is not as most have it."""
    aspect = {"no": "", "pad": "; padded", "crop": "; its middle"}.get(pre.keep_aspect)
    if aspect is None:
        aspect = f"; the middle of {pre.keep_aspect.partition('=')[2]} on the shorter side"
    return aspect + ("; channels in the order BGR" if pre.channels == "bgr" else "")


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

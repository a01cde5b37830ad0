"""Programs instead of weights: TorchScript archives and `torch.export` files (.pt2).

Such a file holds its network's operations. No Python of the file is run when it is opened, but
extracting runs the program, and a program may be made to do harm. So it has to be asked for,
by `--model torchscript` or `--model export`.
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distreid.errors import CheckpointError
from distreid.images.preprocess import Preprocess
from distreid.models.architecture import Architecture, Size, resized
from distreid.models.choices import Choices
from distreid.models.generic import dim_of
from distreid.models.program_files import EXTRA_FILE, exported_architecture

# What of each kind's archive no checkpoint holds.
MARKS = {"torchscript": "constants.pkl", "export": "archive_format"}


def kind_of(file: Path) -> str | None:
    """A key of `MARKS`, or None for a file that holds no program."""
    if not zipfile.is_zipfile(file):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            names = {Path(name).name for name in archive.namelist()}
    except Exception:  # zipfile raises nearly anything of a damaged list of names
        return None
    return next((kind for kind, mark in MARKS.items() if mark in names), None)


def open_program(
    file: Path, kind: str, size: Size | None, choices: Choices
) -> tuple[nn.Module, Architecture]:
    """The program as a network; CheckpointError if the file holds none of this kind.

    What it expects of its input is not in the file, apart from the size in an exported one.
    """
    if kind_of(file) != kind:
        raise CheckpointError(f"--model {kind}: the file holds no such program")
    try:
        with warnings.catch_warnings():
            # torch.jit is deprecated, but its files are still there.
            warnings.simplefilter("ignore", FutureWarning)
            read = _torchscript if kind == "torchscript" else _exported
            network, own, metadata = read(file)
    except Exception as error:  # damaged archives raise nearly anything
        raise CheckpointError("a damaged program, or of another torch") from error
    if metadata:
        return network, exported_architecture(file, kind, metadata, size, choices)
    preprocess = resized(Preprocess(), size or own or (256, 128))
    notes = ["mean and standard deviation: not in the program; ImageNet's are taken"]
    if not (size or own):
        notes.append("input size: not in the program; --input-size HxW says it")
    return network, Architecture(
        name=kind,
        peer="your own code",
        build=lambda: network,
        dim=dim_of(network, preprocess),
        feature="what the program gives",
        preprocess=preprocess,
        flip=False,
        fixed_size=own is not None,
        notes=tuple(notes),
    )


def _torchscript(file: Path) -> tuple[nn.Module, Size | None, str]:
    extra = {EXTRA_FILE: ""}
    network = torch.jit.load(str(file), map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
    return network.eval(), None, _text(extra[EXTRA_FILE])


def _exported(file: Path) -> tuple[nn.Module, Size | None, str]:
    """The program, the height and width of its input if they are fixed, and what it says."""
    extra = {EXTRA_FILE: ""}
    program = torch.export.load(file, extra_files=extra)
    name = program.graph_signature.user_inputs[0]
    shape: Any = next(n.meta["val"].shape for n in program.graph.nodes if n.name == name)
    height, width = shape[2:]
    fixed = isinstance(height, int) and isinstance(width, int)
    return program.module(), (height, width) if fixed else None, _text(extra[EXTRA_FILE])


def _text(content: str | bytes) -> str:
    return content.decode() if isinstance(content, bytes) else content

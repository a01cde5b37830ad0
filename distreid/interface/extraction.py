"""The main job in the caller's process."""

from __future__ import annotations

import argparse
import difflib
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from distreid.errors import OptionError, Stopped
from distreid.interface.opened_store import Store
from distreid.job.main_job import run
from distreid.job.options import (
    ExtractOptions,
    columns,
    input_size,
    path_text,
    scales,
    split_names,
    three_numbers,
    words,
)
from distreid.job.runs import run_folders
from distreid.ranks.group import World
from distreid.store import FeatureStore

GIVEN = ("data", "checkpoints", "out")
# Of the options that are several values: what reads the command line's form, and an example.
SEVERAL: dict[str, tuple[Callable[[str], Any], str]] = {
    "input_size": (input_size, "(256, 128)"),
    "scales": (scales, "(1, 1.1)"),
    "mean": (three_numbers, "(0.485, 0.456, 0.406)"),
    "std": (three_numbers, "(0.229, 0.224, 0.225)"),
    "classes": (words, '("person", "2")'),
}


def extract_features(
    data: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    **options: Any,
) -> Store | list[Store]:
    """Extracts the features of `data` with `checkpoint` into the run `out`; gives its store.

    It is `distreid extract` in this process: it says what it does on stderr, continues a run that
    was interrupted, scores it where the data has queries, and leaves what is complete as it is.
    Options have the names of the command line with `_` for `-`: `batch_size=32`, `flip=True`,
    `precision="bf16"`, `evaluate=False`, … `columns` and `split_names` are texts as there, or
    dictionaries: `columns={"path": "image"}`, `split_names={"probe": "query"}`.
    Several checkpoints give a list of stores.

    TypeError for an option that there is not. Errors are `distreid.errors.UserError`s, whose text
    is one line; Ctrl-C is KeyboardInterrupt, and the same call continues.
    """
    single = isinstance(checkpoint, (str, os.PathLike))
    if not single and not isinstance(checkpoint, Iterable):
        raise OptionError(f"checkpoint={checkpoint!r}: a path, or a list of them, is wanted")
    checkpoints: list[Any] = [checkpoint] if single else list(checkpoint)  # type: ignore[arg-type]
    asked = ExtractOptions(
        data=path_text("data", data),
        checkpoints=tuple(path_text("checkpoint", each) for each in checkpoints),
        out=Path(path_text("out", out)),
        **_known(options),
    )
    threads = torch.get_num_threads()
    try:
        run(asked, World())
    except Stopped as stopped:
        if stopped.signal_number == signal.SIGINT:
            raise KeyboardInterrupt(str(stopped)) from None
        raise
    finally:
        torch.set_num_threads(threads)
    # The job has just read and checked every byte.
    stores = [Store(FeatureStore.open(folder, checksum=False)) for folder in run_folders(asked)]
    return stores[0] if single else stores


def _known(options: dict[str, Any]) -> dict[str, Any]:
    names = [field.name for field in fields(ExtractOptions) if field.name not in GIVEN]
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, 3) or names
            raise TypeError(f"extract_features has no option {name}; near it: {', '.join(near)}")
    known = dict(options)
    if known.get("num_workers") == "auto":
        known["num_workers"] = None
    for name in SEVERAL:
        if name in known:
            known[name] = as_tuple(name, known[name])
    for name, read in (("columns", columns), ("split_names", split_names)):
        if isinstance(known.get(name), str):
            try:
                known[name] = read(known[name])
            except argparse.ArgumentTypeError as error:
                raise OptionError(f"{name}={error}") from error
    for name, kind in (("cache", Path), ("data_root", str)):
        if known.get(name) is not None:
            known[name] = kind(path_text(name, known[name]))
    if isinstance(known.get("device"), torch.device):
        known["device"] = str(known["device"])
    return known


def as_tuple(name: str, values: Any) -> Any:
    """What was given for an option of `SEVERAL` as the options have it: a sequence, or a text as on
    the command line. None stays None. OptionError for anything else."""
    read, example = SEVERAL[name]
    if values is None:
        return None
    if isinstance(values, str):
        try:
            return read(values)
        except argparse.ArgumentTypeError as error:
            raise OptionError(f"{name}={error}") from error
    if not isinstance(values, Iterable):
        raise OptionError(f"{name}={values!r}: several values are wanted, such as {example}")
    return tuple(values)

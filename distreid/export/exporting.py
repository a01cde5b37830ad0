"""`distreid export`: written aside, tried by its own runtime, and published if it holds."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import distreid
from distreid.data.locators import is_address
from distreid.data.manifest import Manifest
from distreid.data.source import open_data
from distreid.errors import CheckpointError, OptionError, StoreError
from distreid.export.exact_resize import ExactResize
from distreid.export.export_description import ExportDescription, how_to_run, is_export
from distreid.export.export_options import TENSORRT, ExportOptions
from distreid.export.first_difference import first_difference
from distreid.export.formats import FILES, write
from distreid.export.gate import Figures, try_export
from distreid.export.probe import FILE as PROBE
from distreid.export.probe import Probe, make_probe, pixels
from distreid.export.whole_network import WholeNetwork
from distreid.host.atomic_files import DISK_IS_FULL, sync
from distreid.host.digests import sha256
from distreid.host.folder_lock import hold, holders
from distreid.images.preprocess import Preprocess
from distreid.inference.engines import INT8
from distreid.inference.extractor import CPU_ROWS
from distreid.inference.quantisation import LEAST_CALIBRATION, calibration_rows
from distreid.inference.views import Augmentation
from distreid.models.architecture import MOST_PIXELS, NO_CAMERA, Size
from distreid.models.checkpoint import Model, load_model
from distreid.models.choices import NO_CHOICES, Choices
from distreid.models.program_files import IMAGES, NORMALISED
from distreid.store.identity import HORIZONTAL_FIRST, RESIZE
from distreid.store.plan import to_json

NEW, OLD = "new", "old"
"""In the folder aside: what is written, and during its publication what was there before."""


def export(
    options: ExportOptions,
    say: Callable[[str], None],
    size: Size | None = None,
    model_name: str = "auto",
    choices: Choices = NO_CHOICES,
) -> Figures:
    """Writes the folder `options.out`; gives what the gate found.

    `size`, `model_name` and `choices` are as of `load_model`. CheckpointError if the format cannot
    express the network, StoreError if the export does not pass the gate or the folder cannot be
    written; then nothing is there under its name.
    """
    if is_address(options.out):
        raise OptionError(f"--out {options.out}: an export is written to a local folder; give one")
    out = Path(os.path.realpath(options.out))  # a link stays, and leads to the export
    # A name of its own, so that no other export, nor one in another container, is at work there.
    aside = out.with_name(f".{out.name}.{secrets.token_hex(8)}.tmp")
    folder = aside / NEW
    with _told_of(options.out):
        standing = next(each for each in aside.parents if each.exists())
        with suppress(FileNotFoundError):
            (standing / aside.name).lstat()  # what cannot be made is refused before the work
        _remove_what_was_left(out)
        _check_target(out, overwrite=options.overwrite)
    manifest = open_data(options.data)
    load = partial(load_model, options.checkpoint, model_name, size, choices)
    model = load()
    architecture = model.architecture
    if architecture.program:
        raise OptionError(f"--checkpoint {options.checkpoint}: an export already; give its weights")
    _resize(options, architecture.preprocess)  # refused before anything is written
    flip = architecture.flip if options.flip is None else options.flip
    augmentation = Augmentation(flip=flip)
    for line in model.describe():
        say(line)
    with _told_of(options.out), _held(aside, out, say):
        folder.mkdir()
        probe = make_probe(model, augmentation, manifest, options.with_resize)
        probe.save(folder)
        say(f"{options.format}, {options.precision} …")
        _write(options, model, augmentation, probe, manifest, folder)
        figures = try_export(folder, options.max_map_loss)
        for line in figures.describe():
            say(line)
        if figures.problem:
            layer = _first_difference(options, load, augmentation, probe, figures, folder)
            why = "; ".join(filter(None, [figures.problem, layer]))
            raise StoreError(f"{options.out}: not published: {why}")
        about = ExportDescription.read(folder)
        replace(about, gate=figures.to_json()).save(folder)
        _publish(aside, out, overwrite=options.overwrite)
    if options.format == TENSORRT:
        say(f"build the engine where it will run: {about.run['build']}")
    return figures


def verify_export(folder: Path, say: Callable[[str], None]) -> Figures:
    """The gate again, on this machine; StoreError if a file is another, or the export fails it."""
    about = ExportDescription.read(folder)
    about.check_files(folder)
    figures = try_export(folder, about.max_map_loss)
    for line in figures.describe():
        say(line)
    if figures.problem:
        raise StoreError(f"{folder}: {figures.problem}")
    return figures


def identity_of(model: Model, augmentation: Augmentation, options: ExportOptions) -> dict[str, Any]:
    """What the file says of itself; its feature space is that of the checkpoint's stores."""
    architecture = model.architecture
    return {
        "weights": model.checkpoint.sha256,
        "model": architecture.identity(),
        "preprocess": architecture.preprocess.identity(),
        RESIZE: HORIZONTAL_FIRST,
        "augmentation": augmentation.identity(),
        "dim": architecture.dim,
        "precision": options.stored_precision,
        "input": NORMALISED if options.raw else IMAGES,
        "resizes": options.with_resize,
        "colour_of_input": architecture.preprocess.channels.upper() if options.raw else "RGB",
        "cameras": architecture.cameras,
        "viewpoints": architecture.viewpoints,
        "peer": architecture.peer,
        "versions": {"distreid": distreid.__version__, "torch": torch.__version__},
    }


def _write(
    options: ExportOptions,
    model: Model,
    augmentation: Augmentation,
    probe: Probe,
    manifest: Manifest,
    folder: Path,
) -> None:
    identity = identity_of(model, augmentation, options)
    # What the extractor made in its own mode is not for exporters.
    model.network.to(memory_format=torch.contiguous_format)
    network = _whole(options, model, augmentation, options.stored_precision)
    images = _images(options, model, probe.images[:2])
    cameras = () if model.architecture.cameras is None else (torch.full((2,), NO_CAMERA) + 1,)
    try:
        write(
            options.format, network, (images, *cameras), identity["input"], to_json(identity),
            folder, _calibration(options, model, manifest),
        )  # fmt: skip
    except CheckpointError as error:
        raise CheckpointError(f"{model.checkpoint.file}: {error}") from error
    _describe(options, model, augmentation, folder)


def _whole(
    options: ExportOptions, model: Model, augmentation: Augmentation, precision: str
) -> WholeNetwork:
    network = WholeNetwork(
        model,
        augmentation,
        precision=precision,
        raw=options.raw,
        resize=_resize(options, model.architecture.preprocess),
    ).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network


def _images(options: ExportOptions, model: Model, images: NDArray[np.uint8]) -> Tensor:
    """As the export takes them."""
    given = torch.from_numpy(images.copy())
    return model.architecture.preprocess.normalise(given).contiguous() if options.raw else given


def _first_difference(
    options: ExportOptions,
    load: Callable[[], Model],
    augmentation: Augmentation,
    probe: Probe,
    figures: Figures,
    folder: Path,
) -> str | None:
    """Where the export goes wrong; None if it cannot be found. `load` gives the network anew, as
    the one that was exported may be in a lower precision."""
    rows = list(figures.batch)
    file = folder / FILES[options.format][0]
    exact = options.stored_precision == "fp32"
    try:
        model = load()
        inputs = [_images(options, model, probe.images[rows])]
        if len(probe.cameras):
            inputs.append(torch.from_numpy(probe.cameras[rows]))
        network = _whole(options, model, augmentation, "fp32")
        return first_difference(network, file, inputs, figures.place, exact=exact)
    except Exception as error:  # the gate's verdict stands, whatever a runtime raises here
        return f"its layers cannot be compared: {' '.join(str(error).split())[:200]}"


def _resize(options: ExportOptions, preprocess: Preprocess) -> ExactResize | None:
    if options.with_resize is None:
        return None
    if not preprocess.is_plain:
        raise OptionError(
            f"--with-resize: {options.checkpoint} keeps the aspect or resizes as OpenCV does, "
            "which no layer does"
        )
    if math.prod(options.with_resize) > MOST_PIXELS:
        height, width = options.with_resize
        raise OptionError(f"--with-resize {height}x{width}: at most {MOST_PIXELS:,} pixels")
    size = preprocess.height, preprocess.width
    return ExactResize(options.with_resize, size, preprocess.interpolation)


def _calibration(options: ExportOptions, model: Model, manifest: Manifest) -> list[NDArray[Any]]:
    """For int8, batches of inputs on which its ranges are seen; OptionError for too few images."""
    if options.precision != INT8:
        return []
    if model.architecture.cameras is not None:
        raise OptionError(f"--precision {INT8}: a network that takes cameras is not quantised")
    if len(manifest) < LEAST_CALIBRATION:
        raise OptionError(
            f"--data {options.data}: {len(manifest)} images, where {INT8} wants at least "
            f"{LEAST_CALIBRATION} to see its ranges on"
        )
    preprocess = model.architecture.preprocess
    images = torch.from_numpy(pixels(manifest, preprocess, calibration_rows(len(manifest))))
    inputs = preprocess.normalise(images) if options.raw else images
    return [batch.contiguous().numpy() for batch in torch.split(inputs, CPU_ROWS)]


def _describe(
    options: ExportOptions,
    model: Model,
    augmentation: Augmentation,
    folder: Path,
) -> None:
    preprocess = model.architecture.preprocess
    identity = identity_of(model, augmentation, options)
    names = FILES[options.format]
    ExportDescription(
        format=options.format,
        file=names[0],
        identity=json.loads(to_json(identity)),
        files={name: sha256(folder / name) for name in (*names, PROBE)},
        run=how_to_run(
            options.format,
            names[0],
            identity["input"],
            options.with_resize or (preprocess.height, preprocess.width),
            options.precision,
            cameras=model.architecture.cameras is not None,
        ),
    ).save(folder)


@contextmanager
def _told_of(out: Path) -> Iterator[None]:
    """Turns what the system says into a StoreError of the folder, but for a name that is too long,
    which is shown in part."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise
        mend = "make room" if error.errno in DISK_IS_FULL else "check the folder"
        raise StoreError(f"{out}: {error.strerror}; {mend}") from error


@contextmanager
def _held(aside: Path, out: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The folder aside for this export alone, which goes however that ends."""
    try:
        with hold(aside, say):
            try:
                yield
            finally:
                _empty(aside, out)
    finally:
        with suppress(OSError):  # not there, or another's
            aside.rmdir()


def _check_target(out: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise StoreError(f"{out}: a file; give another --out")
    if os.path.ismount(out):
        raise StoreError(f"{out}: a mount point, which nothing replaces; give a folder in it")
    if any(out.iterdir()) and not is_export(out):
        raise StoreError(f"{out}: holds other things than an export; give another --out")
    if is_export(out) and not overwrite:
        raise StoreError(f"{out}: an export is there; --overwrite replaces it")


def _remove_what_was_left(out: Path) -> None:
    """By exports of this name that were killed on this machine; another machine's may be at
    work."""
    for aside in out.parent.glob(".*.tmp"):
        if aside.with_suffix("").stem != f".{out.name}":  # of another name
            continue
        # What is in it came after its lock, so that without one nobody is at work there.
        begun = any((aside / name).exists() for name in (NEW, OLD))
        left_by = holders(aside).values()
        if (begun or left_by) and all(holder.runs() is False for holder in left_by):
            _empty(aside, out)
            if not (aside / OLD).exists():
                shutil.rmtree(aside, ignore_errors=True)


def _publish(aside: Path, out: Path, *, overwrite: bool) -> None:
    """Under its name as a whole, once it is on the disk; `_empty` undoes what was half done."""
    new = aside / NEW
    for each in (*new.rglob("*"), new):
        sync(each)
    _check_target(out, overwrite=overwrite)  # it may have come during the gate
    if overwrite and is_export(out):
        out.rename(aside / OLD)
    new.rename(out)  # an empty folder gives way, and no other
    sync(out.parent)


def _empty(aside: Path, out: Path) -> None:
    """Puts back what was at `out` before, if the new export did not take its place, and removes the
    rest. If something else has come to `out`, both stay, for the next export of this name."""
    new, old = aside / NEW, aside / OLD
    if new.exists() and old.exists():
        if out.exists():
            return
        with suppress(FileNotFoundError):  # another export of this name was faster
            old.rename(out)
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)

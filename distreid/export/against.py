"""Which preprocessing an export by others wants, found out by its checkpoint.

Such a file does not say whether it normalises inside, in which order it takes the colours, or
whether the mirror image is in it. Here every combination is computed, and the one whose features
are the checkpoint's is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from distreid.data.source import open_data
from distreid.errors import EngineError, OptionError
from distreid.export.probe import make_probe
from distreid.host.machine import cores
from distreid.inference.drift import LEAST_COSINE
from distreid.inference.engines import TORCH
from distreid.inference.program_runtime import engine_for, open_program
from distreid.inference.views import Augmentation
from distreid.models.architecture import Size
from distreid.models.checkpoint import load_model
from distreid.models.choices import CHANNELS, NO_CHOICES, Choices
from distreid.models.program_files import ENDINGS

ROWS = 8
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Match:
    """One way to call the network, and what it gives."""

    pixels: str
    channels: str
    flip: bool
    cosine: float
    """The least to the checkpoint's features, computed with or without the mirror image."""

    def describe(self) -> str:
        """For people."""
        views = "the mirror image is in it" if self.flip else "the image alone is in it"
        return f"{self.pixels}, {self.channels}; {views}: least cosine {self.cosine:.7f}"


def find_preprocessing(
    file: Path,
    checkpoint: str,
    model_name: str = "auto",
    size: Size | None = None,
    choices: Choices = NO_CHOICES,
) -> list[str]:
    """What is found, in lines for people, the best first. EngineError if nothing that was tried
    gives the checkpoint's features.

    `choices` names the file's input and output. The rest, `model_name` and `size` are the
    checkpoint's, as of `load_model`.
    """
    matches = try_all(file, checkpoint, model_name, size, choices)
    best = matches[0]
    if not best.cosine >= LEAST_COSINE:
        raise EngineError(f"{file}: not the network of {checkpoint}; nearest: {best.describe()}")
    said = [best.describe()]
    for each in matches[1:4]:
        is_same = each.cosine >= LEAST_COSINE  # uint8 pixels, and the same as floats
        said.append(f"{'the same by' if is_same else 'not:'} {each.describe()}")
    return said


def try_all(
    file: Path,
    checkpoint: str,
    model_name: str = "auto",
    size: Size | None = None,
    choices: Choices = NO_CHOICES,
) -> list[Match]:
    """Every combination, the nearest first."""
    if file.suffix.lower() not in ENDINGS:
        raise OptionError(f"--against: of a file {' or '.join(ENDINGS)}, not {file}")
    of_checkpoint = replace(choices, input_name=None, output_name=None)
    model = load_model(checkpoint, model_name, size, of_checkpoint)
    preprocess = model.architecture.preprocess
    # A file says its own size, or takes the checkpoint's.
    of_file = Choices(input_name=choices.input_name, output_name=choices.output_name)
    exported = load_model(str(file), choices=of_file)
    own = exported.architecture.preprocess
    if exported.architecture.fixed_size and (
        (own.height, own.width) != (preprocess.height, preprocess.width)
    ):
        raise OptionError(
            f"{file} takes {own.height}x{own.width}, {checkpoint} "
            f"{preprocess.height}x{preprocess.width}"
        )
    program = exported.architecture.program
    assert program is not None, "files with these endings are programs"
    engine = engine_for(program, "auto", CPU)
    assert engine != TORCH, "torch computes no file with such an ending"
    forward = open_program(program, engine, cores())
    manifest = open_data("sample")
    found = []
    for flip in (False, True):
        probe = make_probe(model, Augmentation(flip=flip), manifest)
        images = torch.from_numpy(probe.images[: 2 * ROWS])
        exact = torch.from_numpy(probe.exact[: 2 * ROWS])
        for channels in CHANNELS:
            given = images if channels == "rgb" else images.flip(1)
            network = replace(preprocess, channels="rgb")
            ways: dict[str, Tensor] = {
                "uint8 pixels": given,
                "pixels 0 to 255": given.float(),
                "pixels 0 to 1": given.float() / 255,
                "normalised as the checkpoint's": network.normalise(given),
            }
            for pixels, taken in ways.items():
                cosine = _least_cosine(forward, taken, exact)
                if cosine is not None:
                    found.append(Match(pixels, channels, flip, cosine))
    if not found:
        raise EngineError(f"{file}: takes neither uint8 nor float images")
    return sorted(found, key=lambda match: -match.cosine)


def _least_cosine(forward: Callable[..., Tensor], images: Tensor, exact: Tensor) -> float | None:
    """None if the network does not take such numbers."""
    try:
        features = forward(images).double()
    except EngineError:
        return None
    if features.shape != exact.shape:
        return None
    return float(torch.nn.functional.cosine_similarity(features, exact.double()).min())

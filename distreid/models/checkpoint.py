"""Checkpoints: loaded without running their code, unwrapped, and fitted strictly."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from distreid.errors import CheckpointError, OptionError
from distreid.models.architecture import MOST_PIXELS, Architecture, Size
from distreid.models.choices import NO_CHOICES, Choices
from distreid.models.clip_names import OPENAI, in_timms_names
from distreid.models.program_files import ENDINGS, open_graph
from distreid.models.programs import MARKS, open_program
from distreid.models.skipped_init import SkippedInit
from distreid.models.table import find_model, with_input
from distreid.models.weight_files import sha256_of
from distreid.models.weights import Checkpoint, read_checkpoint

SAMPLE = "sample"
SAMPLE_FILE = Path(__file__).parent.parent / "sample" / "osnet_x0_25.pth.tar"

# What Swin saved with its weights in timm before 0.9, and every Swin computes for itself;
# torchvision's still saves it.
RECOMPUTED = (".relative_position_index", ".relative_coords_table", ".attn_mask")
COUNTER = "num_batches_tracked"
KEYS_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network with its weights, in eval mode on the CPU, and what it was taken for."""

    network: nn.Module
    architecture: Architecture
    checkpoint: Checkpoint
    loaded: int
    """How many tensors were loaded: all that the network has."""
    dropped: tuple[str, ...]
    """Names of tensors in the file that the feature does not need."""

    def describe(self) -> list[str]:
        """What was found, for people."""
        arch, pre = self.architecture, self.architecture.preprocess
        options = ", ".join(f"{key} {value}" for key, value in arch.options.items())
        lines = [
            f"{arch.name}{f' ({options})' if options else ''} of {arch.peer}",
            f"feature: {arch.feature}; {arch.dim} dimensions",
            f"input: {pre.height}×{pre.width}, {pre.interpolation}",
            *([_embeddings(arch)] if arch.cameras else []),
        ]
        if self.loaded:  # else its weights are in a graph
            dropped = f"; not needed: {_some(self.dropped)}" if self.dropped else ""
            lines.append(f"{self.loaded} tensors loaded, all that the network has{dropped}")
        return lines + list(self.checkpoint.notes) + list(arch.notes)


def load_model(
    checkpoint: str,
    name: str = "auto",
    size: Size | None = None,
    choices: Choices = NO_CHOICES,
) -> Model:
    """The checkpoint as a network; `sample` is the built-in one.

    Every tensor of the network must be in the file with its shape, and everything in
    the file must be the network's, apart from classifiers; else CheckpointError lists them.
    `size` is the input's, None for what the architecture says; OptionError if the network cannot
    take it. `choices` are what the user says beside it.
    """
    if size and math.prod(size) > MOST_PIXELS:
        given = "x".join(map(str, size))
        raise OptionError(f"--input-size {given}: at most {MOST_PIXELS:,} pixels are taken")
    file = file_of(checkpoint)
    if name in MARKS or (name == "auto" and file.suffix.lower() in ENDINGS):
        return _load_program(file, name, size, choices)
    content = read_checkpoint(file, choices.weights)
    state, of_clip = in_timms_names(content.state)
    if of_clip:
        options = {**content.options, OPENAI: True}
        content = replace(content, state=state, options=options, notes=(*content.notes, of_clip))
    try:
        architecture = find_model(name, content.state, content.options, size, choices)
        with SkippedInit():  # all of it is in the file
            network = architecture.build().eval()
        loaded, dropped = _fit(network, content.state, architecture)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if size:
        _try_size(network, architecture)
    return Model(
        network=network,
        architecture=architecture,
        checkpoint=content,
        loaded=loaded,
        dropped=dropped,
    )


@torch.inference_mode()
def _try_size(network: nn.Module, architecture: Architecture) -> None:
    """OptionError if the network cannot take the size of input that was asked for."""
    height, width = architecture.preprocess.height, architecture.preprocess.width
    given = [torch.zeros(1, 3, height, width)]
    if architecture.cameras is not None:
        given.append(torch.zeros(1, dtype=torch.int64))
    try:
        network(*given)
    except (RuntimeError, AssertionError) as error:  # torchvision asserts its size
        why = next(iter(str(error).splitlines()), "")
        raise OptionError(
            f"--input-size {height}x{width}: {architecture.name} cannot take it ({why}); give the "
            "size that it was trained with"
        ) from error


def file_of(checkpoint: str) -> Path:
    """The file that `--checkpoint` names."""
    return SAMPLE_FILE if checkpoint == SAMPLE else Path(checkpoint)


def _load_program(file: Path, kind: str, size: Size | None, choices: Choices) -> Model:
    if choices.weights:
        raise OptionError(f"--weights {choices.weights}: {file} holds one network; take it away")
    sha256 = sha256_of(file)
    try:
        if kind in MARKS:
            network, architecture = open_program(file, kind, size, choices)
        else:
            network, architecture = open_graph(file, size, choices)
        architecture = with_input(architecture, choices)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    program = architecture.program
    if program and program.weights:
        sha256 = program.weights
    state = network.state_dict()
    return Model(
        network=network,
        architecture=architecture,
        checkpoint=Checkpoint(file=file, sha256=sha256, state=state),
        loaded=len(state),
        dropped=(),
    )


def _fit(
    network: nn.Module, state: dict[str, Tensor], architecture: Architecture
) -> tuple[int, tuple[str, ...]]:
    """Copies the weights; gives how many, and the names that were not needed."""
    wanted = network.state_dict()
    dropped = tuple(
        key
        for key in state
        if key.startswith(architecture.not_for_features)
        or (key.endswith(RECOMPUTED) and architecture.rename(key) not in wanted)
    )
    needed = {key: value for key, value in state.items() if key not in dropped}
    given = {architecture.rename(key): value for key, value in needed.items()}
    # Checkpoints older than torch 0.4.1 have no such counters, others have them of shape (1,), and
    # eval mode reads none.
    missing = [key for key in wanted if key not in given and not key.endswith(COUNTER)]
    unexpected = [key for key in given if key not in wanted]
    misshapen = [
        f"{key} {tuple(value.shape)} for {tuple(wanted[key].shape)}"
        for key, value in given.items()
        if key in wanted and value.shape != wanted[key].shape and not key.endswith(COUNTER)
    ]
    problems = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    if any(keys for _, keys in problems):
        what = "; ".join(f"{len(keys)} {word}: {_some(keys)}" for word, keys in problems if keys)
        raise CheckpointError(f"does not fit {architecture.name}: {what}; try another --model")
    _check_numbers(needed, {key: wanted[architecture.rename(key)] for key in needed})
    counters = {key for key in given if key.endswith(COUNTER)}
    found = OrderedDict((k, v) for k, v in given.items() if k not in counters)
    found._metadata = wanted._metadata  # type: ignore[attr-defined] # torchvision's MNASNet asks
    network.load_state_dict(found, strict=False)
    return len(given), dropped


def _check_numbers(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """CheckpointError names a tensor that is quantised, or holds what is no number."""
    for key, value in state.items():
        if wanted[key].is_floating_point() and not value.is_floating_point():
            raise CheckpointError(f"{key} is {value.dtype}, so quantised; give the float weights")
        if value.is_floating_point() and not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise CheckpointError(
                f"{key} has {bad:,} of {value.numel():,} numbers NaN or infinite, so no feature "
                "would be one; take another epoch's file"
            )


def _embeddings(arch: Architecture) -> str:
    text = f"cameras: an embedding of each of {arch.cameras}"
    if arch.viewpoints > 1:
        text += f", for each of {arch.viewpoints} viewpoints (--viewpoints says otherwise)"
    return text


def _some(keys: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
    return ", ".join(keys[:KEYS_SHOWN]) + more

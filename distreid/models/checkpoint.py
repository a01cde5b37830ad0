"""Checkpoints: loaded without running their code, unwrapped, and fitted strictly."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import re
import resource
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from distreid.errors import CheckpointError
from distreid.models import find_model
from distreid.models.architecture import Architecture, Size
from distreid.models.programs import MARKS, kind_of, open_program

SAMPLE = "sample"
SAMPLE_FILE = Path(__file__).parent.parent / "sample" / "osnet_x0_25.pth.tar"

# Where training scripts put the weights among other things, outermost first.
WRAPPERS = ("state_dict", "model", "model_state_dict", "network", "net", "weights")
# What DataParallel, torch.compile and AveragedModel add to the names.
PREFIXES = ("module.", "_orig_mod.")
# What Swin saved with its weights in timm before 0.9, and every Swin computes for itself;
# torchvision's still saves it.
RECOMPUTED = (".relative_position_index", ".relative_coords_table", ".attn_mask")
MAX_WRAPPERS = 8  # a file can hold a dictionary that contains itself
# What training programs write beside the weights: Person_reID_baseline_pytorch, and fast-reid.
OPTIONS = ("opts.yaml", "config.yaml")
KEYS_SHOWN = 8

# What loading may take beside the tensors, which are at most the file and once more its pickle.
SPARE_BYTES = 1 << 30
MAX_OPTIONS_BYTES = 1 << 20


class Ignored:
    """Stands for numpy's scalars, such as torchreid's `rank1`: takes anything, keeps nothing."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


# Not numpy's own functions: a file could have them make an item of any size.
NUMPY_SCALARS: list[Any] = [
    (Ignored, "numpy.core.multiarray.scalar"),  # numpy 1's name for it
    (Ignored, "numpy._core.multiarray.scalar"),
    (Ignored, "numpy.dtype"),
]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of a checkpoint file, under the names that the network gave them."""

    file: Path
    sha256: str
    """Of the file's bytes, hex."""
    state: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    """What the files of `OPTIONS` beside the file say; empty if there are none."""
    notes: tuple[str, ...] = ()
    """What was unwrapped and stripped."""


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
            *([f"cameras: an embedding of each of {arch.cameras}"] if arch.cameras else []),
            f"{self.loaded} tensors loaded, all that the network has"
            + (f"; not needed: {_some(self.dropped)}" if self.dropped else ""),
        ]
        return lines + list(self.checkpoint.notes) + list(arch.notes)


def load_model(checkpoint: str, name: str = "auto", size: Size | None = None) -> Model:
    """The checkpoint as a network; `sample` is the built-in one.

    Every tensor of the network must be in the file with its shape, and everything in
    the file must be the network's, apart from classifiers; else CheckpointError lists them.
    `size` is the input's, None for what the architecture says.
    """
    file = file_of(checkpoint)
    if name in MARKS:
        return _load_program(file, name, size)
    content = read_checkpoint(file)
    try:
        architecture = find_model(name, content.state, content.options, size)
        network = architecture.build().eval()
        loaded, dropped = _fit(network, content.state, architecture)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    return Model(
        network=network,
        architecture=architecture,
        checkpoint=content,
        loaded=loaded,
        dropped=dropped,
    )


def file_of(checkpoint: str) -> Path:
    """The file that `--checkpoint` names."""
    return SAMPLE_FILE if checkpoint == SAMPLE else Path(checkpoint)


def _load_program(file: Path, kind: str, size: Size | None) -> Model:
    sha256 = _sha256(file)
    try:
        network, architecture = open_program(file, kind, size)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    state = network.state_dict()
    return Model(
        network=network,
        architecture=architecture,
        checkpoint=Checkpoint(file=file, sha256=sha256, state=state),
        loaded=len(state),
        dropped=(),
    )


def read_checkpoint(file: Path) -> Checkpoint:
    """The tensors of a file written by torch.save. No code of the file is run."""
    sha256 = _sha256(file)
    content = _load(file)
    notes: list[str] = []
    while isinstance(content, dict) and len(notes) < MAX_WRAPPERS:
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        notes.append(f"weights found under {inner!r}")
        content = content[inner]
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise CheckpointError(f"{file}: holds a {kind}, not named tensors; save model.state_dict()")
    state, stripped = {}, set()
    for key, value in content.items():
        if not isinstance(value, Tensor) or key == "n_averaged":
            continue
        name = str(key)
        while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
            stripped.add(prefix)
            name = name.removeprefix(prefix)
        name = name.replace("._orig_mod.", ".")
        if name in state:
            raise CheckpointError(f"{file}: two tensors are named {name}; save one network alone")
        _check_tensor(file, name, value)
        state[name] = value
    if not state:
        raise CheckpointError(f"{file}: holds no tensor; save model.state_dict()")
    notes += [f"prefix {prefix!r} stripped" for prefix in sorted(stripped)]
    options: dict[str, Any] = {}
    for name in OPTIONS:
        if found := _options_in(file.with_name(name)):
            options |= found
            notes.append(f"options read from {name} beside it")
    return Checkpoint(file=file, sha256=sha256, state=state, options=options, notes=tuple(notes))


def _sha256(file: Path) -> str:
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file; check --checkpoint")
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}") from error
    return digest.hexdigest()


def _check_tensor(file: Path, name: str, tensor: Tensor) -> None:
    """Numbers on the CPU, one for each element, and no more than the file can hold."""
    plain = (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_nested
    )
    if not plain or tensor.nbytes > file.stat().st_size:
        kind = f"{tuple(tensor.shape)} of {tensor.dtype}" if plain else "of a special kind"
        raise CheckpointError(f"{file}: {name} is {kind}, not the numbers that the file has")


def _load(file: Path) -> Any:
    if kind := kind_of(file):
        raise CheckpointError(
            f"{file}: a program, not weights; --model {kind} runs it, so do that only if you "
            "trust who made it"
        )
    try:
        with (
            _memory_bounded(2 * file.stat().st_size + SPARE_BYTES),
            torch.serialization.safe_globals(NUMPY_SCALARS),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            # latin1 takes any byte: Python 2 wrote numpy's numbers as strings of them.
            return torch.load(file, map_location="cpu", weights_only=True, encoding="latin1")
    except pickle.UnpicklingError as error:
        if culprit := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{file}: holds {culprit[1]}, which loading would run, so it was not loaded; "
                "save model.state_dict() alone"
            ) from error
        raise CheckpointError(f"{file}: not a checkpoint that torch.save wrote") from error
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}") from error
    except Exception as error:  # damaged archives raise nearly anything
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise CheckpointError(
                f"{file}: loading takes far more memory than the file has bytes, or than is free; "
                "save model.state_dict() alone"
            ) from error
        raise CheckpointError(f"{file}: not a checkpoint, or a damaged one") from error


def _options_in(beside: Path) -> dict[str, Any]:
    if not beside.is_file():
        return {}
    try:
        with beside.open(encoding="utf-8") as stream:
            options = yaml.safe_load(stream.read(MAX_OPTIONS_BYTES))
    except OSError as error:
        raise CheckpointError(f"{beside}: {error.strerror or error}; take it away") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also of dates and numbers
        raise CheckpointError(f"{beside}: not YAML; mend it or take it away") from error
    return options if isinstance(options, dict) else {}


@contextlib.contextmanager
def _memory_bounded(more: int) -> Iterator[None]:
    """Within it, this process gets a MemoryError once it takes that many bytes more.

    What a pickle may build without running code can still be of any size.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


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
    given = {architecture.rename(key): value for key, value in state.items() if key not in dropped}
    # Checkpoints older than torch 0.4.1 have no such counters, and eval mode reads none.
    missing = [
        key for key in wanted if key not in given and not key.endswith("num_batches_tracked")
    ]
    unexpected = [key for key in given if key not in wanted]
    misshapen = [
        f"{key} {tuple(value.shape)} for {tuple(wanted[key].shape)}"
        for key, value in given.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    problems = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    if any(keys for _, keys in problems):
        what = "; ".join(f"{len(keys)} {word}: {_some(keys)}" for word, keys in problems if keys)
        raise CheckpointError(f"does not fit {architecture.name}: {what}; try another --model")
    network.load_state_dict(given, strict=False)
    return len(given), dropped


def _some(keys: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
    return ", ".join(keys[:KEYS_SHOWN]) + more

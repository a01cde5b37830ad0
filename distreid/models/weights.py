"""Which tensors of a checkpoint are meant, under the names that the network gave them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from distreid.errors import CheckpointError, OptionError
from distreid.models.weight_files import beside, files_of, load_weights, read_json, sha256_of

# Where training scripts put the weights among other things, outermost first.
WRAPPERS = ("state_dict", "model", "model_state_dict", "network", "net", "weights", "net_dict")
# Copies of one network that training keeps: which one is meant has to be said.
COPIES = (
    "teacher", "student", "ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema",
    "model_ema_state_dict", "momentum", "momentum_encoder", "encoder_q", "encoder_k",
    "online_encoder", "target_encoder", "swa", "swa_model",
)  # fmt: skip
# What is no network's.
NOT_WEIGHTS = ("optim", "scheduler", "lr_sched", "callbacks", "loops", "scaler", "hyper_param")
# What DataParallel, torch.compile and AveragedModel add to the names.
PREFIXES = ("module.", "_orig_mod.")
INNER = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
OF_A_LOSS = re.compile(r"(^|[._])(loss|criterion|cent(er|re)s?)([._]|$)|_(loss|criterion)$")
ON_A_TRUNK = re.compile(
    r"(^|[._])(bottleneck|\w*neck|bn|batch_?norm|head|classifier|fc|arc_?face|margin|gem|pool\w*)\d*$"
)
MOST_TENSORS_ON_A_TRUNK = 12
MAX_WRAPPERS = 8  # a file can hold a dictionary that contains itself
# What training programs write beside the weights: Person_reID_baseline_pytorch, fast-reid, and
# the hubs of timm's networks.
HUB, HYDRA = "config.json", ".hydra/config.yaml"
HYPER = "hyper_parameters"
OPTIONS = ("opts.yaml", "config.yaml", HUB)
MAX_OPTIONS_BYTES = 1 << 20
# Of quantised layers, by the libraries that write them: torch, bitsandbytes, GPTQ, AWQ.
QUANTISED = ("._packed_params", ".zero_point", ".SCB", ".absmax", ".quant_map", ".qweight")
# What ends the name of a tensor, whatever the network.
PARAMETERS = (".weight", ".bias", ".running_mean", ".running_var")
AS_ASKED = ", as asked"
HALVES = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The tensors of a checkpoint file, under the names that the network gave them."""

    file: Path
    sha256: str
    """Of the file's bytes, hex; of another network in it than the usual one, of that and its name.
    """
    state: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    """What the files of `OPTIONS` beside the file say; empty if there are none."""
    notes: tuple[str, ...] = ()
    """What was unwrapped, stripped and converted."""


def read_checkpoint(file: Path, weights: str | None = None) -> Checkpoint:
    """The tensors of a file or folder of weights. No code of it is run.

    `weights` names one of several dictionaries of tensors, such as `teacher`. CheckpointError says
    what is wrong with the file, OptionError that it has no such weights.
    """
    if weights == "":
        raise OptionError("--weights: empty; name the weights, or leave it out")
    weights = weights or ""
    sha256 = sha256_of(file)
    content, notes = load_weights(file)
    tensors, found = _chosen(file, content, weights)
    asked = "" if found and found[-1].endswith(AS_ASKED) else weights
    size = sum(one.stat().st_size for one in files_of(file))
    state, stripped = _unprefixed(file, tensors, size)
    state, more = _copy(file, state, asked)
    if weights and not _is_usual(file, content, size, state):
        # Of the other network in the file, which must not be taken for this one.
        sha256 = hashlib.sha256(f"{sha256} {weights}".encode()).hexdigest()
    options, read = _options(file)
    if hyper := _hyper_parameters(content):
        options = {HYPER: hyper, **options}
    notes += [*found, *(f"prefix {prefix!r} stripped" for prefix in stripped), *more, *read]
    halves = sorted({HALVES[value.dtype] for value in state.values() if value.dtype in HALVES})
    if halves:
        notes.append(f"weights of {' and '.join(halves)}; computed in float32")
    return Checkpoint(file=file, sha256=sha256, state=state, options=options, notes=tuple(notes))


def _is_usual(file: Path, content: Any, size: int, state: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors that are taken when nothing is asked for."""
    try:
        usual, _ = _copy(file, _unprefixed(file, _chosen(file, content, "")[0], size)[0], "")
    except CheckpointError:  # it is asked for which
        return False
    return usual.keys() == state.keys() and all(usual[name] is state[name] for name in state)


def _chosen(file: Path, content: Any, weights: str) -> tuple[Mapping[Any, Any], list[str]]:
    """The dictionary of tensors that is meant, and how it was found."""
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise CheckpointError(f"{file}: holds a {kind}, not named tensors; save model.state_dict()")
    if isinstance(content, dict) and weights:
        candidates = dict(_candidates(content))
        if weights in candidates:
            return candidates[weights], [f"weights taken from {weights!r}{AS_ASKED}"]
        inner = [key for key in candidates if key.startswith(f"{weights}.")]
        if len(inner) == 1:
            return candidates[inner[0]], [f"weights taken from {inner[0]!r}{AS_ASKED}"]
        if len(candidates) > 1:
            near = _listed(candidates)
            raise OptionError(f"--weights {weights}: {file} has no such weights; it {near}")
    notes = []
    for _ in range(MAX_WRAPPERS):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        notes.append(f"weights found under {key!r}")
        if others := _others_in(content, key):
            notes.append(f"it holds {', '.join(others)} too: --weights {others[0]} takes that")
        content = content[key]
    candidates = dict(_candidates(content)) if isinstance(content, dict) else {}
    own, largest = _count(content), max(map(_count, candidates.values()), default=0)
    if own and own >= largest:  # else a figure beside the weights
        return content, notes
    candidates = {n: t for n, t in candidates.items() if not OF_A_LOSS.search(n)} or candidates
    if len(candidates) > 1 and (parts := _put_together(candidates)):
        return parts, [*notes, f"put together from {', '.join(candidates)}"]
    if len(candidates) == 1:
        name, tensors = candidates.popitem()
        return tensors, [*notes, f"weights found under {name!r}"]
    if candidates:
        raise CheckpointError(f"{file}: {_listed(candidates)}; --weights NAME chooses")
    raise CheckpointError(f"{file}: holds no tensor; save model.state_dict()")


def _put_together(candidates: Mapping[str, Mapping[Any, Any]]) -> dict[str, Any]:
    """The tensors of one network whose parts were saved one by one: a trunk, and what stands on
    it. Empty if they can be several networks."""
    trunk = max(candidates, key=lambda name: _count(candidates[name]))
    for name, tensors in candidates.items():
        is_head = ON_A_TRUNK.search(name) and _count(tensors) <= MOST_TENSORS_ON_A_TRUNK
        if name != trunk and not is_head:
            return {}
    return {
        f"{part}.{name}": value
        for part, tensors in candidates.items()
        for name, value in tensors.items()
    }


def _others_in(content: Mapping[Any, Any], key: str) -> list[str]:
    """What may be another network than that under a key: copies of it, and whatever has about as
    many tensors."""
    sizes = {name: _count(tensors) for name, tensors in _candidates(dict(content))}
    own = max((size for name, size in sizes.items() if _is_in(key, name)), default=0)
    return list(
        dict.fromkeys(
            name.partition(".")[0] if name.partition(".")[0] in COPIES else name
            for name, size in sizes.items()
            if not _is_in(key, name) and (name.partition(".")[0] in COPIES or 2 * size >= own)
        )
    )


def _is_in(key: str, name: str) -> bool:
    return name == key or name.startswith(f"{key}.")


def _count(tensors: Mapping[Any, Any]) -> int:
    return sum(isinstance(value, Tensor) for value in tensors.values())


def _listed(candidates: Mapping[str, Mapping[Any, Any]]) -> str:
    """Names with their counts, for an error."""
    counts = (f"{name} ({_count(tensors)} tensors)" for name, tensors in candidates.items())
    return f"holds several networks: {', '.join(counts)}"


def _candidates(
    content: dict[Any, Any], path: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[Any, Any]]]:
    """The dictionaries that have tensors, by their place; optimisers and the like have none."""
    if path and any(isinstance(value, Tensor) for value in content.values()):
        yield path, content
        return
    if depth == MAX_WRAPPERS:
        return
    for key, value in content.items():
        if isinstance(value, dict) and not str(key).lower().startswith(NOT_WEIGHTS):
            yield from _candidates(value, f"{path}.{key}" if path else str(key), depth + 1)


def _unprefixed(
    file: Path, tensors: Mapping[Any, Any], size: int
) -> tuple[dict[str, Tensor], list[str]]:
    """By the network's own names, and the prefixes that were not its own."""
    state: dict[str, Tensor] = {}
    stripped = set()
    for key, value in tensors.items():
        if str(key).endswith(QUANTISED):
            raise CheckpointError(f"{file}: {key} is of a quantised network; give the float one")
        if not isinstance(value, Tensor) and str(key).endswith(PARAMETERS):
            raise CheckpointError(f"{file}: {key} is no tensor; save model.state_dict()")
        if not isinstance(value, Tensor) or key == "n_averaged":
            continue
        name = str(key)
        while prefix := next((p for p in PREFIXES if name.startswith(p)), None):
            stripped.add(prefix)
            name = name.removeprefix(prefix)
        for inner in INNER:
            name = name.replace(f".{inner}", ".").removeprefix(inner)
        if name in state:
            raise CheckpointError(f"{file}: two tensors are named {name}; save one network alone")
        _check_tensor(file, name, value, size)
        state[name] = value
    if not state:
        raise CheckpointError(f"{file}: holds no tensor; save model.state_dict()")
    return state, sorted(stripped)


def _copy(
    file: Path, state: dict[str, Tensor], weights: str
) -> tuple[dict[str, Tensor], list[str]]:
    """One of several copies of a network that lie side by side in the names, such as teacher's."""
    first = dict.fromkeys(key.partition(".")[0] for key in state)
    groups = {
        name: {key.partition(".")[2]: state[key] for key in state if key.startswith(f"{name}.")}
        for name in first
        if name in COPIES or name == weights
    }
    groups = {name: tensors for name, tensors in groups.items() if tensors}
    if weights in groups:
        return groups[weights], [f"tensors of {weights!r} alone{AS_ASKED}"]
    if weights:
        near = ", ".join(groups) or "one network alone"
        raise OptionError(f"--weights {weights}: {file} has no such weights; it has {near}")
    others = {key.partition(".")[0] for key in state} - groups.keys()
    if len(groups) == 2 and not others:
        raise CheckpointError(f"{file}: {_listed(groups)}; --weights NAME chooses")
    return state, []


def _check_tensor(file: Path, name: str, tensor: Tensor, size: int) -> None:
    """Numbers on the CPU, one for each element, and no more than the file can hold."""
    if tensor.is_quantized:
        raise CheckpointError(
            f"{file}: {name} is quantised ({tensor.dtype}); give the network's float weights"
        )
    plain = (
        type(tensor) in (Tensor, nn.Parameter, nn.Buffer)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_nested
    )
    if not plain or tensor.nbytes > size:
        kind = f"{tuple(tensor.shape)} of {tensor.dtype}" if plain else "of a special kind"
        raise CheckpointError(f"{file}: {name} is {kind}, not the numbers that the file has")


def _hyper_parameters(content: Any) -> dict[str, Any]:
    """What Lightning saved of a training's options, as far as they are plain values."""
    found = content.get(HYPER) if isinstance(content, dict) else None
    plain = (bool, int, float, str, list, tuple)
    if not isinstance(found, dict):
        return {}
    return {str(key): value for key, value in found.items() if isinstance(value, plain)}


def _options(file: Path) -> tuple[dict[str, Any], list[str]]:
    """What the files of `OPTIONS` beside the weights say, and which were read."""
    options: dict[str, Any] = {}
    notes = []
    folder = beside(file)
    places = [(name, folder / name) for name in OPTIONS]
    # open-metric-learning's, whose checkpoints lie in a folder of the run's.
    places += [(HYDRA, place / HYDRA) for place in (folder, folder.parent)]
    for name, path in places:
        if not path.is_file():
            continue
        found = read_json(path) if name.endswith(".json") else _yaml(path)
        if isinstance(found, dict) and found and (name != HUB or "architecture" in found):
            options |= found
            notes.append(f"options read from {name} beside it")
            if name == HYDRA:
                break
    return options, notes


def _yaml(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8") as stream:
            return yaml.safe_load(stream.read(MAX_OPTIONS_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; take it away") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also of dates and numbers
        raise CheckpointError(f"{path}: not YAML; mend it or take it away") from error

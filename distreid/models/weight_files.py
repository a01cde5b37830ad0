"""A file or folder of weights, however its program laid it out, to one nested dictionary.

*.safetensors                        no pickle at all
*.index.json, or a folder with one   shards: `weight_map` says which tensor lies in which file
a folder with .metadata              what torch.distributed.checkpoint (FSDP) wrote
anything else                        what torch.save wrote
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from distreid.errors import CheckpointError
from distreid.models import distributed_checkpoint
from distreid.models.programs import kind_of
from distreid.models.safe_load import safe_load

SAFETENSORS = ".safetensors"
INDEX = ".index.json"
MAX_JSON_BYTES = 1 << 26
# Of what a folder may hold, the first that is there is meant.
IN_A_FOLDER = (
    f"model{SAFETENSORS}{INDEX}",
    f"model{SAFETENSORS}",
    f"pytorch_model.bin{INDEX}",
    "pytorch_model.bin",
)


def load_weights(path: Path) -> tuple[Any, list[str]]:
    """What it holds, and a line on how it was read; CheckpointError says what is wrong."""
    if path.is_dir():
        if (path / distributed_checkpoint.METADATA).is_file():
            return distributed_checkpoint.load(path), ["a folder of torch.distributed.checkpoint"]
        inside = file_in(path)
        content, notes = load_weights(inside)
        return content, [f"taken from {inside.name}", *notes]
    if path.name.endswith(INDEX):
        return _load_shards(path)
    if path.suffix == SAFETENSORS or _looks_like_safetensors(path):
        return _load_safetensors(path), []
    if kind := kind_of(path):
        raise CheckpointError(
            f"{path}: a program, not weights; --model {kind} runs it, so do that only if you "
            "trust who made it"
        )
    return safe_load(path, str(path), path.stat().st_size), []


def file_in(folder: Path) -> Path:
    """The weights' file in a folder such as the hubs give; CheckpointError without one."""
    for name in IN_A_FOLDER:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"{folder}: a folder without weights ({', '.join(IN_A_FOLDER)}, or .metadata of "
        "torch.distributed.checkpoint); give the file itself"
    )


def beside(path: Path) -> Path:
    """The folder where a training program's options lie."""
    return path if path.is_dir() else path.parent


def files_of(path: Path) -> list[Path]:
    """The files that the weights lie in; CheckpointError if there are none."""
    if path.is_dir():
        if (path / distributed_checkpoint.METADATA).is_file():
            return sorted(file for file in path.iterdir() if file.is_file())
        return files_of(file_in(path))
    if not path.is_file():
        what = "no regular file" if path.exists() else "no such file"
        raise CheckpointError(f"{path}: {what}; check --checkpoint")
    if path.suffix.lower() == ".xml":  # OpenVINO's
        weights = path.with_suffix(".bin")
        if not weights.is_file():
            raise CheckpointError(f"{path}: its weights, {weights.name}, are not beside it")
        return [path, weights]
    if not path.name.endswith(INDEX):
        return [path]
    shards = [path.parent / name for name in sorted(set(_weight_map(path).values()))]
    for shard in shards:
        if not shard.is_file():
            raise CheckpointError(f"{path}: {shard.name} is not beside it; copy all shards")
    return [path, *shards]


def sha256_of(path: Path) -> str:
    """Of the bytes of its file, hex; of several, of their names and sums."""
    sums = {file.name: _sha256(file) for file in files_of(path)}
    if len(sums) == 1:
        return next(iter(sums.values()))
    listed = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    return hashlib.sha256(listed.encode()).hexdigest()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}") from error
    return digest.hexdigest()


def _looks_like_safetensors(file: Path) -> bool:
    """Eight bytes of length, then a JSON object of that length."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] <= size


def _load_safetensors(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(8)
        if len(head) < 8 or (claimed := struct.unpack("<Q", head)[0]) > size - 8:
            told = f"a header of {claimed:,} bytes" if len(head) == 8 else "a header"
            raise CheckpointError(f"{file}: {size:,} bytes, and {told} is missing; copy it again")
        return dict(load_file(file))  # no offset may lie outside of the file
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}") from error
    except CheckpointError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        what = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file}: a damaged safetensors file ({what})") from error


def _load_shards(index: Path) -> tuple[dict[str, Any], list[str]]:
    where = _weight_map(index)
    tensors: dict[str, Any] = {}
    for name in sorted(set(where.values())):
        shard = index.parent / name
        content, _ = load_weights(shard)
        if not isinstance(content, dict):
            raise CheckpointError(f"{shard}: holds no named tensors")
        lacking = [key for key, file in where.items() if file == name and key not in content]
        if lacking:
            raise CheckpointError(f"{shard}: has no {lacking[0]}, which {index.name} says it has")
        tensors |= {key: content[key] for key, file in where.items() if file == name}
    return {key: tensors[key] for key in where}, [f"{len(set(where.values()))} shards"]


def _weight_map(index: Path) -> dict[str, str]:
    """Names of tensors to names of files, none of which leads out of the folder."""
    content = read_json(index)
    where = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{index}: has no weight_map of tensors to files")
    for name in where.values():
        if not isinstance(name, str) or Path(name).name != name or name.endswith(INDEX):
            raise CheckpointError(f"{index}: {name!r} is no name of a file beside it")
    return where


def read_json(file: Path) -> Any:
    """A small JSON file; CheckpointError if it is none."""
    try:
        with file.open(encoding="utf-8") as stream:
            return json.loads(stream.read(MAX_JSON_BYTES))
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not JSON; mend it or take it away") from error

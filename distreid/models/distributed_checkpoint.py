"""A folder of torch.distributed.checkpoint, as FSDP training writes it, read in one process.

Its `.metadata` is a pickle, which torch would run. Here only the plain records that it consists of
are made; every chunk of a tensor is loaded as any checkpoint is.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distreid.errors import CheckpointError
from distreid.models.safe_load import memory_bounded, safe_load

METADATA = ".metadata"
MAX_METADATA_BYTES = 1 << 28
MAX_DIMENSIONS = 8
# What .metadata is made of; nothing else is even looked up.
RECORDS = {
    "torch.distributed.checkpoint.metadata": (
        "Metadata",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "MetadataIndex",
        "TensorProperties",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo", "_StoragePrefix"),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("Path", "PosixPath", "WindowsPath"),
    "pathlib._local": ("PosixPath", "WindowsPath"),
}


class Record:
    """Any of `RECORDS`, by its attributes alone."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in RECORDS.get(module, ()):
            return Record
        if module == "torch" and name == "Size":
            return _size
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise CheckpointError(f"holds {module}.{name}, which loading would run")


def _size(sides: Any = ()) -> tuple[int, ...]:
    return tuple(sides)


def load(folder: Path) -> dict[str, Any]:
    """The tensors by name, nested where the program saved nested dictionaries of them.

    CheckpointError for anything that is not such a folder, or of which a part is missing.
    """
    metadata = folder / METADATA
    try:
        if metadata.stat().st_size > MAX_METADATA_BYTES:
            raise CheckpointError(f"more than {MAX_METADATA_BYTES:,} bytes")
        data = metadata.read_bytes()
        with memory_bounded(100 * len(data) + (1 << 28)):
            content = _Unpickler(io.BytesIO(data)).load()
        tensors, paths = _tensors(folder, content), getattr(content, "planner_data", None)
    except CheckpointError as error:
        raise CheckpointError(f"{metadata}: {error}; it was not loaded") from error
    except OSError as error:
        raise CheckpointError(f"{metadata}: {error.strerror or error}") from error
    except Exception as error:  # a damaged pickle raises nearly anything
        raise CheckpointError(f"{metadata}: damaged, or of another torch") from error
    return _nested(tensors, paths if isinstance(paths, dict) else {})


def _tensors(folder: Path, content: Any) -> dict[str, Tensor]:
    places: dict[str, list[tuple[tuple[int, ...], Any]]] = {}
    for index, info in content.storage_data.items():
        places.setdefault(index.fqn, []).append((tuple(getattr(index, "offset", None) or ()), info))
    found = {}
    held = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    for name, about in content.state_dict_metadata.items():
        if not hasattr(about, "chunks"):
            continue  # a number, or an object that no feature needs
        chunks = [(start, _chunk(folder, name, info)) for start, info in places.get(name, [])]
        found[str(name)] = _assembled(str(name), tuple(about.size), chunks, held)
    return found


def _chunk(folder: Path, name: str, info: Any) -> Tensor:
    file, offset, length = folder / str(info.relative_path), int(info.offset), int(info.length)
    if Path(info.relative_path).name != info.relative_path or not file.is_file():
        raise CheckpointError(f"{name} lies in {info.relative_path}, which is not beside it")
    if offset < 0 or length < 0 or offset + length > file.stat().st_size:
        raise CheckpointError(f"{name} ends behind the end of {file.name}")
    with file.open("rb") as stream:
        stream.seek(offset)
        data = stream.read(length)
    value = safe_load(io.BytesIO(data), f"{file}, {name}", len(data))
    if not isinstance(value, Tensor) or value.nbytes > length:
        raise CheckpointError(f"{name} in {file.name} is not the tensor that it should be")
    return value


def _assembled(
    name: str, size: tuple[int, ...], chunks: list[tuple[tuple[int, ...], Tensor]], held: int
) -> Tensor:
    """The chunks at their places; every number comes from one of them."""
    if len(size) > MAX_DIMENSIONS or not chunks:
        raise CheckpointError(f"{name} has no chunk of its {size}")
    if sum(chunk.numel() for _, chunk in chunks) != torch.Size(size).numel():
        raise CheckpointError(f"{name} is {size}, and its chunks hold another number of numbers")
    if torch.Size(size).numel() * chunks[0][1].element_size() > held:
        raise CheckpointError(f"{name} is {size}, more than the files hold")
    whole = torch.empty(size, dtype=chunks[0][1].dtype)
    covered = torch.zeros(size, dtype=torch.bool)
    for start, chunk in chunks:
        start = start or (0,) * len(size)
        place = tuple(slice(a, a + n) for a, n in zip(start, chunk.shape, strict=True))
        whole[place], covered[place] = chunk, True
    if not covered.all():
        raise CheckpointError(f"{name}: its chunks leave a part of {size} out")
    return whole


def _nested(tensors: dict[str, Tensor], paths: dict[Any, Any]) -> dict[str, Any]:
    """`model.0.weight` under `model` where the program saved it there."""
    content: dict[str, Any] = {}
    for name, value in tensors.items():
        path = paths.get(name)
        *outer, last = map(str, path) if isinstance(path, tuple) and path else (name,)
        inner = content
        for part in outer:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise CheckpointError(f"{METADATA}: {part} is a tensor and a folder of tensors")
        inner[last] = value
    return content

"""What torch.save wrote, without running any of its code and in bounded memory."""

from __future__ import annotations

import contextlib
import pickle
import re
import resource
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from distreid.errors import CheckpointError

# What loading may take beside the tensors, which are at most the file and once more its pickle.
SPARE_BYTES = 1 << 30
_alone = threading.RLock()


class Ignored:
    """Stands for an object that programs save beside the weights: takes anything, keeps nothing."""

    made: type = object
    """What is made in its place where the file fills it: torch fills no other than these."""

    def __new__(cls, *arguments: Any) -> Any:
        return cls.made() if cls.made is not object else super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


# What torch says of a name that it does not know, and then of an object that is filled.
UNKNOWN = re.compile(r"GLOBAL ([\w.]+) was not an allowed global")
FILLED = re.compile(r"Can only (SETITEM|append).* got <class '(\S+)'>")
FILLED_AS = {"SETITEM": OrderedDict, "append": list}
GLOBAL = re.compile(r"GLOBAL (\S+)")
MOST_IGNORED = 100


def safe_load(source: Path | BinaryIO, name: str, size: int) -> Any:
    """What a file, or a part of one, of `size` bytes holds; `name` is what errors call it.

    In place of an object of a class that torch does not know as harmless stands an `Ignored`, or
    what the file fills it with; no such class or function is imported. CheckpointError if the file
    is damaged, holds no tensor beside such objects, or names what torch holds for dangerous.
    """
    ignored: dict[str, type[Ignored]] = {}
    while True:
        try:
            content = _load(source, size, ignored)
            break
        except pickle.UnpicklingError as error:
            if not _passed_over(str(error), ignored):
                raise _refusal(name, ignored, str(error)) from error
        except OSError as error:
            raise CheckpointError(f"{name}: {error.strerror or error}") from error
        except Exception as error:  # damaged archives raise nearly anything
            if isinstance(error, MemoryError) or "allocate memory" in str(error):
                raise CheckpointError(
                    f"{name}: loading takes far more memory than the file has bytes, or than is "
                    "free; save model.state_dict() alone"
                ) from error
            raise CheckpointError(f"{name}: not a checkpoint, or a damaged one") from error
    if ignored and not _has_tensor(content):
        raise _refusal(name, ignored, "")
    return content


def _passed_over(message: str, ignored: dict[str, type[Ignored]]) -> bool:
    """Whether the file can be tried again with what torch stopped at passed over."""
    if unknown := UNKNOWN.search(message):
        made: type = object
        path = unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
    elif filled := FILLED.search(message):
        path, made = filled[2], FILLED_AS[filled[1]]
    else:
        return False
    if len(ignored) == MOST_IGNORED or (path in ignored) == (made is object):
        return False
    module, _, last = path.rpartition(".")
    ignored[path] = type(last, (Ignored,), {"__module__": module, "made": made})
    return True


def _refusal(name: str, ignored: dict[str, type[Ignored]], message: str) -> CheckpointError:
    dangerous = GLOBAL.search(message)
    what = dangerous[1] if dangerous else next(iter(ignored), None)
    if what is None:
        return CheckpointError(
            f"{name}: not a checkpoint that torch.save wrote; give a file of weights"
        )
    return CheckpointError(
        f"{name}: holds {what}, which loading would run, so it was not loaded; save "
        "model.state_dict() alone"
    )


def _has_tensor(content: Any) -> bool:
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            return True
        if isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting += value.values() if isinstance(value, dict) else value
    return False


def _load(source: Path | BinaryIO, size: int, ignored: dict[str, type[Ignored]]) -> Any:
    if not isinstance(source, Path):
        source.seek(0)
    with (
        memory_bounded(2 * size + SPARE_BYTES),
        torch.serialization.safe_globals([(each, path) for path, each in ignored.items()]),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        # latin1 takes any byte: Python 2 wrote numpy's numbers as strings of them.
        return torch.load(source, map_location="cpu", weights_only=True, encoding="latin1")


@contextlib.contextmanager
def memory_bounded(more: int) -> Iterator[None]:
    """Within it, this process gets a MemoryError once it takes that many bytes more.

    What a pickle may build without running code can still be of any size. The limit, like torch's
    list of what may be loaded, is the process's: other threads wait.
    """
    with _alone, _limited(more):
        yield


@contextlib.contextmanager
def _limited(more: int) -> Iterator[None]:
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

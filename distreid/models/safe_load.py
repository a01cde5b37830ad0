"""What torch.save wrote, without running any of its code and in bounded memory."""

from __future__ import annotations

import contextlib
import pickle
import re
import resource
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch

from distreid.errors import CheckpointError

# What loading may take beside the tensors, which are at most the file and once more its pickle.
SPARE_BYTES = 1 << 30
_alone = threading.RLock()


class Ignored:
    """Stands for what programs save beside the weights: takes anything, keeps nothing."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


# Options, histories and scalars of the programs that write checkpoints; none of these names is
# imported. Not numpy's own functions: a file could have them make an item of any size.
PASSED_OVER: list[Any] = [
    (Ignored, name)
    for name in (
        "numpy.core.multiarray.scalar",  # torchreid's rank1, by numpy 1's name for it
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.ndarray",
        "argparse.Namespace",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib._local.PosixPath",
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict",
        "lightning.fabric.utilities.data.AttributeDict",
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.base.ContainerMetadata",
        "omegaconf.base.Metadata",
        "omegaconf.nodes.AnyNode",
        "yacs.config.CfgNode",
        "easydict.EasyDict",
        "addict.addict.Dict",
        "mmcv.utils.config.ConfigDict",
        "mmengine.config.config.ConfigDict",
        "mmengine.logging.history_buffer.HistoryBuffer",
    )
]


def safe_load(source: Path | BinaryIO, name: str, size: int) -> Any:
    """What a file, or a part of one, of `size` bytes holds; `name` is what errors call it."""
    try:
        with (
            memory_bounded(2 * size + SPARE_BYTES),
            torch.serialization.safe_globals(PASSED_OVER),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            # latin1 takes any byte: Python 2 wrote numpy's numbers as strings of them.
            return torch.load(source, map_location="cpu", weights_only=True, encoding="latin1")
    except pickle.UnpicklingError as error:
        if culprit := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{name}: holds {culprit[1]}, which loading would run, so it was not loaded; "
                "save model.state_dict() alone"
            ) from error
        raise CheckpointError(
            f"{name}: not a checkpoint that torch.save wrote; give a file of weights"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{name}: {error.strerror or error}") from error
    except Exception as error:  # damaged archives raise nearly anything
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise CheckpointError(
                f"{name}: loading takes far more memory than the file has bytes, or than is free; "
                "save model.state_dict() alone"
            ) from error
        raise CheckpointError(f"{name}: not a checkpoint, or a damaged one") from error


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

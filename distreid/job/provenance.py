"""Where, when and with what a run is made: recorded for people, never compared."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import socket
import sys
from datetime import datetime, timezone
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import PIL
import torch

import distreid
from distreid.errors import printable
from distreid.host.machine import cores, cpu_kind
from distreid.job.options import ExtractOptions
from distreid.ranks.group import World


def provenance(world: World, device: torch.device, options: ExtractOptions) -> dict[str, Any]:
    """What a plan carries beside its identity; JSON values."""
    modules = {"h5py": h5py, "numpy": np, "Pillow": PIL, "distreid": distreid}
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        # A path may be no UTF-8, which the store's texts are.
        "command": shlex.join(sys.argv).encode("utf-8", "backslashreplace").decode(),
        "machine": machine(world, device),
        "cpu": cpu_kind(),
        "batch_size": options.batch_size,
        "cache": options.cache and printable(str(options.cache)),
        "versions": {name: version(module) for name, module in modules.items()}
        # Importing it would take as long as importing torch.
        | {"torchvision": importlib.metadata.version("torchvision").partition("+")[0]},
    }


def library_versions() -> dict[str, str]:
    """Of the libraries that the features' last bits depend on."""
    return {"torch": version(torch)}


def machine(world: World, device: torch.device) -> str:
    """`2 CPU cores, 1 process`, or the GPU's name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cores()} CPU cores"
    plural = "process" if world.world_size == 1 else "processes"
    return f"{name}, {world.world_size} {plural}"


def version(module: ModuleType) -> str:
    """Without the build's suffix, such as +cu130."""
    return str(module.__version__).partition("+")[0]

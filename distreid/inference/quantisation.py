"""A network in whole numbers of 8 bits, by NNCF for OpenVINO: its ranges are seen on images."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.errors import EngineError, OptionError, StoreError
from distreid.host.atomic_files import publish_bytes
from distreid.inference.openvino_engine import core, without_telemetry
from distreid.inference.quiet_converters import quiet_converter
from distreid.store.run_folder import INT8_FILES

CALIBRATION_IMAGES = 300
"""NNCF's own default for the size of its subset."""
LEAST_CALIBRATION = 64
"""Images, to see the ranges on."""


@dataclass(frozen=True)
class Quantised:
    """A network in OpenVINO's format."""

    xml: bytes
    weights: bytes

    def sha256(self) -> str:
        """Of both, in hex."""
        return hashlib.sha256(self.xml + self.weights).hexdigest()

    def save(self, run: Path) -> None:
        """Beside a run's store, where every rank and every continuation finds it."""
        run.mkdir(parents=True, exist_ok=True)
        for name, content in zip(INT8_FILES, (self.xml, self.weights), strict=True):
            publish_bytes(run / name, content)

    @classmethod
    def read(cls, run: Path, sha256: str) -> Quantised:
        """What `save` wrote; StoreError if it is not there, or another."""
        try:
            found = cls(*((run / name).read_bytes() for name in INT8_FILES))
        except OSError as error:
            raise StoreError(
                f"{error.filename}: {error.strerror}; restore it, or delete {run} and begin again"
            ) from error
        if found.sha256() != sha256:
            raise StoreError(
                f"{run / INT8_FILES[0]}: not the network that the run was begun with; restore it "
                f"and {INT8_FILES[1]}, or delete {run} and begin again"
            )
        return found


def calibration_rows(count: int) -> NDArray[np.intp]:
    """Which of so many images are looked at: `CALIBRATION_IMAGES`, evenly spaced, or all."""
    rows: NDArray[np.intp] = np.linspace(
        0, count - 1, min(count, CALIBRATION_IMAGES), dtype=np.intp
    )
    return rows


def quantise(
    graph: bytes, batches: Sequence[NDArray[Any]], attention: bool, as_it_is: str = ""
) -> Quantised:
    """A graph in ONNX, with the ranges that its values have on these batches of its input.

    `attention`: whether it is a transformer, whose products of queries and keys NNCF then
    leaves as they are. `as_it_is`: a pattern of the names of nodes that are not quantised.
    OptionError without NNCF, EngineError if it cannot take the network.
    """
    try:
        with without_telemetry():
            import nncf
    except ImportError as error:
        raise OptionError(
            "--precision int8: NNCF is not installed; pip install 'distreid[engines]'"
        ) from error
    try:
        with quiet_converter(), tempfile.TemporaryDirectory() as folder:
            nncf.set_log_level(logging.ERROR)
            network = nncf.quantize(
                core().read_model(graph),
                nncf.Dataset(batches),
                # Weights and sums symmetric, what enters a layer as it comes: of NNCF's presets
                # the one that loses less.
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(batches),
                model_type=nncf.ModelType.TRANSFORMER if attention else None,
                ignored_scope=nncf.IgnoredScope(patterns=[as_it_is]) if as_it_is else None,
            )
            import openvino

            files = [Path(folder) / name for name in INT8_FILES]
            openvino.serialize(network, *map(str, files))
            return Quantised(*(file.read_bytes() for file in files))
    except Exception as error:  # it raises nearly anything
        text = " ".join(str(error).split())
        raise EngineError(f"NNCF cannot quantise it: {text[:200]}") from error

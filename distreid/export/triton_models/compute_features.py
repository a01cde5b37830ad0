"""uint8 images to features of norm 1, by ONNX Runtime in Triton's Python backend.

Triton calls it with the requests of one dynamic batch. It needs numpy and onnxruntime alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """The file model.onnx beside this one."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Opens it, with the threads that config.pbtxt gives."""
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(config["parameters"]["threads"]["string_value"])
        self.session = onnxruntime.InferenceSession(
            str(Path(__file__).with_name("model.onnx")), options, providers=["CPUExecutionProvider"]
        )
        self.names = [given.name for given in self.session.get_inputs()]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """All requests in one pass; each gets its own rows."""
        given = {
            name: [triton.get_input_tensor_by_name(each, name).as_numpy() for each in requests]
            for name in self.names
        }
        counts = [len(images) for images in given[self.names[0]]]
        if "cameras" in given:  # (N, 1) on the wire
            given["cameras"] = [cameras.reshape(-1) for cameras in given["cameras"]]
        together = {name: np.concatenate(parts) for name, parts in given.items()}
        features = self.session.run(["features"], together)[0]
        return [
            triton.InferenceResponse([triton.Tensor("features", np.ascontiguousarray(rows))])
            for rows in np.split(features, np.cumsum(counts)[:-1])
        ]

"""The bytes of image files to uint8 pixels, decoded and resized as distreid's extraction does.

Triton calls it with the requests of one dynamic batch. The server's Python needs distreid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from distreid.errors import ImageError
from distreid.images.preprocess import Preprocess


class TritonPythonModel:
    """What preprocess.json beside this file describes."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads it."""
        about = json.loads(Path(__file__).with_name("preprocess.json").read_text("utf-8"))
        self.preprocess = Preprocess.from_identity(about)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A request with an image that cannot be read gets its error; the others are answered."""
        return [self._answer(each) for each in requests]

    def _answer(self, request: Any) -> Any:
        files = triton.get_input_tensor_by_name(request, "files").as_numpy().reshape(-1)
        try:
            images = [self.preprocess.decode(bytes(file)) for file in files]
        except ImageError as error:
            return triton.InferenceResponse([], triton.TritonError(f"not an image: {error}"))
        pixels = np.ascontiguousarray(self.preprocess.resize(images).contiguous().numpy())
        return triton.InferenceResponse([triton.Tensor("images", pixels)])

"""Networks whose weights are loaded at once need no random ones first, which take a ViT-B/16's
builder two thirds of its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

RANDOM = {
    torch.Tensor.uniform_,
    torch.Tensor.normal_,
    torch.Tensor.erfinv_,  # which makes a truncated normal distribution of a uniform one
    # Those that hand the tensor on before they fill it.
    nn.init.uniform_,
    nn.init.normal_,
    nn.init.kaiming_uniform_,
    nn.init.kaiming_normal_,
}


class SkippedInit(TorchFunctionMode):
    """While it lasts, nothing is filled with random numbers: a weight is what its memory held."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The tensor as it is for what would fill it, else what `func` gives."""
        if func in RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))

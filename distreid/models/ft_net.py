"""ft_net, the ResNet-50 of Person_reID_baseline_pytorch (Zheng et al.).

The parameters carry that project's names: `model.*` is torchvision's ResNet-50,
`classifier.add_block.*` the layers between the pooled map and the ID classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from distreid.errors import CheckpointError
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.resnet import resnet
from distreid.preprocess import Preprocess

POOLED_DIM = 2048
LINEAR_NUM = 512  # that project's default
STRIDES = (1, 2)


class ClassBlock(nn.Module):
    """Linear (unless `linear_num` is 0) and batch norm; dropout is the identity at test."""

    def __init__(self, pooled_dim: int, linear_num: int) -> None:
        super().__init__()
        linear = [nn.Linear(pooled_dim, linear_num)] if linear_num else []
        self.add_block = nn.Sequential(*linear, nn.BatchNorm1d(linear_num or pooled_dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.add_block(x)  # type: ignore[no-any-return]


class Baseline(nn.Module):
    """(N, 3, H, W) normalised images → (N, linear_num or pooled) features, not L2-normalised.

    `body` gives the pooled features, (N, pooled_dim).
    """

    def __init__(self, body: Callable[[], nn.Module], pooled_dim: int, linear_num: int) -> None:
        super().__init__()
        self.model = body()
        self.classifier = ClassBlock(pooled_dim, linear_num)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.model(x))  # type: ignore[no-any-return]


def linear_num_of(state: StateDict) -> int:
    """The outputs of the linear layer before the batch norm, 0 if there is none."""
    first = state.get("classifier.add_block.0.weight")
    if first is None:
        return LINEAR_NUM
    return first.shape[0] if first.ndim == 2 else 0


def stride_of(
    options: Mapping[str, Any], stride: int | None, name: str
) -> tuple[int, tuple[str, ...]]:
    """The stride of the last stage, and what to say if it had to be guessed.

    The shape of the weights does not depend on it: it is `stride` if given, else the word of
    opts.yaml, else 2, which is that project's default.
    """
    if stride is None:
        stride = options.get("stride")
    if stride is None:
        return 2, (
            "stride: not in the weights, and no opts.yaml beside them says it; taken as 2 "
            f"(--model {name}_stride1 if it was trained with --stride 1)",
        )
    if type(stride) is not int or stride not in STRIDES:
        raise CheckpointError(f"opts.yaml: stride is {stride!r}; {name} has 1 or 2")
    return stride, ()


def recognise(state: StateDict) -> str | None:
    """`ft_net` if these are its weights."""
    known = "model.layer4.2.conv3.weight" in state and "classifier.add_block.0.weight" in state
    return "ft_net" if known else None


def read(state: StateDict, options: Mapping[str, Any], stride: int | None = None) -> Architecture:
    """The architecture that the weights and the `opts.yaml` beside them tell."""
    stride, notes = stride_of(options, stride, "ft_net")
    linear_num = linear_num_of(state)
    ibn = "model.layer1.0.bn1.IN.weight" in state
    body = partial(resnet, "resnet50", "a" if ibn else "", stride)
    return Architecture(
        name="ft_net",
        peer="Person_reID_baseline_pytorch",
        build=partial(Baseline, body, POOLED_DIM, linear_num),
        dim=linear_num or POOLED_DIM,
        feature="pooled layer4, " + ("linear, " if linear_num else "") + "batch norm",
        preprocess=Preprocess(interpolation="bicubic"),
        flip=True,
        options={"stride": stride, "linear_num": linear_num, "ibn": ibn},
        not_for_features=("model.fc.", "classifier.classifier."),
        classes=rows_of(state, "classifier.classifier.0.weight"),
        notes=notes,
    )

"""ft_net, the ResNet-50 of Person_reID_baseline_pytorch (Zheng et al.), or another ResNet in its
place, with or without its `--usam`.

The parameters carry that project's names: `model.*` is torchvision's ResNet,
`classifier.add_block.*` the layers between the pooled map and the ID classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.errors import CheckpointError, OptionError
from distreid.images.preprocess import Preprocess
from distreid.models import resnet as resnets
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.choices import choices_in
from distreid.models.resnet import SHAPES, resnet

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


class Edges(nn.Module):
    """USAM, the unit that `--usam` adds: each place is weighted by how much it differs from its
    neighbours, summed over the channels; the border is left as it is. Both kernels are in the file,
    though no training changes them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1, 3, 3))
        self.weight2 = nn.Parameter(torch.full((1, 1, 1, 1), 9.0))
        self.bn = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        total = x.sum(1, keepdim=True)
        around = F.conv2d(total, self.weight, padding=1)
        weight = self.bn(F.conv2d(total, self.weight2) - around).relu()
        inside = F.pad(weight[:, :, 1:-1, 1:-1], (1, 1, 1, 1))
        return x + inside * x


class Attended(Baseline):
    """The same with USAM after the first ReLU and after the first stage of its ResNet."""

    def __init__(self, body: Callable[[], nn.Module], pooled_dim: int, linear_num: int) -> None:
        super().__init__(body, pooled_dim, linear_num)
        self.usam_1, self.usam_2 = Edges(), Edges()

    def forward(self, x: Tensor) -> Tensor:
        net: Any = self.model
        x = net.maxpool(self.usam_1(net.bn1(net.conv1(x)).relu()))
        x = net.layer2(self.usam_2(net.layer1(x)))
        return self.classifier(net.layer4(net.layer3(x)).mean((2, 3)))  # type: ignore[no-any-return]


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
    chosen = choices_in(options).last_stride
    if stride is not None and chosen not in (None, stride):
        raise OptionError(f"--last-stride {chosen}: --model {name}_stride{stride} has {stride}")
    if stride is None:
        stride = chosen or options.get("stride")
    if stride is None:
        return 2, (
            "stride: not in the weights, and no opts.yaml beside them says it; taken as 2 "
            f"(--last-stride 1, or --model {name}_stride1, if it was trained with --stride 1)",
        )
    if type(stride) is not int or stride not in STRIDES:
        raise CheckpointError(f"opts.yaml: stride is {stride!r}; {name} has 1 or 2")
    return stride, ()


def recognise(state: StateDict) -> str | None:
    """`ft_net` if these are its weights."""
    known = "classifier.add_block.0.weight" in state and body_of(state)
    return "ft_net" if known else None


def body_of(state: StateDict) -> str | None:
    """The ResNet under `model.`, by a key of `resnet.SHAPES`, with `_ibn_a` or `_ibn_b` after it;
    None if there is none."""
    own = {key[6:]: value for key, value in state.items() if key.startswith("model.")}
    return resnets.recognise({k: v for k, v in own.items() if not k.startswith("fc.")})


def read(state: StateDict, options: Mapping[str, Any], stride: int | None = None) -> Architecture:
    """The architecture that the weights and the `opts.yaml` beside them tell."""
    stride, notes = stride_of(options, stride, "ft_net")
    linear_num = linear_num_of(state)
    name, _, norms = (body_of(state) or "resnet50").partition("_ibn_")
    ibn = norms == "a"
    body = partial(resnet, name, norms, stride)
    pooled_dim = SHAPES[name][2]
    usam = "usam_1.weight" in state
    described: dict[str, Any] = {"stride": stride, "linear_num": linear_num, "ibn": ibn}
    if name != "resnet50":
        described["body"] = name
    if norms == "b":
        described["ibn"] = "b"
    if usam:
        described["usam"] = True
    return Architecture(
        name="ft_net",
        peer="Person_reID_baseline_pytorch",
        build=partial(Attended if usam else Baseline, body, pooled_dim, linear_num),
        dim=linear_num or pooled_dim,
        feature="pooled layer4, " + ("linear, " if linear_num else "") + "batch norm",
        preprocess=Preprocess(interpolation="bicubic"),
        flip=True,
        options=described,
        not_for_features=("model.fc.", "classifier.classifier."),
        classes=rows_of(state, "classifier.classifier.0.weight"),
        obeys=("last_stride",),
        notes=notes,
    )

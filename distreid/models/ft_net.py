"""ft_net, the ResNet-50 of Person_reID_baseline_pytorch (Zheng et al.).

The parameters carry that project's names: `model.*` is torchvision's ResNet-50,
`classifier.add_block.*` the layers between the pooled map and the ID classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from distreid.errors import CheckpointError
from distreid.models.architecture import Architecture, StateDict
from distreid.preprocess import Preprocess

POOLED_DIM = 2048
STRIDES = (1, 2)


class InstanceBatchNorm(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the rest.

    IBN-a of Pan et al., ECCV 2018 (arXiv:1807.09441).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.split = [half, channels - half]
        self.IN = nn.InstanceNorm2d(half, affine=True)
        self.BN = nn.BatchNorm2d(channels - half)

    def forward(self, x: Tensor) -> Tensor:
        normed, batched = torch.split(x, self.split, dim=1)
        return torch.cat((self.IN(normed.contiguous()), self.BN(batched.contiguous())), dim=1)


class ClassBlock(nn.Module):
    """Linear (unless `linear_num` is 0) and batch norm; dropout is the identity at test."""

    def __init__(self, linear_num: int) -> None:
        super().__init__()
        linear = [nn.Linear(POOLED_DIM, linear_num)] if linear_num else []
        self.add_block = nn.Sequential(*linear, nn.BatchNorm1d(linear_num or POOLED_DIM))

    def forward(self, x: Tensor) -> Tensor:
        return self.add_block(x)  # type: ignore[no-any-return]


class FtNet(nn.Module):
    """(N, 3, H, W) normalised images → (N, linear_num or 2048) features, not L2-normalised."""

    def __init__(self, stride: int, linear_num: int, ibn: bool) -> None:
        super().__init__()
        self.model = torchvision.models.resnet50(weights=None)
        self.model.fc = nn.Identity()
        if stride == 1:
            self.model.layer4[0].downsample[0].stride = (1, 1)
            self.model.layer4[0].conv2.stride = (1, 1)
        if ibn:
            for layer in (self.model.layer1, self.model.layer2, self.model.layer3):
                for block in layer:
                    block.bn1 = InstanceBatchNorm(block.bn1.num_features)
        self.classifier = ClassBlock(linear_num)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.model(x))  # type: ignore[no-any-return]


def recognise(state: StateDict) -> bool:
    """Whether these are the weights of a plain ft_net."""
    return "model.layer4.2.conv3.weight" in state and "classifier.add_block.0.weight" in state


def read(state: StateDict, options: Mapping[str, Any], stride: int | None = None) -> Architecture:
    """The architecture that the weights and the `opts.yaml` beside them tell.

    The shape of the weights does not depend on the stride of the last stage: it is
    `stride` if given, else the file's word, else 2, which is that project's default.
    """
    notes: tuple[str, ...] = ()
    if stride is None:
        stride = options.get("stride")
    if stride is None:
        stride = 2
        notes = (
            "stride: not in the weights, and no opts.yaml beside them says it; taken as 2 "
            "(--model ft_net_stride1 if it was trained with --stride 1)",
        )
    if stride not in STRIDES:
        raise CheckpointError(f"opts.yaml: stride is {stride!r}; ft_net has 1 or 2")
    if "classifier.add_block.0.weight" not in state:
        raise CheckpointError("no classifier.add_block.0.weight, which every ft_net has")
    first = state["classifier.add_block.0.weight"]
    linear_num = first.shape[0] if first.ndim == 2 else 0
    ibn = "model.layer1.0.bn1.IN.weight" in state
    return Architecture(
        name="ft_net",
        peer="Person_reID_baseline_pytorch",
        build=partial(FtNet, stride, linear_num, ibn),
        dim=linear_num or POOLED_DIM,
        feature="pooled layer4, " + ("linear, " if linear_num else "") + "batch norm",
        preprocess=Preprocess(interpolation="bicubic"),
        flip=True,
        options={"stride": stride, "linear_num": linear_num, "ibn": ibn},
        not_for_features=("model.fc.", "classifier.classifier."),
        notes=notes,
    )

"""CLIP-ReID's image encoders (Li et al., AAAI 2023, arXiv:2211.13977): CLIP's ViT-B/16 and RN50.

The feature is what CLIP has before its last projection, and after it. The text encoder and the
prompts only serve the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.necks import Neck, Necked, renamed
from distreid.models.peer_config import HALF, colour_of, settings
from distreid.models.timm_extra import timm_for
from distreid.models.torchvision_networks import torchvision_networks
from distreid.models.transreid import is_after
from distreid.models.vit import (
    BLOCKS,
    HEAD_DIM,
    PATCH,
    known_cameras,
    of_camera,
    size_and_stride,
    tokens_and_dim,
    vit_block,
)

NOT_FOR_FEATURES = ("text_encoder.", "prompt_learner.", "classifier")
RESNET_DIM = 2048
# OpenAI's names of the parts of a block, and timm's.
BLOCK_NAMES = {
    "transformer.resblocks.": "blocks.",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
}


class ClipViT(nn.Module):
    """(B, 3, H, W) normalised images → (B, dim + projected): the class token before and after the
    projection. A camera's embedding, times `coefficient`, is added to the class token alone."""

    def __init__(
        self,
        *,
        dim: int,
        projected: int,
        tokens: int,
        stride: int,
        cameras: int = 0,
        coefficient: float = 0.0,
    ) -> None:
        super().__init__()
        self.coefficient = coefficient
        if cameras:
            self.cv_embed = nn.Parameter(torch.zeros(cameras, dim))
        self.class_embedding = nn.Parameter(torch.zeros(dim))
        self.positional_embedding = nn.Parameter(torch.zeros(tokens, dim))
        self.proj = nn.Parameter(torch.zeros(dim, projected))
        self.conv1 = nn.Conv2d(3, dim, PATCH, stride, bias=False)
        self.ln_pre = nn.LayerNorm(dim)
        gelu = timm_for("a ViT").layers.activations.QuickGELU
        settings = {"act_layer": gelu, "norm_layer": nn.LayerNorm}
        self.blocks = nn.Sequential(*(vit_block(dim, **settings) for _ in range(BLOCKS)))
        self.ln_post = nn.LayerNorm(dim)

    def forward(self, images_BCHW: Tensor, cameras_B: Tensor | None = None) -> Tensor:
        patches = self.conv1(images_BCHW).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        if cameras_B is not None:
            first = first + self.coefficient * of_camera(self.cv_embed, cameras_B)[:, None]
        tokens = torch.cat((first, patches), dim=1) + self.positional_embedding
        feature = self.ln_post(self.blocks(self.ln_pre(tokens))[:, 0])
        return torch.cat((feature, feature @ self.proj), dim=1)


class AverageConv(nn.Conv2d):
    """A 1×1 convolution of the 2×2 averages, where other ResNets have a stride."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.avg_pool2d(x, 2))


class AttentionPool(nn.Module):
    """(B, C, H, W) → (B, projected): the mean attends to itself and to all places."""

    def __init__(self, channels: int, projected: int, tokens: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(tokens, channels))
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, projected)

    def forward(self, x: Tensor) -> Tensor:
        places = x.flatten(2).transpose(1, 2)
        tokens = torch.cat((places.mean(1, keepdim=True), places), dim=1)
        tokens = tokens + self.positional_embedding
        query, key, value = (
            projection(part).unflatten(2, (-1, HEAD_DIM)).transpose(1, 2)
            for projection, part in (
                (self.q_proj, tokens[:, :1]),
                (self.k_proj, tokens),
                (self.v_proj, tokens),
            )
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.c_proj(mixed.transpose(1, 2).flatten(1))  # type: ignore[no-any-return]


class ClipResNet(nn.Module):
    """(B, 3, H, W) normalised images → (B, 2048 + projected): the pooled map, and its attention
    pooling. torchvision's ResNet-50 with CLIP's stem, averages for strides, none in layer4."""

    def __init__(self, *, projected: int, tokens: int) -> None:
        super().__init__()
        network = torchvision_networks().resnet50(weights=None)
        self.conv1 = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.layer1, self.layer2 = network.layer1, network.layer2
        self.layer3, self.layer4 = network.layer3, network.layer4
        for block in (self.layer2[0], self.layer3[0]):
            block.conv3 = AverageConv(block.conv3.in_channels, block.conv3.out_channels)
            down = block.downsample[0]
            block.downsample[0] = AverageConv(down.in_channels, down.out_channels)
        for layer in (self.layer2, self.layer3, self.layer4):
            layer[0].conv2.stride = (1, 1)
        self.layer4[0].downsample[0].stride = (1, 1)
        self.attnpool = AttentionPool(RESNET_DIM, projected, tokens)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images_BCHW)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = F.avg_pool2d(self.bn3(self.conv3(x)).relu(), 2)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.cat((x.mean((2, 3)), self.attnpool(x)), dim=1)


def recognise(state: StateDict) -> str | None:
    """`clipreid` if these are weights of it, with one of its two image encoders."""
    encoders = {"image_encoder.class_embedding", "image_encoder.attnpool.positional_embedding"}
    return "clipreid" if encoders & set(state) else None


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture that the weights, and a `config.yaml` beside them, tell."""
    is_vit = "image_encoder.attnpool.positional_embedding" not in state
    where = "" if is_vit else "attnpool."
    tokens, dim = tokens_and_dim(state, f"image_encoder.{where}positional_embedding")
    height, width, stride = size_and_stride(tokens, options)
    embeddings = rows_of(state, "cv_embed") if is_vit else None
    cameras = known_cameras(embeddings, height == width, options)
    wanted: dict[str, Any] = {"TEST.NECK_FEAT": "before"}
    if embeddings:
        wanted["MODEL.SIE_COE"] = 1.0
    said, notes = settings(options, wanted)
    after = is_after(options, said)
    chosen = {"cameras": embeddings, "coefficient": said["MODEL.SIE_COE"]} if embeddings else {}
    if is_vit:
        projected = state["image_encoder.proj"].shape[1]
        build: Callable[[], nn.Module] = partial(
            ClipViT, dim=dim, projected=projected, tokens=tokens, stride=stride, **chosen
        )
        mean, std = HALF, HALF
    else:
        projected = state["image_encoder.attnpool.c_proj.weight"].shape[0]
        build = partial(ClipResNet, projected=projected, tokens=tokens)
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    necks = [Neck("bottleneck", dim), Neck("bottleneck_proj", projected)]
    return Architecture(
        name="clipreid",
        peer="CLIP-ReID",
        build=partial(Necked, build, necks) if after else build,
        dim=dim + projected,
        feature=("class token, and its projection" if is_vit else "pooled layer4, attention pool")
        + (", batch norm" if after else ""),
        preprocess=Preprocess(
            height=height,
            width=width,
            interpolation="bilinear",
            mean=colour_of(options, "INPUT.PIXEL_MEAN", mean),
            std=colour_of(options, "INPUT.PIXEL_STD", std),
        ),
        flip=False,
        options={"encoder": "ViT-B-16" if is_vit else "RN50", "stride": stride} | chosen,
        not_for_features=(
            *NOT_FOR_FEATURES,
            *(() if is_vit else ("cv_embed",)),
            *(() if after else ("bottleneck",)),
        ),
        rename=partial(renamed, necks, _rename) if after else _rename,
        classes=rows_of(state, "classifier.weight"),
        **cameras,
        fixed_size=True,
        obeys=("feature", "viewpoints") if cameras.get("cameras") else ("feature",),
        notes=notes,
    )


def _rename(key: str) -> str:
    key = key.removeprefix("image_encoder.")
    for theirs, ours in BLOCK_NAMES.items():
        key = key.replace(theirs, ours)
    return key

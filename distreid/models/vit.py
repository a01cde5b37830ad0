"""The vision transformer of fast-reid and TransReID: timm's blocks between tokens of their own.

timm's own class is not used, because its patches do not overlap, and because cameras and
TransReID's parts need what lies between the blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distreid.errors import CheckpointError
from distreid.models.architecture import StateDict
from distreid.models.choices import choices_in
from distreid.models.peer_config import settings, size_of
from distreid.models.resnet import InstanceBatchNorm
from distreid.models.timm_extra import timm_for

PATCH = 16
HEAD_DIM = 64
STEM = 64
BLOCKS = 12
# Both projects' ViT-Small, which is as wide as their ViT-Base.
SMALL_BLOCKS, SMALL_HEADS, SMALL_RATIO = 8, 8, 3.0
# Heights and widths of the peers' configurations, and the strides between their patches.
SIZES = ((256, 128), (384, 128), (256, 256), (224, 224))
STRIDES = (16, 12, 11)
VERI_CAMERAS = 20
VERI_VIEWPOINTS = 8  # CLIP-ReID's and TransReID's view_num of VeRi-776
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class ViT(nn.Module):
    """(B, 3, H, W) normalised images → (B, 1 + patches, dim) tokens, the class token first.

    With `cameras`, the side information embeddings (SIE) of He et al., ICCV 2021
    (arXiv:2102.04378), times `coefficient`, are added to every token.
    """

    def __init__(
        self,
        *,
        dim: int,
        tokens: int,
        stride: int,
        small: bool = False,
        without_last: bool = False,
        cameras: int = 0,
        coefficient: float = 0.0,
        convolved: bool = False,
    ) -> None:
        super().__init__()
        self.coefficient = coefficient
        blocks = (SMALL_BLOCKS if small else BLOCKS) - without_last
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, PATCH, stride)})
        if convolved:
            half = nn.Conv2d(STEM, dim, PATCH // 2, stride // 2)
            self.patch_embed = nn.ModuleDict({"conv": convolved_stem(), "proj": half})
        self.convolved = convolved
        if cameras:
            self.sie_embed = nn.Parameter(torch.zeros(cameras, 1, dim))
        self.blocks = nn.Sequential(*(peer_block(dim, small) for _ in range(blocks)))

    def forward(self, images_BCHW: Tensor, cameras_B: Tensor | None = None) -> Tensor:
        x = self.patch_embed["conv"](images_BCHW) if self.convolved else images_BCHW
        patches = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(patches.shape[0], -1, -1)
        tokens = torch.cat((first, patches), dim=1) + self.pos_embed
        if cameras_B is not None:
            tokens = tokens + self.coefficient * of_camera(self.sie_embed, cameras_B)
        return self.blocks(tokens)  # type: ignore[no-any-return]


def convolved_stem() -> nn.Sequential:
    """TransReID-SSL's (Luo et al., arXiv:2111.12084): three convolutions before the patches, two of
    them with instance norm on half of the channels."""
    return nn.Sequential(
        nn.Conv2d(3, STEM, 7, 2, padding=3, bias=False),
        InstanceBatchNorm(STEM),
        nn.ReLU(),
        nn.Conv2d(STEM, STEM, 3, padding=1, bias=False),
        InstanceBatchNorm(STEM),
        nn.ReLU(),
        nn.Conv2d(STEM, STEM, 3, padding=1, bias=False),
        nn.BatchNorm2d(STEM),
        nn.ReLU(),
    )


class ClassToken(ViT):
    """(B, 3, H, W) normalised images → (B, dim): the class token after a last layer norm."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.norm = LayerNorm(arguments["dim"])

    def forward(self, images_BCHW: Tensor, cameras_B: Tensor | None = None) -> Tensor:
        return self.norm(super().forward(images_BCHW, cameras_B)[:, 0])  # type: ignore[no-any-return]


def of_camera(table: Tensor, cameras_B: Tensor) -> Tensor:
    """The rows of the table; their mean for `MEAN_CAMERA`, zeros for `NO_CAMERA`."""
    # These are -2 and -1, which count from the end.
    rows = torch.cat((table, table.mean(0, keepdim=True), torch.zeros_like(table[:1])))
    return rows[cameras_B]


def vit_block(dim: int, **arguments: Any) -> nn.Module:
    """timm's transformer block."""
    blocks = timm_for("a ViT").models.vision_transformer
    return blocks.Block(dim, dim // HEAD_DIM, qkv_bias=True, **arguments)  # type: ignore[no-any-return]


def peer_block(dim: int, small: bool) -> nn.Module:
    """A block of fast-reid's and TransReID's."""
    if not small:
        return vit_block(dim, norm_layer=LayerNorm)
    blocks = timm_for("a ViT").models.vision_transformer
    block = blocks.Block(dim, SMALL_HEADS, mlp_ratio=SMALL_RATIO, norm_layer=LayerNorm)
    # Its scale is by the width of all heads, not of each, which only unfused attention takes.
    block.attn.fused_attn, block.attn.scale = False, dim**-0.5
    return block  # type: ignore[no-any-return]


def is_small(state: StateDict, prefix: str) -> bool:
    """Whether the blocks, whose names have the prefix, are those of the ViT-Small."""
    return count_of(state, prefix) == SMALL_BLOCKS


def tokens_and_dim(state: StateDict, key: str) -> tuple[int, int]:
    """Of the position embeddings of that name; CheckpointError if these are none."""
    shape = tuple(state[key].shape) if key in state else ()
    if len(shape) not in (2, 3) or shape[-1] % HEAD_DIM:
        raise CheckpointError(f"no {key} of tokens times a multiple of {HEAD_DIM} channels")
    return shape[-2], shape[-1]


def size_and_stride(tokens: int, options: Mapping[str, Any]) -> tuple[int, int, int]:
    """Height, width and stride by the number of position embeddings; no two give the same.

    A size of `config.yaml` that is not of `SIZES` is tried too. CheckpointError if none fits.
    """
    wanted = settings(options, {"INPUT.SIZE_TEST": SIZES[0]})[0]["INPUT.SIZE_TEST"]
    for height, width in (size_of(wanted), *SIZES):
        for stride in STRIDES:
            if tokens == 1 + _steps(height, stride) * _steps(width, stride):
                return height, width, stride
    sizes = ", ".join(f"{height}×{width}" for height, width in SIZES)
    raise CheckpointError(
        f"{tokens} position embeddings fit no stride of {STRIDES} at {sizes}; put the "
        "configuration beside it as config.yaml, with INPUT.SIZE_TEST"
    )


def known_cameras(
    embeddings: int | None, square: bool, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Of which cameras and viewpoints the embeddings are: fields of `Architecture`.

    Square inputs are of vehicles. With more embeddings than VeRi-776 has cameras, they are of
    cameras times viewpoints, of which that data set has 8 unless --viewpoints says otherwise.
    """
    asked = choices_in(options).viewpoints
    if embeddings is None or (asked is None and (not square or embeddings <= VERI_CAMERAS)):
        return {"cameras": embeddings}
    viewpoints = VERI_VIEWPOINTS if asked is None else asked
    cameras, left = divmod(embeddings, viewpoints)
    if left:
        raise CheckpointError(
            f"{embeddings} embeddings are not of cameras times {viewpoints} viewpoints; say how "
            "many by --viewpoints"
        )
    return {"cameras": cameras, "viewpoints": viewpoints}


def count_of(state: StateDict, prefix: str) -> int:
    """How many modules are numbered after the prefix."""
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def _steps(side: int, stride: int) -> int:
    return (side - PATCH) // stride + 1

"""PASS (Zhu et al., ECCV 2022, arXiv:2203.03931): a ViT with a token for the whole and one for
each of three parts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distreid.errors import CheckpointError
from distreid.images.preprocess import Preprocess
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.choices import choices_in
from distreid.models.peer_config import HALF, colour_of, settings
from distreid.models.vit import (
    BLOCKS,
    PATCH,
    LayerNorm,
    is_small,
    peer_block,
    size_and_stride,
    tokens_and_dim,
)

PARTS = 3
NECKS = ("bottleneck", *(f"bottleneck_{part}" for part in range(1, PARTS + 1)))
CAT, MEAN = "cat", "mean"


class Pass(nn.Module):
    """(B, 3, H, W) normalised images → (B, 2 · dim), the whole's token and the mean of the parts';
    with `fusion` mean (B, dim), the mean of these two. `necks` are the widths of the batch norms
    that follow: none, one of the fused, or one of each token."""

    def __init__(
        self, *, dim: int, tokens: int, stride: int, fusion: str, necks: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.fusion = fusion
        for name in ("cls_token", *(f"part_token{part}" for part in range(1, PARTS + 1))):
            self.register_parameter(name, nn.Parameter(torch.zeros(1, 1, dim)))
        for name in ("cls_pos", *(f"part{part}_pos" for part in range(1, PARTS + 1))):
            self.register_parameter(name, nn.Parameter(torch.zeros(1, 1, dim)))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, PATCH, stride)})
        self.blocks = nn.Sequential(*(peer_block(dim, small=False) for _ in range(BLOCKS)))
        self.norm = LayerNorm(dim)
        for name, width in zip(NECKS, necks, strict=False):
            self.add_module(name, nn.BatchNorm1d(width))
        self.necks = len(necks)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images_BCHW).flatten(2).transpose(1, 2)
        names = [("cls_token", "cls_pos")]
        names += [(f"part_token{part}", f"part{part}_pos") for part in range(1, PARTS + 1)]
        firsts = [self.get_parameter(a) + self.get_parameter(b) for a, b in names]
        first = torch.cat(firsts, dim=1).expand(patches.shape[0], -1, -1)
        tokens = torch.cat((first, patches + self.pos_embed), dim=1)
        found = self.norm(self.blocks(tokens)[:, : 1 + PARTS])
        if self.necks > 1:
            normed = [self.get_submodule(n)(found[:, place]) for place, n in enumerate(NECKS)]
            found = torch.stack(normed, dim=1)
        whole, parts = found[:, 0], found[:, 1:].mean(1)
        fused = torch.cat((whole, parts), dim=1) if self.fusion == CAT else (whole + parts) / 2
        return self.get_submodule(NECKS[0])(fused) if self.necks == 1 else fused


def recognise(state: StateDict) -> str | None:
    """`pass` if these are weights of it."""
    return "pass" if {"base.part_token1", "base.pos_embed"} <= state.keys() else None


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture that the weights, and a `config.yaml` beside them, tell."""
    tokens, dim = tokens_and_dim(state, "base.pos_embed")
    height, width, stride = size_and_stride(tokens + 1, options)  # which counts the class token
    if is_small(state, "base.blocks."):
        raise CheckpointError("a ViT of 8 blocks, which PASS has not")
    columns = state["classifier.weight"].shape[1] if "classifier.weight" in state else 2 * dim
    fusion = MEAN if columns == dim else CAT
    said, notes = settings(options, {"TEST.NECK_FEAT": "before"})
    if said["TEST.NECK_FEAT"] not in ("before", "after"):
        raise CheckpointError(f"config.yaml: TEST.NECK_FEAT is {said['TEST.NECK_FEAT']!r}")
    after = (choices_in(options).feature or f"{said['TEST.NECK_FEAT']}-neck") == "after-neck"
    widths = tuple(rows for name in NECKS if (rows := rows_of(state, f"{name}.weight")))
    how = "the whole's token and the mean of the parts'"
    return Architecture(
        name="pass",
        peer="PASS",
        build=partial(
            Pass,
            dim=dim,
            tokens=tokens,
            stride=stride,
            fusion=fusion,
            necks=widths if after else (),
        ),
        dim=dim if fusion == MEAN else 2 * dim,
        feature=(how if fusion == CAT else f"mean of {how}") + (", batch norm" if after else ""),
        preprocess=Preprocess(
            height=height,
            width=width,
            interpolation="bilinear",
            mean=colour_of(options, "INPUT.PIXEL_MEAN", HALF),
            std=colour_of(options, "INPUT.PIXEL_STD", HALF),
        ),
        flip=False,
        options={"stride": stride, "fusion": fusion},
        not_for_features=("classifier", "base.fc.", *(() if after else ("bottleneck",))),
        rename=lambda key: key.removeprefix("base."),
        classes=rows_of(state, "classifier.weight"),
        fixed_size=True,
        obeys=("feature",),
        notes=notes,
    )

"""TransReID (He et al., ICCV 2021, arXiv:2102.04378): ViT and DeiT, with cameras (SIE) and parts
(JPM) where the weights have them.

The parameters carry TransReID's names, but for the `base.` of most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distreid.errors import CheckpointError
from distreid.images.preprocess import Preprocess
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.choices import choices_in
from distreid.models.necks import Neck, Necked, renamed
from distreid.models.peer_config import HALF, colour_of, refuse_others, settings
from distreid.models.vit import (
    BLOCKS,
    SMALL_BLOCKS,
    ClassToken,
    LayerNorm,
    ViT,
    is_small,
    known_cameras,
    peer_block,
    size_and_stride,
    tokens_and_dim,
)

PARTS = 4
GROUPS = 2
JIGSAW = {
    "MODEL.RE_ARRANGE": True,
    "MODEL.SHUFFLE_GROUP": GROUPS,
    "MODEL.DEVIDE_LENGTH": PARTS,
}
SHIFT, SHIFT_OF_VEHICLES = 5, 8


class Jigsaw(ViT):
    """The jigsaw patch module (JPM): (B, 3, H, W) → (B, 5 · dim), the class token of the whole and
    a quarter of that of each of four parts, whose patches come from all over the image."""

    def __init__(self, *, dim: int, shift: int, small: bool, **arguments: Any) -> None:
        super().__init__(dim=dim, small=small, without_last=True, **arguments)
        self.shift = shift
        self.b1 = nn.Sequential(peer_block(dim, small), LayerNorm(dim))
        self.b2 = nn.Sequential(peer_block(dim, small), LayerNorm(dim))

    def forward(self, images_BCHW: Tensor, cameras_B: Tensor | None = None) -> Tensor:
        tokens = super().forward(images_BCHW, cameras_B)
        first, patches = tokens[:, :1], tokens[:, 1:]
        length = patches.shape[1] // PARTS  # what is left over belongs to no part
        shuffled = shuffle(patches, self.shift)
        parts = [shuffled[:, part * length : (part + 1) * length] for part in range(PARTS)]
        local = [self.b2(torch.cat((first, part), dim=1))[:, 0] / PARTS for part in parts]
        return torch.cat((self.b1(tokens)[:, 0], *local), dim=1)


def shuffle(patches_BPD: Tensor, shift: int) -> Tensor:
    """Rolls the patches, and takes them in turn from the first and from the second half.

    An odd number is made even by the last but one patch, once more, as TransReID does.
    """
    rolled = patches_BPD.roll(1 - shift, dims=1)
    if rolled.shape[1] % GROUPS:
        rolled = torch.cat((rolled, rolled[:, -2:-1]), dim=1)
    halves = rolled.reshape(rolled.shape[0], GROUPS, -1, rolled.shape[2])
    return halves.transpose(1, 2).flatten(1, 2)


def recognise(state: StateDict) -> str | None:
    """`transreid` if these are weights of it."""
    return "transreid" if {"base.cls_token", "base.pos_embed"} <= set(state) else None


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture that the weights, and a `config.yaml` beside them, tell."""
    tokens, dim = tokens_and_dim(state, "base.pos_embed")
    height, width, stride = size_and_stride(tokens, options)
    parts, sie = "b1.0.norm1.weight" in state, rows_of(state, "base.sie_embed")
    cameras = known_cameras(sie, height == width, options)
    wanted: dict[str, Any] = {"TEST.NECK_FEAT": "before"}
    if parts:
        refuse_others(options, JIGSAW)
        wanted["MODEL.SHIFT_NUM"] = SHIFT_OF_VEHICLES if height == width else SHIFT
    if sie:
        wanted["MODEL.SIE_COE"] = 3.0
    said, notes = settings(options, wanted)
    after = is_after(options, said)
    small = is_small(state, "base.blocks.")
    convolved = {"convolved": True} if "base.patch_embed.conv.0.weight" in state else {}
    arguments = {**convolved, "dim": dim, "tokens": tokens, "stride": stride, "small": small}
    last_block = (SMALL_BLOCKS if small else BLOCKS) - 1
    chosen = {"cameras": sie, "coefficient": said.get("MODEL.SIE_COE", 0.0)} if sie else {}
    shift = {"shift": said["MODEL.SHIFT_NUM"]} if parts else {}
    network = partial(Jigsaw, **shift) if parts else ClassToken
    build: Callable[[], nn.Module] = partial(network, **arguments, **chosen)
    necks = [Neck("bottleneck", dim)]
    if parts:
        necks += [Neck(f"bottleneck_{part}", dim, 1 / PARTS) for part in range(1, PARTS + 1)]
    return Architecture(
        name="transreid",
        peer="TransReID",
        build=partial(Necked, build, necks) if after else build,
        dim=dim * (1 + PARTS) if parts else dim,
        feature=("class token of the whole, and of 4 parts a quarter" if parts else "class token")
        + (", batch norm" if after else ""),
        preprocess=Preprocess(
            height=height,
            width=width,
            interpolation="bilinear",
            mean=colour_of(options, "INPUT.PIXEL_MEAN", HALF),
            std=colour_of(options, "INPUT.PIXEL_STD", HALF),
        ),
        flip=False,
        options={"stride": stride}
        | convolved
        | ({"small": True} if small else {})
        | chosen
        | shift,
        not_for_features=("classifier", "base.fc.", *(() if after else ("bottleneck",)))
        + ((f"base.blocks.{last_block}.", "base.norm.") if parts else ()),
        rename=partial(renamed, necks, _rename) if after else _rename,
        classes=rows_of(state, "classifier.weight"),
        **cameras,
        fixed_size=True,
        obeys=("feature", "viewpoints") if cameras.get("cameras") else ("feature",),
        notes=notes,
    )


def _rename(key: str) -> str:
    return key.removeprefix("base.")


def is_after(options: Mapping[str, Any], said: Mapping[str, Any]) -> bool:
    """Whether the feature is taken after the batch norms: by --feature, else by NECK_FEAT.

    OptionError for a feature that such a network has not.
    """
    neck = said["TEST.NECK_FEAT"]
    if neck not in ("before", "after"):
        raise CheckpointError(f"config.yaml: TEST.NECK_FEAT is {neck!r}, not before or after")
    chosen = choices_in(options).feature or f"{neck}-neck"
    return chosen == "after-neck"

"""SOLIDER (Chen et al., CVPR 2023, arXiv:2303.17602): a Swin whose stages are modulated by how much
of the feature shall be semantic. The parameters carry its names, which are mmdetection's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.errors import CheckpointError
from distreid.images.preprocess import Preprocess
from distreid.models.architecture import Architecture, StateDict, rows_of
from distreid.models.choices import choices_in
from distreid.models.peer_config import HALF, colour_of, settings, size_of
from distreid.models.vit import count_of
from distreid.models.weights import HYPER

WINDOW = 7
HEAD_DIM = 32
STAGES = 4
MARK = "semantic_embed_w.0.weight"
# The project under its own name, and its Lightning frames.
PREFIXES = ("base.", "model.base.", "")
PUBLISHED = 0.2
NOT_USED = ("norm0.", "norm1.", "norm2.", "semantic_embed_w.3.", "semantic_embed_b.3.")


class WindowAttention(nn.Module):
    """Attention among the 7×7 tokens of a window: (windows, 49, dim) → the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = dim // HEAD_DIM
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        rows = (2 * WINDOW - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, self.heads))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        windows, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(windows, tokens, 3, self.heads, HEAD_DIM)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scores = query * HEAD_DIM**-0.5 @ key.transpose(-2, -1) + self._bias(x.device)
        if mask is not None:
            of_image = scores.reshape(-1, len(mask), self.heads, tokens, tokens)
            scores = (of_image + mask[None, :, None]).reshape(scores.shape)
        out = scores.softmax(-1) @ value
        return self.proj(out.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]

    def _bias(self, device: torch.device) -> Tensor:
        """(heads, 49, 49), by how far two tokens are apart."""
        side = torch.arange(WINDOW, device=device)
        line = ((2 * WINDOW - 1) * side[:, None] + side).flatten()
        index = (line[:, None] + line.flip(0)).flatten()
        size = WINDOW * WINDOW, WINDOW * WINDOW, self.heads
        return self.relative_position_bias_table[index].view(size).permute(2, 0, 1)


class Block(nn.Module):
    """Attention in windows, every other time in windows that are shifted by half; and an MLP."""

    def __init__(self, dim: int, shifted: bool) -> None:
        super().__init__()
        self.shift = WINDOW // 2 if shifted else 0
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.ModuleDict({"w_msa": WindowAttention(dim)})
        inner = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU())
        layers = nn.Sequential(inner, nn.Linear(4 * dim, dim))
        self.ffn = nn.ModuleDict({"layers": layers})

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x = x_BHWC + self._attended(self.norm1(x_BHWC))
        return x + self.ffn["layers"](self.norm2(x))  # type: ignore[no-any-return]

    def _attended(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        tall, wide = x.shape[1:3]
        mask = None
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            mask = self._mask(tall, wide, x.device)
        rows, columns = tall // WINDOW, wide // WINDOW
        windows = x.reshape(batch, rows, WINDOW, columns, WINDOW, dim).transpose(2, 3)
        windows = windows.reshape(-1, WINDOW * WINDOW, dim)
        windows = self.attn["w_msa"](windows, mask)
        x = windows.reshape(batch, rows, columns, WINDOW, WINDOW, dim).transpose(2, 3)
        x = x.reshape(batch, tall, wide, dim)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :height, :width]

    def _mask(self, tall: int, wide: int, device: torch.device) -> Tensor:
        """(windows, 49, 49): -100 between tokens that only the shift has brought together."""
        rows, columns = (self._regions(side, device) for side in (tall, wide))
        region = 3 * rows[:, None] + columns
        region = region.reshape(tall // WINDOW, WINDOW, wide // WINDOW, WINDOW).transpose(1, 2)
        region = region.reshape(-1, WINDOW * WINDOW)
        return (region[:, None] != region[:, :, None]).float() * -100.0

    def _regions(self, side: int, device: torch.device) -> Tensor:
        place = torch.arange(side, device=device)
        return (place >= side - WINDOW).long() + (place >= side - self.shift).long()


class Merging(nn.Module):
    """2×2 tokens to one of twice the width, channel by channel as torch's unfold has them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        x = F.pad(x_BHWC, (0, 0, 0, x_BHWC.shape[2] % 2, 0, x_BHWC.shape[1] % 2))
        batch, height, width, dim = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, dim).permute(0, 1, 3, 5, 2, 4)
        return self.reduction(self.norm(x.flatten(3)))  # type: ignore[no-any-return]


class Solider(nn.Module):
    """(B, 3, H, W) normalised images → (B, 8 · dim), the mean of the normed last tokens; with
    `neck`, after a batch norm."""

    def __init__(self, dim: int, depths: tuple[int, ...], weight: float, neck: bool) -> None:
        super().__init__()
        self.weight = weight
        self.patch_embed = nn.ModuleDict(
            {"projection": nn.Conv2d(3, dim, 4, 4), "norm": nn.LayerNorm(dim)}
        )
        self.stages = nn.ModuleList()
        for number, depth in enumerate(depths):
            width = dim << number
            blocks = nn.ModuleList(Block(width, bool(place % 2)) for place in range(depth))
            stage = nn.ModuleDict({"blocks": blocks})
            if number < STAGES - 1:
                stage["downsample"] = Merging(width)
            self.stages.append(stage)
        self.norm3 = nn.LayerNorm(dim << 3)
        widths = [dim << number for number in range(1, STAGES)]
        self.semantic_embed_w = nn.ModuleList(nn.Linear(2, width) for width in widths)
        self.semantic_embed_b = nn.ModuleList(nn.Linear(2, width) for width in widths)
        self.bottleneck = nn.BatchNorm1d(dim << 3) if neck else nn.Identity()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        down, right = (-side % 4 for side in images_BCHW.shape[2:])
        x = self.patch_embed["projection"](F.pad(images_BCHW, (0, right, 0, down)))
        x = self.patch_embed["norm"](x.permute(0, 2, 3, 1))
        semantic = x.new_tensor([self.weight, 1 - self.weight])
        for number, stage in enumerate(self.stages):
            for block in stage["blocks"]:  # type: ignore[index]
                x = block(x)
            if number < STAGES - 1:
                x = stage["downsample"](x)  # type: ignore[index]
                scale = F.softplus(self.semantic_embed_w[number](semantic))
                x = x * scale + self.semantic_embed_b[number](semantic)
        return self.bottleneck(self.norm3(x).mean((1, 2)))  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """`solider` if these are weights of it."""
    return "solider" if any(f"{prefix}{MARK}" in state for prefix in PREFIXES) else None


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture that the weights, and a `config.yaml` beside them, tell."""
    prefix = next((one for one in PREFIXES if f"{one}{MARK}" in state), PREFIXES[0])
    outer = prefix.removesuffix("base.")
    depths = tuple(count_of(state, f"{prefix}stages.{stage}.blocks.") for stage in range(STAGES))
    patches = state.get(f"{prefix}patch_embed.projection.weight")
    if patches is None or 0 in depths:
        raise CheckpointError("no patch_embed.projection and four stages, as SOLIDER has")
    dim = patches.shape[0]
    choices = choices_in(options)
    trained = options.get(HYPER, {})
    wanted: dict[str, Any] = {
        "TEST.NECK_FEAT": "before",
        "INPUT.SIZE_TEST": (384, 128),
    }
    own = trained.get("semantic_weight") if choices.semantic_weight is None else None
    known = choices.semantic_weight if own is None else float(own)
    if known is None:
        wanted["MODEL.SEMANTIC_WEIGHT"] = PUBLISHED
    said, notes = settings(options, wanted)
    chosen: Any = said.get("MODEL.SEMANTIC_WEIGHT", known)
    weight = float(chosen)
    neck = (choices.feature or f"{said['TEST.NECK_FEAT']}-neck") == "after-neck"
    if known is None and any("SEMANTIC_WEIGHT" in note for note in notes):
        notes = (
            *notes,
            f"the semantic weight {weight} is that of SOLIDER's published commands, "
            "and 1.0 is its code's (--semantic-weight says it)",
        )
    height, width = size_of(said["INPUT.SIZE_TEST"])
    not_used = [prefix + name for name in NOT_USED]
    necks = (f"{outer}bottleneck.",)
    return Architecture(
        name="solider",
        peer="SOLIDER",
        build=partial(Solider, dim, depths, weight, neck),
        dim=8 * dim,
        feature="mean of the normed last tokens" + (", batch norm" if neck else ""),
        preprocess=Preprocess(
            height=height,
            width=width,
            interpolation="bilinear",
            mean=colour_of(options, "INPUT.PIXEL_MEAN", HALF),
            std=colour_of(options, "INPUT.PIXEL_STD", HALF),
        ),
        flip=False,
        options={"dim": dim, "depths": list(depths), "semantic_weight": weight},
        not_for_features=(f"{outer}classifier", *not_used, *(() if neck else necks)),
        rename=lambda key: key.removeprefix(prefix).removeprefix(outer),
        classes=rows_of(state, f"{outer}classifier.weight"),
        obeys=("feature", "semantic_weight"),
        notes=notes,
    )

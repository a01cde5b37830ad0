"""open-metric-learning's extractors, as its Lightning checkpoints have them: a trunk under
`model.model.`, or under `model.extractor.model.` with a projection.

The trunks are torchvision's ResNets, DINO's and DINOv2's ViTs. What its configuration says beside
the file (`.hydra/config.yaml`) and the file does not: GeM's exponent, and the transform.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.errors import CheckpointError, OptionError
from distreid.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from distreid.models import known_body, pooled_body
from distreid.models.architecture import Architecture, StateDict
from distreid.models.choices import choices_in
from distreid.models.network_index import find
from distreid.models.vit import HEAD_DIM, LayerNorm, count_of, vit_block

PREFIXES = ("model.model.", "model.extractor.model.")
PROJECTION = re.compile(r"model\.projection\.(\d+)\.weight")
TRAINING = ("criterion.", "speaker_loss.", "model.criterion.")
SIZE = 224
VIT = (
    "cls_token", "pos_embed", "register_tokens", "mask_token", "patch_embed", "blocks", "norm",
)  # fmt: skip
RESNET = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")
# DINO's and DINOv2's code adds this to the wanted side when it resizes its positions; DINOv2 with
# registers does not, and averages where it shrinks them.
OFFSET = 0.1
TRANSFORMS = (
    "the transform is not in the file: {how}, as OML's registry has it for this network; "
    "--keep-aspect, --interpolation and --input-size say otherwise, and of a network of one's own "
    "--model torchvision:NAME or timm:NAME"
)


class DinoViT(nn.Module):
    """(B, 3, H, W) normalised images → (B, dim): the class token after the last layer norm.

    DINO's (patches of 16) and DINOv2's (of 14, with layer scale, and registers or none). Positions
    are resized to other sizes as their own code does.
    """

    def __init__(
        self, *, dim: int, depth: int, patch: int, tokens: int, registers: int, scaled: bool
    ) -> None:
        super().__init__()
        self.patch = patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, dim))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, dim))
        self.registers = registers
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, patch)})
        scale: dict[str, Any] = {"init_values": 1.0} if scaled else {}
        blocks = (vit_block(dim, norm_layer=LayerNorm, **scale) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = LayerNorm(dim)
        self.resized: dict[tuple[int, int], Tensor] = {}
        """Positions by rows and columns of patches, computed once: so they are a constant to
        exporters, which have no such resize."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images_BCHW)
        size = int(patches.shape[2]), int(patches.shape[3])
        if size not in self.resized:
            self.resized[size] = self._positions(*size)
        positions = self.resized[size].to(self.pos_embed)
        patches = patches.flatten(2).transpose(1, 2)
        first = self.cls_token.expand(patches.shape[0], -1, -1)
        tokens = torch.cat((first, patches), dim=1) + positions
        if self.registers:
            registers = self.register_tokens.expand(patches.shape[0], -1, -1)
            tokens = torch.cat((tokens[:, :1], registers, tokens[:, 1:]), dim=1)
        return self.norm(self.blocks(tokens)[:, 0])  # type: ignore[no-any-return]

    def _positions(self, rows: int, columns: int) -> Tensor:
        first, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        side = math.isqrt(grid.shape[1])
        if (rows, columns) == (side, side):
            return self.pos_embed
        table = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if self.registers:
            resized = F.interpolate(table, (rows, columns), mode="bicubic", antialias=True)
        else:
            factors = (rows + OFFSET) / side, (columns + OFFSET) / side
            resized = F.interpolate(table, scale_factor=factors, mode="bicubic")
        return torch.cat((first, resized.flatten(2).transpose(1, 2)), dim=1)


class Extractor(nn.Module):
    """A trunk with what OML puts on it: linear layers, and GeM as the pooling."""

    def __init__(self, trunk: nn.Module, layers: tuple[tuple[str, int, int], ...]) -> None:
        super().__init__()
        self.model = trunk
        self.projection = nn.ModuleDict({name: nn.Linear(a, b) for name, a, b in layers})

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.model(images_BCHW)
        for place, layer in enumerate(self.projection.values()):
            x = layer(x.relu() if place else x)
        return x  # type: ignore[no-any-return]


def recognise(state: StateDict) -> str | None:
    """`oml` if these are weights of it: nothing else has these prefixes and no neck."""
    prefix = _prefix(state)
    if not prefix:
        return None
    names = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
    others = [key for key in state if not key.startswith((prefix, *TRAINING))]
    parts = VIT if "blocks.0.attn.qkv.weight" in names else RESNET
    known = all(name.partition(".")[0] in parts for name in names)
    known = known and ("blocks.0.attn.qkv.weight" in names or "layer4.0.conv1.weight" in names)
    known = known and "fc.weight" not in names  # which may be anybody's classes
    return "oml" if known and all(key.startswith("model.projection.") for key in others) else None


def _prefix(state: StateDict) -> str:
    return next((one for one in PREFIXES if any(key.startswith(one) for key in state)), "")


def read(state: StateDict, options: Mapping[str, Any]) -> Architecture:
    """The architecture that the weights, and OML's configuration beside them, tell."""
    prefix = _prefix(state) or PREFIXES[0]
    own = {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }
    is_vit = "blocks.0.attn.qkv.weight" in own
    projected = any(PROJECTION.fullmatch(key) for key in state)
    layers = _layers(state, "model.projection.", own, is_vit)
    choices = choices_in(options)
    trunk_alone = choices.feature == "trunk"
    if choices.feature not in (None, "trunk"):
        raise OptionError(f"--feature {choices.feature}: OML's extractors have no batch norm neck")
    said: tuple[str, ...] = ()
    if layers:
        outputs = " and ".join(str(after) for _, _, after in layers)
        said = (
            f"linear layers of {outputs} channels are a part of the feature, as in OML's "
            "extractors; --feature trunk leaves them out",
        )
    dropped = ("model.projection.", f"{_prefix(state) or PREFIXES[0]}fc.") if trunk_alone else ()
    layers = () if trunk_alone else layers
    found = (_vit if is_vit else _resnet)(own, options)
    build, dim, described, feature = found
    dims = [dim, *(after for _, _, after in layers)]
    preprocess, how = _transform(own, is_vit, projected)
    if choices.pooling and is_vit:
        raise OptionError("--pooling: OML's ViTs give their class token")
    renames = {"model.projection.": "projection.", prefix: "model."}
    if not is_vit:
        renames = {
            f"{prefix}fc.": "projection.",
            "model.projection.": "projection.",
            prefix: "model.network.",
        }
        if "fc.weight" in own:
            renames[f"{prefix}fc."] = "projection.0."
    return Architecture(
        name="oml",
        peer="open-metric-learning",
        build=lambda: Extractor(build(), layers),
        dim=dims[-1],
        feature=", ".join((feature, *("linear" for _ in layers))),
        preprocess=preprocess,
        flip=False,
        options=described,
        not_for_features=(*TRAINING, f"{prefix}mask_token", *dropped),
        rename=partial(_rename, renames),
        obeys=("feature",) if is_vit else ("feature", "pooling"),
        notes=(*said, TRANSFORMS.format(how=how)),
    )


def _rename(renames: Mapping[str, str], key: str) -> str:
    for theirs, ours in renames.items():
        if key.startswith(theirs):
            return ours + key.removeprefix(theirs)
    return key


def _layers(
    state: StateDict, projection: str, own: StateDict, is_vit: bool
) -> tuple[tuple[str, int, int], ...]:
    """Numbers, inputs and outputs of the linear layers behind the trunk."""
    found = {
        key.split(".")[-2]: value.shape
        for key, value in state.items()
        if key.startswith(projection) and key.endswith(".weight")
    }
    if not is_vit:
        found = {
            **{
                key.split(".")[1] if key.count(".") == 2 else "0": value.shape
                for key, value in own.items()
                if key.startswith("fc.") and key.endswith("weight")
            },
            **found,
        }
    if any(len(shape) != 2 for shape in found.values()):
        raise CheckpointError("a projection with other than linear layers")
    return tuple((name, shape[1], shape[0]) for name, shape in found.items())


def _vit(own: StateDict, options: Mapping[str, Any]) -> tuple[Any, int, dict[str, Any], str]:
    positions, patches = own.get("pos_embed"), own.get("patch_embed.proj.weight")
    if positions is None or patches is None or positions.ndim != 3 or positions.shape[2] % HEAD_DIM:
        raise CheckpointError("no pos_embed and patch_embed.proj, as OML's ViTs have")
    registers = own.get("register_tokens")
    described: dict[str, Any] = {
        "dim": positions.shape[2],
        "depth": count_of(own, "blocks."),
        "patch": patches.shape[-1],
        "tokens": positions.shape[1],
        "registers": 0 if registers is None else registers.shape[1],
        "scaled": "blocks.0.ls1.gamma" in own,
    }
    return partial(DinoViT, **described), described["dim"], described, "class token"


def _resnet(own: StateDict, options: Mapping[str, Any]) -> tuple[Any, int, dict[str, Any], str]:
    body = next((one.networks[0] for one in find(own) if one.prefix == ""), None)
    if body is None or not known_body.has_last_stride(body.name):
        raise CheckpointError("no known ResNet, as OML's extractors have")
    pooling = choices_in(options).pooling
    extractor = options.get("extractor")
    arguments = extractor.get("args") if isinstance(extractor, Mapping) else None
    if pooling is None and isinstance(arguments, Mapping) and arguments.get("gem_p"):
        pooling = f"gem={arguments['gem_p']}"

    def build() -> nn.Module:
        return pooled_body.Body(known_body.build(body.name, None, None), pooling)

    described = {"body": body.name, **({"pooling": pooling} if pooling else {})}
    return build, body.dim, described, f"last map pooled by {pooling or 'its mean'}"


def _transform(own: StateDict, is_vit: bool, projected: bool) -> tuple[Preprocess, str]:
    """What OML's registry has for the published checkpoints of this structure."""
    second = is_vit and "blocks.0.ls1.gamma" in own
    keep, word = "no", "bilinear"
    if not is_vit or projected:
        keep, word = "crop=256", "bicubic"
    elif second:
        keep, word = "crop=224", "bicubic"
    how = (
        f"the whole image stretched to 224×224, {word}"
        if keep == "no"
        else (f"the shorter side to {keep.partition('=')[2]}, {word}, of which the middle 224×224")
    )
    preprocess = Preprocess(
        height=SIZE,
        width=SIZE,
        interpolation=word,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        keep_aspect=keep,
    )
    return preprocess, how

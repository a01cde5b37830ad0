"""Weights of timm's networks as hubs keep them: config.json beside them says which network it is,
and how an image becomes its input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distreid.errors import CheckpointError
from distreid.images.fit import BORDER, COVER, CROP, NO, STRETCH
from distreid.images.preprocess import Preprocess
from distreid.models.architecture import Architecture, Size, StateDict
from distreid.models.choices import MOST_SHORTER
from distreid.models.generic import read as read_generic

WORDS = {"bicubic", "bilinear", "nearest", "lanczos"}


def is_hub(options: Mapping[str, Any]) -> bool:
    """Whether the options are those of timm's config.json."""
    return isinstance(options.get("architecture"), str) and isinstance(
        options.get("pretrained_cfg"), Mapping
    )


def read(state: StateDict, options: Mapping[str, Any], size: Size | None) -> Architecture:
    """The network of config.json, with its own data configuration; CheckpointError if that has
    something of another kind."""
    name = f"timm:{options['architecture']}"
    plain = {key: value for key, value in state.items()}
    architecture = read_generic(name, plain, size)
    own: Mapping[str, Any] = options["pretrained_cfg"]
    preprocess = _preprocess(own, architecture.preprocess, size)
    how = "stretched" if preprocess.keep_aspect == NO else preprocess.keep_aspect
    return replace(
        architecture,
        preprocess=preprocess,
        notes=(
            f"config.json says {name}, and its data configuration ({how}); who trains on persons "
            "often stretches the whole image instead: --keep-aspect no",
        ),
    )


def _preprocess(own: Mapping[str, Any], usual: Preprocess, size: Size | None) -> Preprocess:
    try:
        _, height, width = own.get("test_input_size") or own["input_size"]
        height, width = size or (int(height), int(width))
        part = float(own.get("test_crop_pct") or own.get("crop_pct") or 0.875)
        mode = own.get("crop_mode") or "center"
        word = own.get("interpolation") or usual.interpolation
        red, green, blue = (float(value) for value in own.get("mean", usual.mean))
        other = tuple(float(value) for value in own.get("std", usual.std))
        scaled = math.floor(height / part), math.floor(width / part)
        border = bytes(round(255 * value) for value in (red, green, blue) if mode == "border")
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"config.json: pretrained_cfg is damaged ({error})") from error
    if word not in WORDS or mode not in ("center", "squash", "border") or len(other) != 3:
        raise CheckpointError(f"config.json: {word}, {mode}: not known; give --model timm:NAME")
    if not 1 <= min(scaled) <= max(scaled) <= MOST_SHORTER:
        raise CheckpointError(
            f"config.json: crop_pct {part:g} resizes to {scaled[0]}×{scaled[1]} pixels; "
            "--model timm:NAME takes the network without the data configuration"
        )
    return replace(
        usual,
        height=height,
        width=width,
        interpolation=word,
        mean=(red, green, blue),
        std=other,
        keep_aspect=_way(mode, scaled, (height, width), border),
    )


def _way(mode: str, scaled: Size, size: Size, border: bytes) -> str:
    """What `images.fit` calls timm's mode."""
    rows, columns = scaled
    if mode == "border":
        return f"{BORDER}={rows}x{columns} on {','.join(map(str, border))}"
    if mode == "squash":
        return NO if scaled == size else f"{STRETCH}={rows}x{columns}"
    return f"{CROP}={rows}" if rows == columns else f"{COVER}={rows}x{columns}"

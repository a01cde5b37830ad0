"""OpenAI's and open_clip's names of CLIP's image encoder in timm's words, under any prefix.

timm has the network; the tensors are the same but for three that have other dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from distreid.models.architecture import StateDict

MARK = "transformer.resblocks.0.attn.in_proj_weight"
FIRST = "class_embedding"
WHOLE: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    FIRST: ("cls_token", lambda x: x.reshape(1, 1, -1)),
    "positional_embedding": ("pos_embed", lambda x: x[None]),
    "proj": ("proj.weight", lambda x: x.T.contiguous()),
}
"""A tensor's name, timm's, and how its dimensions become timm's."""
PARTS = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
OF_TEXT = re.compile(
    r"(transformer\.|token_embedding\.|positional_embedding$|ln_final\.|text_projection|logit_)"
)
OPENAI = "--clip"
"""The key of a checkpoint's options that says that the names were OpenAI's."""
CLIP_REID = "image_encoder."
"""CLIP-ReID's prefix, which has a reader of its own."""


def in_timms_names(state: StateDict) -> tuple[dict[str, Tensor], str]:
    """The state, and a sentence if an encoder of CLIP was in it; else the state as it is and "".

    The text encoder beside it, which no image passes through, is left out.
    """
    prefixes = [
        key.removesuffix(MARK)
        for key in state
        if key.endswith(MARK) and f"{key.removesuffix(MARK)}{FIRST}" in state
    ]
    if len(prefixes) != 1 or prefixes[0].endswith(CLIP_REID):
        return dict(state), ""
    (prefix,) = prefixes
    above = prefix.removesuffix("visual.")
    translated = {}
    for key, value in state.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix):
            if above == prefix or not OF_TEXT.match(key.removeprefix(above)):
                translated[key] = value
        elif name in WHOLE:
            name, change = WHOLE[name]
            translated[prefix + name] = change(value)
        else:
            for theirs, timms in PARTS:
                name = re.sub(theirs, timms, name)
            translated[prefix + name] = value
    without = "" if len(translated) == len(state) else ", without the text encoder"
    return translated, f"CLIP's image encoder by OpenAI's names, taken for timm's{without}"

"""What `first_difference` names: nothing of right exports, of wrong ones the layer that is wrong.

    python tests/stress/first_differences.py [--format onnx] [--only NAME …]

Of each pack of the golden networks, in ONNX: the export as it is, then with the weights of one
convolution or linear layer in the middle in another order. The last column is what is named.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from conftest import GOLDEN, GOLDEN_SAID, Pack

from distreid.export.first_difference import OF_FILE, first_difference
from distreid.export.formats import FILES, write
from distreid.export.whole_network import WholeNetwork
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import load_model
from distreid.models.choices import Choices

FAMILIES = (
    "torchreid/osnet_ain_x0_25",
    "torchreid/mobilenetv2_x1_0",
    "torchreid/hacnn",
    "torchreid/resnet50",
    "torchreid/densenet121",
    "torchreid/se_resnet50",
    "fastreid/repvgg_A0",
    "deep_sort_pytorch/ckpt_test",
    "boxmot/lmbn_n",
    "open_metric_learning/vits16",
    "transreid/deit_small",
    "solider_reid/swin_tiny",
)
IMAGES = 3


def main() -> None:
    """Prints the table; status 1 if a right layer is named, or a wrong one is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", default="onnx", choices=[*FILES])
    parser.add_argument("--only", nargs="+", default=FAMILIES)
    given = parser.parse_args()
    wrong = 0
    for name in given.only:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Pack(GOLDEN / name).save(Path(folder, "in"))
            model = load_model(str(checkpoint), choices=GOLDEN_SAID.get(name, Choices()))
            whole = WholeNetwork(
                model, Augmentation(flip=model.architecture.flip), precision="fp32", raw=False
            ).eval()
            whole.requires_grad_(False)
            for change in (False, True):
                started = time.monotonic()
                layer, found = named(whole, given.format, Path(folder), change=change)
                right = names_it(found, layer, whole)
                wrong += not right
                print(
                    f"{'' if right else 'WRONG '}{name:40} {time.monotonic() - started:6.1f} s  "
                    f"changed {layer}: {found}",
                    flush=True,
                )
    sys.exit(1 if wrong else 0)


def named(
    whole: WholeNetwork, format_name: str, folder: Path, *, change: bool
) -> tuple[str | None, str | None]:
    """The layer that was changed, if one was, and what is said of the export."""
    preprocess = whole.architecture.preprocess
    size = 3, preprocess.height, preprocess.width
    images = torch.randint(0, 256, (IMAGES, *size), generator=torch.manual_seed(0)).byte()
    inputs = [images]
    if whole.architecture.cameras is not None:
        inputs.append(torch.arange(IMAGES) % whole.architecture.cameras)
    layer, kept = None, None
    if change:
        layer, module = changeable(whole, inputs)
        kept = module.weight.clone()
        module.weight.copy_(kept.flip(0))
    few = tuple(each[:2] for each in inputs)
    write(format_name, whole, few, "images", f'{{"dim": {whole.architecture.dim}}}', folder)
    if kept is not None:
        module.weight.copy_(kept)
    file = folder / FILES[format_name][0]
    assert file.suffix in OF_FILE
    return layer, first_difference(whole, file, inputs, 1, exact=True)


def changeable(whole: WholeNetwork, inputs: list[torch.Tensor]) -> tuple[str, Any]:
    """The convolution or linear layer in the middle of those that compute, and its name."""
    computed: list[tuple[str, nn.Module]] = []
    handles = [
        module.register_forward_hook(
            lambda module, _g, _o, name=name: computed.append((name, module))
        )
        for name, module in whole.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and len(module.weight) > 1
    ]
    with torch.inference_mode():
        whole(*inputs)
    for handle in handles:
        handle.remove()
    return computed[len(computed) // 2]


def names_it(said: str | None, layer: str | None, whole: WholeNetwork) -> bool:
    """Whether what is said names the layer, or both are none.

    A module has several names where others share it. Not every module stands in a scope's name, and
    a scope that is entered again has a number added.
    """
    if said is None or layer is None:
        return said is layer
    scope = said.removeprefix("the first layer that differs is ").split(",")[0]
    parts = {re.sub(r"_\d+$", "", part) for part in re.split(r"[./]", scope)}
    module = whole.get_submodule(layer)
    return any(
        each is module and parts <= {re.sub(r"_\d+$", "", part) for part in name.split(".")}
        for name, each in whole.named_modules(remove_duplicate=False)
    )


if __name__ == "__main__":
    main()

"""The options of `distreid export`, and which precisions each format has. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distreid.errors import OptionError

TENSORRT = "tensorrt"
RESIZING = ("onnx", "torchscript", "export")
"""Formats whose runtimes compute integers as such."""
FORMATS = {
    "onnx": ("fp32", "fp16"),
    "openvino": ("fp32", "fp16", "int8"),
    "torchscript": ("fp32", "bf16", "fp16"),
    "export": ("fp32", "bf16", "fp16"),
    "triton": ("fp32", "fp16"),
    TENSORRT: ("fp32", "fp16", "bf16"),
}
"""A format to the precisions that it has; `export` is torch.export's."""
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is to be written; OptionError if it cannot be meant."""

    checkpoint: str
    format: str
    out: Path
    data: str = "sample"
    """The images of the gate."""
    precision: str = "fp32"
    with_resize: tuple[int, int] | None = None
    """The height and width of the images that the network takes and resizes itself."""
    raw: bool = False
    """Whether the input is normalised images."""
    flip: bool | None = None
    """None: as the model's own code does."""
    overwrite: bool = False
    max_map_loss: float = 0.2
    """Points of mAP that a precision below fp32 may cost."""

    @property
    def stored_precision(self) -> str:
        """Of the file that is written: of TensorRT's engines, which are built from it later, it is
        always fp32."""
        return "fp32" if self.format == TENSORRT else self.precision

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise OptionError(f"--format {self.format}: choose one of {', '.join(FORMATS)}")
        if self.precision not in (has := FORMATS[self.format]):
            raise OptionError(
                f"--precision {self.precision}: the format {self.format} has {', '.join(has)}"
            )
        if self.raw and self.format == "triton":
            raise OptionError("--raw: Triton's models take images; take it away")
        if self.with_resize and min(self.with_resize) < 1:
            height, width = self.with_resize
            raise OptionError(f"--with-resize {height}x{width}: pixels, at least 1")
        if self.with_resize and self.raw:
            raise OptionError("--with-resize: of images, and --raw takes none; give one of the two")
        if self.with_resize and self.format not in RESIZING:
            raise OptionError(
                f"--with-resize: of images, in the formats {', '.join(RESIZING)}, whose runtimes "
                "can compute it bit for bit"
            )
        if not self.max_map_loss >= 0:
            raise OptionError(f"--max-map-loss {self.max_map_loss}: points of mAP, 0 or more")


def add_export_options(
    parser: argparse.ArgumentParser,
    size: Callable[[str], tuple[int, int]],
    path: Callable[[str], Path],
) -> None:
    """Adds what is exported, and how; `size` reads a height and width, `path` a path."""
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE|sample", help="the trained weights"
    )
    parser.add_argument(
        "--format", required=True, choices=FORMATS, help="what the network is written as"
    )
    parser.add_argument(
        "--out", required=True, type=path, metavar="DIR", help="a new folder for the network, "
        "distreid.json and the images of the gate"
    )  # fmt: skip
    parser.add_argument(
        "--precision", default="fp32", choices=PRECISIONS, help="; ".join(
            f"{name}: {', '.join(has)}" for name, has in FORMATS.items()
        ) + " (default: fp32)"
    )  # fmt: skip
    parser.add_argument(
        "--raw", action="store_true", help="the input is normalised float images instead of uint8"
    )
    parser.add_argument(
        "--with-resize", type=size, metavar="HxW", help="the input is images of this size, "
        "which the network resizes bit for bit as extraction does"
    )  # fmt: skip
    parser.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="whether the mirror image is in the "
        "network (default: as the model's own code does)"
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an export in --out")
    parser.add_argument(
        "--data", default="sample", metavar="DATA", help="images that the export is tried on, and "
        "that int8 is calibrated on: best such as those to come, with labels (default: the "
        "built-in sample)"
    )  # fmt: skip
    parser.add_argument(
        "--max-map-loss", type=float, default=0.2, metavar="POINTS", help="the mAP that a "
        "precision below fp32 may lose on them (default: 0.2)"
    )  # fmt: skip
    parser.add_argument("--model", default="auto", metavar="NAME", help="see distreid models")

"""The options of the main job: one frozen dataclass, and its command line.

Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from distreid.errors import EXIT_USER, OptionError, printable

# Names of tables elsewhere, written out: those modules import torch. A test compares them.
LAYOUTS = (
    "auto", "market1501", "market1501_500k", "dukemtmcreid", "occluded_duke", "msmt17",
    "cuhk03_detected", "cuhk03_labeled", "cuhk03_np_detected", "cuhk03_np_labeled",
    "cuhk03_classic_detected", "cuhk03_classic_labeled",
    "viper", "mars", "veri776", "vehicleid_small", "vehicleid_medium", "vehicleid_large",
    "veriwild_small", "veriwild_medium", "veriwild_large", "layumi", "imagefolder", "folder",
    "csv", "pattern",
)  # fmt: skip
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
DTYPES = ("float32", "float16")
DEVICES = ("auto", "cuda", "cpu")
ON_BAD_IMAGE = ("fail", "record")
SCALE_MODES = ("independent", "compound")
CAMERA_EMBEDDINGS = ("auto", "mean", "none")
COMPILE = ("off", "auto", "max")


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """What the user asked for; OptionError if a value cannot be meant."""

    data: str
    checkpoints: tuple[str, ...]
    out: Path
    """The run's folder; of several checkpoints, the folder of their runs."""
    data_root: str | None = None
    """Where each host keeps the images; None: where `data` is."""
    layout: str = "auto"
    multi_query: bool = False
    split: int = 0
    pattern: str = ""
    strict_counts: bool = False
    model: str = "auto"
    input_size: tuple[int, int] | None = None
    """Height and width; None: as the model's own code has it."""
    flip: bool | None = None
    """None: as the model's own code does."""
    scales: tuple[float, ...] = (1.0,)
    scale_mode: str = "independent"
    camera_embedding: str = "auto"
    precision: str = "fp32"
    compile: str = "off"
    dtype: str = "float32"
    device: str = "auto"
    batch_size: int = 64
    num_workers: int | None = None
    """None: as many as keep the model at work, measured at the start."""
    cache: Path | None = None
    """A folder for decoded images; None: none are kept."""
    shard_rows: int | None = None
    """None: by the number of rows, see `plan.shard_rows_for`."""
    on_bad_image: str = "fail"
    max_bad: int | None = None
    """None: with `record`, any number of images may be bad."""
    evaluate: bool = True
    mat: bool = False

    def __post_init__(self) -> None:
        for name, choices in (
            ("layout", LAYOUTS),
            ("precision", PRECISIONS),
            ("compile", COMPILE),
            ("dtype", DTYPES),
            ("device", DEVICES),
            ("on_bad_image", ON_BAD_IMAGE),
            ("scale_mode", SCALE_MODES),
            ("camera_embedding", CAMERA_EMBEDDINGS),
        ):
            if (value := getattr(self, name)) not in choices:
                raise OptionError(f"{_flag(name)} {value}: choose one of {', '.join(choices)}")
        if self.max_bad is not None and self.on_bad_image != "record":
            raise OptionError("--max-bad: without --on-bad-image record, no image may be bad")
        for name, least in (
            ("batch_size", 1),
            ("num_workers", 0),
            ("shard_rows", 1),
            ("max_bad", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(f"{_flag(name)} must be at least {least}, got {value}")
        if self.input_size and min(self.input_size) < 1:
            raise OptionError("--input-size: height x width, such as 256x128")
        if not self.scales or not all(0 < s < math.inf for s in self.scales):
            given = ",".join(map(str, self.scales))
            raise OptionError(f"--scales {given}: positive numbers separated by commas")


class CommandParser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error is said."""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        self.exit(EXIT_USER, f"distreid: error: {printable(message)}; see {self.prog} --help\n")


def add_extract_options(parser: argparse.ArgumentParser) -> None:
    """Adds the main job's options to a parser."""
    what = add_what_options(parser)
    what.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="where the store, metrics.json and "
        "the rest go; with an unfinished run of the same kind in it, that run is continued. Of "
        "several checkpoints, each has a folder of its own in it, named after its file"
    )  # fmt: skip
    what.add_argument(
        "--data-root", metavar="DIR", help="read the images of --data below this folder instead, "
        "on every host for itself: $VARIABLES are those of the host, as in '$TMPDIR/market'"
    )  # fmt: skip
    add_how_options(parser)
    machine = add_machine_options(parser)
    machine.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep the decoded images there, 100 kB each at "
        "256x128, for later runs of any checkpoint that takes them in the same size; best on a "
        "local disk (default: none are kept)"
    )  # fmt: skip
    machine.add_argument(
        "--shard-rows", type=int, metavar="N", help="rows per file of the store, and what an "
        "interruption costs at most (default: 1/64 of the rows, from 64 to 8192)"
    )  # fmt: skip
    after = parser.add_argument_group("the result")
    after.add_argument(
        "--on-bad-image", default="fail", choices=ON_BAD_IMAGE, help="fail: stop and name it. "
        "record: keep the row with a status and NaN features, and leave it out of the scores "
        "(default: fail)"
    )  # fmt: skip
    after.add_argument(
        "--max-bad", type=int, metavar="N", help="with record: stop when more than N images of "
        "the whole run cannot be read (default: any number)"
    )  # fmt: skip
    after.add_argument("--no-evaluate", dest="evaluate", action="store_false", help="no scores")
    after.add_argument(
        "--mat", action="store_true", help="write pytorch_result.mat too, for evaluate_gpu.py"
    )


def add_what_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds which images and which weights."""
    what = parser.add_argument_group("what")
    what.add_argument(
        "--data", required=True, metavar="DIR|CSV|sample", help="a folder of images, a CSV with "
        "the columns path, person_id, camera_id, split, or the built-in sample"
    )  # fmt: skip
    what.add_argument(
        "--checkpoint", dest="checkpoints", required=True, nargs="+", action="extend",
        metavar="FILE|sample", help="the trained weights; an opts.yaml beside them is read too. "
        "Several, such as model/net_*.pth: every image is read once for all, and they are compared"
    )  # fmt: skip
    add_layout_options(what)
    return what


def add_how_options(parser: argparse.ArgumentParser) -> None:
    """Adds what the features depend on."""
    how = parser.add_argument_group("how the features are computed")
    how.add_argument(
        "--model", default="auto", metavar="NAME", help="the architecture (default: read it off "
        "the weights); also timm:NAME, torchvision:NAME, torchscript, export, or your own "
        "package.module:function, which is run"
    )  # fmt: skip
    how.add_argument(
        "--input-size", type=input_size, metavar="256x128", help="height and width that the model "
        "was trained with, which no weights tell (default: as the model's own code has it)"
    )  # fmt: skip
    how.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="add the mirror image's feature "
        "(default: as the model's own code does)"
    )  # fmt: skip
    how.add_argument(
        "--scales", type=_scales, default=(1.0,), metavar="1,1.1", help="add the features at "
        "these factors of the image's area. A model that takes one size only gets the scaled "
        "image cropped or padded back around its centre"
    )  # fmt: skip
    how.add_argument(
        "--scale-mode", default="independent", choices=SCALE_MODES, help="compound: each scale "
        "enlarges the previous result, as Person_reID_baseline_pytorch --ms does "
        "(default: independent)"
    )  # fmt: skip
    how.add_argument(
        "--camera-embedding", default="auto", choices=CAMERA_EMBEDDINGS, help="for a network that "
        "has an embedding of each camera it was trained with. auto: that of the image's camera, "
        "which must be one of them. mean: that of all cameras, for every image. none: no embedding "
        "(default: auto)"
    )  # fmt: skip
    how.add_argument(
        "--precision", default="fp32", choices=PRECISIONS, help="of the forward pass "
        "(default: fp32, which reproduces the model's own code)"
    )  # fmt: skip
    how.add_argument(
        "--compile", default="off", choices=COMPILE, help="of the network, by torch.compile. auto: "
        "where the number of images is worth the minute that it takes; a run is continued as it "
        "was begun. max: always, with the kernels that are fastest when tried, so that last bits "
        "may differ between two processes. Compiled features are another identity than eager "
        "ones; if torch cannot compile, the job says so and goes on without (default: off)"
    )  # fmt: skip
    how.add_argument("--dtype", default="float32", choices=DTYPES, help="of the stored features")


def add_machine_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds what the rate depends on."""
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--device", default="auto", choices=DEVICES)
    machine.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="images per process (default: 64)"
    )
    machine.add_argument(
        "--num-workers", type=_workers, metavar="N|auto", help="decoding processes for each "
        "process (default: auto, as many as keep the model at work, measured at the start)"
    )  # fmt: skip
    return machine


def add_layout_options(parser: argparse._ActionsContainer) -> None:
    """Adds what says how `--data` is read."""
    parser.add_argument(
        "--layout", default="auto", choices=LAYOUTS, metavar="NAME", help="how the images are "
        f"arranged: {', '.join(LAYOUTS)} (default: recognise it and say so)"
    )  # fmt: skip
    parser.add_argument(
        "--multi-query", action="store_true", help="extract the multi-query images too, and "
        "score with their means"
    )  # fmt: skip
    parser.add_argument(
        "--split", type=int, default=0, metavar="N", help="which of a data set's random splits, "
        "from 0 (VIPeR, VehicleID, classic CUHK03)"
    )  # fmt: skip
    parser.add_argument(
        "--pattern", default="", metavar="REGEX", help="how names tell person and camera, such "
        r"as '(?P<person>\d+)_c(?P<camera>\d+)'; also a group split, or folders query, gallery"
    )  # fmt: skip
    parser.add_argument(
        "--strict-counts", action="store_true", help="an error unless query and gallery have as "
        "many images as was published"
    )  # fmt: skip


def parse_extract_options(arguments: argparse.Namespace) -> ExtractOptions:
    """The parsed command line as options; what the command does not have stays as it is."""
    values: dict[str, Any] = {
        f.name: getattr(arguments, f.name)
        for f in fields(ExtractOptions)
        if hasattr(arguments, f.name)
    }
    values["checkpoints"] = tuple(values["checkpoints"])
    return ExtractOptions(**values)


def _scales(text: str) -> Sequence[float]:
    with _expected(text, "positive numbers separated by commas, such as 1,1.1"):
        return tuple(float(part) for part in text.split(","))


def input_size(text: str) -> tuple[int, int]:
    """`256x128` as height and width; ArgumentTypeError for anything else."""
    with _expected(text, "height and width, such as 256x128"):
        height, width = text.split("x")
        return int(height), int(width)


def _workers(text: str) -> int | None:
    with _expected(text, "a number, or auto"):
        return None if text == "auto" else int(text)


@contextlib.contextmanager
def _expected(text: str, what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {what}") from error


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")

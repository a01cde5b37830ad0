"""The options of the main job: one frozen dataclass, and its command line.

Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from distreid.data.box_request import BoxRequest
from distreid.data.locators import is_address, path_of
from distreid.data.name_pattern import name_pattern
from distreid.errors import EXIT_USER, OptionError, printable
from distreid.models.choices import ASPECTS, CHANNELS, FEATURES, INTERPOLATIONS, RANGES, Choices
from distreid.ranks.launcher import is_first_rank, let_first_rank_speak, say_last

# Names of tables elsewhere, written out: those modules import torch. A test compares them.
LAYOUTS = (
    "auto", "market1501", "market1501_500k", "dukemtmcreid", "occluded_duke", "msmt17",
    "cuhk03_detected", "cuhk03_labeled", "cuhk03_np_detected", "cuhk03_np_labeled",
    "cuhk03_classic_detected", "cuhk03_classic_labeled",
    "viper", "mars", "veri776", "vehicleid_small", "vehicleid_medium", "vehicleid_large",
    "veriwild_small", "veriwild_medium", "veriwild_large",
    "dukemtmc_videoreid", "ilids_vid", "ilids_vid_halves", "prid2011", "prid2011_halves", "ls_vid",
    "partial_reid", "occluded_reid", "p_dukemtmc", "partial_ilids", "celeb_reid", "ltcc",
    "prcc", "vc_clothes", "deepchange", "last", "sysu_mm01", "llcm", "regdb", "reid_imgs",
    "layumi", "split_folders", "webdataset", "image_column",
    "cuhk_sysu", "prw", "motchallenge", "frames", "imagefolder", "folder", "csv", "pattern",
)  # fmt: skip
PRECISIONS = ("auto", "fp32", "tf32-conv", "tf32", "bf16", "fp16", "int8")
DTYPES = ("float32", "float16")
DEVICES = ("auto", "cuda", "cpu")
IDS = ("auto", "text")
SPLITS = ("query", "gallery", "query+gallery", "multi-query", "train", "val", "none")
ON_BAD_IMAGE = ("fail", "record")
MOST_MAP_LOSS = 0.2
SCALE_MODES = ("independent", "compound")
CAMERA_EMBEDDINGS = ("auto", "mean", "none")
COMPILE = ("off", "auto", "max")
MERGE = ("no", "tracklet")
ENGINES = ("auto", "torch", "openvino", "onnxruntime", "tensorrt")

# Of the options that are neither a choice nor a path. The command line's are so by themselves.
KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(
        ("multi_query", "strict_counts", "flip", "evaluate", "mat", "share_gpu"),
        (bool, "True or False"),
    ),
    **dict.fromkeys(
        ("split", "batch_size", "num_workers", "shard_rows", "max_bad", "min_size", "viewpoints"),
        (int, "a whole number"),
    ),
    **dict.fromkeys(
        ("min_score", "box_margin", "box_aspect", "semantic_weight", "merge_top", "max_map_loss"),
        ((int, float), "a number"),
    ),
    **dict.fromkeys(
        ("data", "pattern", "model", "every", "weights", "pooling", "keep_aspect"),
        (str, "a text"),
    ),
}

FIRST_HEADING = "what one needs first"
# What one needs first; --help shows the rest under headings below.
NEEDED = (
    "--data", "--checkpoint", "--out", "--layout", "--model", "--flip", "--precision",
    "--batch-size", "--on-bad-image", "--no-evaluate",
)  # fmt: skip


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
    ids: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    """What a table's column is → its header."""
    split_names: Mapping[str, str] = field(default_factory=dict)
    """The data's word for a split → ours."""
    every: str = ""
    """Which frames of a video, see `data.video_frames`."""
    boxes: str | None = None
    """A file of boxes in the frames of `data`."""
    min_score: float | None = None
    min_size: int | None = None
    classes: tuple[str, ...] = ()
    box_origin: int = 0
    box_margin: float = 0.0
    box_aspect: float | None = None
    """From `boxes` on: see `data.box_request`."""
    strict_counts: bool = False
    model: str = "auto"
    input_size: tuple[int, int] | None = None
    """Height and width; None: as the model's own code has it."""
    weights: str | None = None
    feature: str | None = None
    last_stride: int | None = None
    pooling: str | None = None
    semantic_weight: float | None = None
    viewpoints: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: str | None = None
    channels: str | None = None
    range: str | None = None
    keep_aspect: str | None = None
    input_name: str | None = None
    output_name: str | None = None
    """From `weights` on: see `models.choices`. None: as the model's own code has it."""
    flip: bool | None = None
    """None: as the model's own code does."""
    scales: tuple[float, ...] = (1.0,)
    scale_mode: str = "independent"
    camera_embedding: str = "auto"
    precision: str = "auto"
    engine: str = "auto"
    calibrate_on: str | None = None
    """The images that an int8 network's ranges are seen on."""
    max_map_loss: float = MOST_MAP_LOSS
    """Points of mAP that int8 may cost on them."""
    compile: str = "off"
    dtype: str = "float32"
    device: str = "auto"
    share_gpu: bool = False
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
    merge: str = "no"
    """`tracklet`: a run of tracklets is made beside that of images."""
    merge_top: float | None = None
    """The share of a tracklet's images that counts; None: all."""

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.layout not in LAYOUTS:
            raise OptionError(f"--layout {_unknown_layout(self.layout)}")
        for name, choices in (
            ("ids", IDS),
            ("precision", PRECISIONS),
            ("engine", ENGINES),
            ("compile", COMPILE),
            ("dtype", DTYPES),
            ("device", DEVICES),
            ("on_bad_image", ON_BAD_IMAGE),
            ("scale_mode", SCALE_MODES),
            ("camera_embedding", CAMERA_EMBEDDINGS),
            ("merge", MERGE),
        ):
            if (value := getattr(self, name)) not in choices:
                raise OptionError(f"{_flag(name)} {value}: choose one of {', '.join(choices)}")
        if self.calibrate_on is not None and self.precision != "int8":
            raise OptionError("--calibrate-on: for --precision int8 alone")
        if self.max_map_loss != MOST_MAP_LOSS and self.precision != "int8":
            raise OptionError("--max-map-loss: for --precision int8 alone")
        if self.scale_mode != SCALE_MODES[0] and len(self.scales) < 2:
            raise OptionError(f"--scale-mode {self.scale_mode}: of several --scales alone")
        if self.share_gpu and self.device == "cpu":
            raise OptionError("--share-gpu: of a GPU, and --device is cpu; leave one of them out")
        if self.merge_top is not None and self.merge == "no":
            raise OptionError("--merge-top: with --merge tracklet alone")
        if self.merge_top is not None and not 0 < self.merge_top <= 1:
            raise OptionError(f"--merge-top {self.merge_top}: a share above 0 and up to 1")
        if not self.max_map_loss >= 0:
            raise OptionError(f"--max-map-loss {self.max_map_loss}: points of mAP, 0 or more")
        for name, least in (
            ("batch_size", 1),
            ("num_workers", 0),
            ("shard_rows", 1),
            ("max_bad", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(f"{_flag(name)} must be at least {least}, got {value}")
        if self.max_bad is not None and self.on_bad_image != "record":
            raise OptionError("--max-bad: without --on-bad-image record, no image may be bad")
        size = self.input_size
        if size is not None and not (
            len(size) == 2 and all(_is_a(int, side) and side > 0 for side in size)
        ):
            raise OptionError("--input-size: height x width, such as 256x128")
        for name in ("mean", "std"):
            three = getattr(self, name)
            if three is not None and not (
                len(three) == 3 and all(_is_a((int, float), n) and math.isfinite(n) for n in three)
            ):
                raise OptionError(f"{_flag(name)} {three}: three numbers are wanted")
        if self.pattern:
            name_pattern(self.pattern)
        self.box_request()
        self.choices()  # says what cannot be meant
        if not self.scales or not all(
            _is_a((int, float), s) and 0 < s < math.inf for s in self.scales
        ):
            given = ",".join(map(str, self.scales))
            raise OptionError(f"--scales {given}: positive numbers separated by commas")

    def box_request(self) -> BoxRequest:
        """What the user says of boxes; OptionError if it cannot be meant."""
        return box_request_of(self)

    def choices(self) -> Choices:
        """What the user says of the network; OptionError if it cannot be meant."""
        return Choices(**{field.name: getattr(self, field.name) for field in fields(Choices)})

    def _check_kinds(self) -> None:
        may_be_none = {field.name for field in fields(self) if field.default is None}
        for name, (kind, wanted) in KINDS.items():
            value = getattr(self, name)
            if not (_is_a(kind, value) or (value is None and name in may_be_none)):
                raise OptionError(f"{_flag(name)} {value!r}: {wanted} is wanted")
        for name in ("columns", "split_names"):
            if not _is_names(getattr(self, name)):
                raise OptionError(f"{_flag(name)} {getattr(self, name)!r}: pairs of texts wanted")
        if not all(isinstance(name, str) for name in self.classes):
            raise OptionError(f"--classes {self.classes!r}: names or numbers, as texts")
        if wrong := [split for split in self.split_names.values() if split not in SPLITS]:
            raise OptionError(f"--split-names: {wrong[0]} is none of {', '.join(SPLITS)}")
        if is_address(self.out):
            from distreid.data.objects import check_runs_address  # takes numpy; --help does not

            check_runs_address(str(path_of(str(self.out))))
        if not self.data:
            raise OptionError("--data '': the name of a file or folder is wanted")
        if not self.checkpoints:
            raise OptionError("--checkpoint: none is given")


def path_text(name: str, value: Any) -> str:
    """A path that a Python user gave, as text; OptionError, which names the argument, if it is
    none. An empty one would be the working directory, which nobody means."""
    if not isinstance(value, (str, os.PathLike)):
        raise OptionError(f"{name}={value!r}: a path is wanted")
    text = os.fsdecode(value)
    if not text or "\0" in text:
        raise OptionError(f"{name}={text!r}: the name of a file or folder is wanted")
    return text


def given_name(text: str) -> str:
    """The name of a file or folder as the command line has it; ArgumentTypeError for an empty
    one, which `"$VARIABLE"` gives where nothing is set."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name")
    return text


def given_path(text: str) -> Path:
    """`given_name` as a path, which may be an address."""
    return path_of(given_name(text))


class CommandParser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error is said."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's own, but what a command does not know is an error of the command: only
        it knows which of its options are near, and has the --help that lists them."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._near(unknown[0])}")
        return parsed, unknown

    def _print_message(self, message: str, file: Any = None) -> None:
        """As argparse's own, which would not say that --help cannot be written."""
        if message:
            print(message, end="", file=file or sys.stderr, flush=True)

    def _near(self, unknown: str) -> str:
        flag = unknown.partition("=")[0]
        import difflib  # a tenth of a second, and mistakes are rare

        near = difflib.get_close_matches(flag, self._option_string_actions, 3, cutoff=0.75)
        return f"; near it: {', '.join(near)}" if near else ""

    def error(self, message: str) -> NoReturn:
        """Ends the process."""
        if is_first_rank():
            say_last(f"distreid: error: {printable(message)}; see {self.prog} --help")
        else:
            let_first_rank_speak()
        self.exit(EXIT_USER)


class OptionGroup:
    """A heading of `--help`; what is `NEEDED` stands under the first one instead."""

    def __init__(self, parser: argparse.ArgumentParser, title: str) -> None:
        groups = {group.title: group for group in parser._action_groups}
        self.needed = groups.get(FIRST_HEADING) or parser.add_argument_group(FIRST_HEADING)
        self.group = groups.get(title) or parser.add_argument_group(title)

    def add_argument(self, flag: str, **how: Any) -> None:
        """As argparse's own."""
        (self.needed if flag in NEEDED else self.group).add_argument(flag, **how)


def add_extract_options(parser: argparse.ArgumentParser) -> None:
    """Adds the main job's options to a parser."""
    what = add_what_options(parser)
    what.add_argument(
        "--out", required=True, type=given_path, metavar="DIR", help="where the store, "
        "metrics.json and the rest go, a folder or s3://bucket/prefix; with an unfinished run of "
        "the same kind in it, that run is continued. Of several checkpoints, each has a folder of "
        "its own in it, named after its file"
    )  # fmt: skip
    add_data_root(what)
    add_how_options(parser)
    machine = add_machine_options(parser)
    machine.add_argument(
        "--cache", type=given_path, metavar="DIR", help="keep the decoded images there, 100 kB "
        "each at 256x128, for later runs of any checkpoint that takes them in the same size; best "
        "on a local disk (default: none are kept)"
    )  # fmt: skip
    machine.add_argument(
        "--shard-rows", type=int, metavar="N", help="rows per file of the store, and what an "
        "interruption costs at most (default: 1/64 of the rows, from 64 to 8192)"
    )  # fmt: skip
    after = OptionGroup(parser, "the result")
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
    after.add_argument(
        "--merge", default="no", choices=MERGE, help="tracklet: make a run of tracklets too, in "
        "OUT/tracklets, with the mean feature of each (default: no)"
    )  # fmt: skip
    after.add_argument(
        "--merge-top", type=float, metavar="SHARE", help="of a tracklet's images only those with "
        "the best box scores count: 0.5 for the better half (default: all)"
    )  # fmt: skip


def add_what_options(parser: argparse.ArgumentParser, *, several: bool = True) -> OptionGroup:
    """Adds which images and which weights, of one checkpoint or of several."""
    what = OptionGroup(parser, "how the images are read")
    what.add_argument(
        "--data", required=True, type=given_name, metavar="DIR|ARCHIVE|CSV|sample", help="a "
        "folder of images, a tar or zip file, shard-{000..099}.tar, an address of either "
        "(s3://bucket/prefix, https://…), a video, a table (CSV, …) with the columns path, "
        "person_id, camera_id, split, or what is built in: sample, sample-video"
    )  # fmt: skip
    what.add_argument(
        "--checkpoint", dest="checkpoints", required=True, nargs="+" if several else 1,
        action="extend", type=given_name, metavar="FILE|sample", help="the trained weights; an "
        "opts.yaml beside them is read too" + (". Several, such as model/net_*.pth: every image is "
        "read once for all, and they are compared" if several else "")
    )  # fmt: skip
    add_layout_options(what)
    return what


def add_data_root(parser: argparse._ActionsContainer | OptionGroup) -> None:
    """Adds where the images lie, if elsewhere than beside their list."""
    parser.add_argument(
        "--data-root", type=given_name, metavar="DIR", help="read the images of --data below this "
        "folder instead, on every host for itself: $VARIABLES are those of the host, as in "
        "'$TMPDIR/market'"
    )  # fmt: skip


def add_how_options(parser: argparse.ArgumentParser) -> None:
    """Adds what the features depend on."""
    how = OptionGroup(parser, "how the features are computed")
    how.add_argument(
        "--model", default="auto", metavar="NAME", help="the architecture, a name of `distreid "
        "models` (default: read it off the weights); also timm:NAME, torchvision:NAME, "
        "torchscript, export, or your own package.module:function, which is run"
    )  # fmt: skip
    add_network_options(how)
    how.add_argument(
        "--flip", action=argparse.BooleanOptionalAction, help="add the mirror image's feature "
        "(default: as the model's own code does)"
    )  # fmt: skip
    how.add_argument(
        "--scales", type=scales, default=(1.0,), metavar="1,1.1", help="add the features at "
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
        "--precision", default="auto", choices=PRECISIONS, help="of the forward pass. auto: what "
        "reproduces the model's own code, which is fp32 on a CPU, and on a GPU tf32-conv (TF32 in "
        "convolutions alone, as torch itself computes there) where the first images prove it, "
        "else fp32; a run is continued as it was begun (default: auto)"
    )  # fmt: skip
    how.add_argument(
        "--engine", default="auto", choices=ENGINES, help="what computes the network. auto: "
        "OpenVINO on an x86 CPU if it is installed and gives torch's features, else torch; "
        "tensorrt is for a GPU; a run is continued as it was begun (default: auto)"
    )  # fmt: skip
    how.add_argument(
        "--calibrate-on", metavar="DATA", help="for --precision int8: images such as those to "
        "come, of which 300 show the network's ranges; with labels, its loss is measured on them"
    )  # fmt: skip
    how.add_argument(
        "--max-map-loss", type=float, default=MOST_MAP_LOSS, metavar="POINTS",
        help="the mAP that int8 may "
        f"lose on them; a run that would lose more is refused (default: {MOST_MAP_LOSS})"
    )  # fmt: skip
    how.add_argument(
        "--compile", default="off", choices=COMPILE, help="of the network, by torch.compile. auto: "
        "where no other engine computes and the number of images is worth the minute that it "
        "takes; a run is continued as it was begun. max: always, with the kernels that are fastest "
        "when tried, so that last bits may differ between two processes. Compiled features are "
        "another identity than eager ones; if torch cannot compile, the job says so and goes on "
        "without (default: off)"
    )  # fmt: skip
    how.add_argument(
        "--dtype",
        default="float32",
        choices=DTYPES,
        help="of the stored features (default: float32)",
    )


def add_options_of_gallery(command: argparse.ArgumentParser) -> None:
    """Adds what a gallery's features were extracted with and its identity does not tell."""
    group = command.add_argument_group("of the checkpoint, as in the gallery's distreid extract")
    add_network_options(group, size=False)


def add_network_options(
    parser: argparse._ActionsContainer | OptionGroup, *, size: bool = True
) -> None:
    """Adds what no file tells of a network, and of its input; with the input's size or without."""
    if size:
        parser.add_argument(
            "--input-size", type=input_size, metavar="256x128", help="height and width that the "
            "model was trained with, which no weights tell (default: as the model's own code has "
            "it)"
        )  # fmt: skip
    parser.add_argument(
        "--weights", metavar="NAME", help="which network of a file that holds several, such as "
        "teacher or ema (default: the only one)"
    )  # fmt: skip
    parser.add_argument(
        "--feature", choices=FEATURES, help="of a known trunk with a neck: what leaves the neck's "
        "batch norm, what enters it, the trunk's pooled map, or what leaves the linear layer that "
        "is else taken for a classifier (default: said by inspect)"
    )  # fmt: skip
    parser.add_argument(
        "--last-stride", type=int, choices=(1, 2), help="of a ResNet's last stage, which no "
        "weights tell (default: said by inspect)"
    )  # fmt: skip
    parser.add_argument(
        "--pooling", metavar="avg|max|gem[=P]|avg+max|token", help="of a known trunk's last map "
        "(default: the trunk's own, or GeM where its exponent is in the file)"
    )  # fmt: skip
    parser.add_argument(
        "--semantic-weight", type=float, metavar="W", help="SOLIDER's, from 0 to 1 (default: 0.2)"
    )
    parser.add_argument(
        "--viewpoints", type=int, metavar="N", help="of a vehicle network's embeddings of cameras "
        "times viewpoints (default: 8, as VeRi-776 has); the column viewpoint counts from 0"
    )  # fmt: skip
    parser.add_argument(
        "--mean", type=three_numbers, metavar="R,G,B", help="subtracted from the pixels, in the "
        "order of --channels and on the scale of --range (default: the model's own)"
    )  # fmt: skip
    parser.add_argument(
        "--std",
        type=three_numbers,
        metavar="R,G,B",
        help="that they are divided by (default: the model's own)",
    )
    parser.add_argument(
        "--interpolation", choices=INTERPOLATIONS, help="of the resize; opencv: read and resized "
        "as trackers do, by cv2 without averaging (default: the model's own)"
    )  # fmt: skip
    parser.add_argument(
        "--channels", choices=CHANNELS, help="the order that the network takes (default: rgb)"
    )
    parser.add_argument(
        "--range", choices=RANGES, help="of the pixels that --mean and --std are for (default: 0-1)"
    )
    parser.add_argument(
        "--keep-aspect", metavar=f"{'|'.join(ASPECTS)}[=SHORTER]", help="pad: the whole image in "
        "the mean colour. crop: its middle, of the image with so many pixels on the shorter side "
        "(default: no, the image is stretched)"
    )  # fmt: skip
    for side, what in (("input", "images"), ("output", "features")):
        parser.add_argument(
            f"--{side}-name", metavar="NAME", help=f"of an .onnx or .xml file: the {side} that is "
            f"the {what} (default: the only one)"
        )  # fmt: skip


def add_machine_options(parser: argparse.ArgumentParser) -> OptionGroup:
    """Adds what the rate depends on."""
    machine = OptionGroup(parser, "the machine")
    machine.add_argument(
        "--device", default="auto", choices=DEVICES, help="what computes the features (default: "
        "auto, a GPU for each process where there is one)"
    )  # fmt: skip
    machine.add_argument(
        "--share-gpu", action="store_true", help="let several processes compute on one GPU, which "
        "is rarely faster"
    )  # fmt: skip
    machine.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="images per process (default: 64)"
    )
    machine.add_argument(
        "--num-workers", type=_workers, metavar="N|auto", help="decoding processes for each "
        "process (default: auto, as many as keep the model at work, measured at the start)"
    )  # fmt: skip
    return machine


def add_layout_options(parser: argparse.ArgumentParser | OptionGroup) -> None:
    """Adds what says how `--data` is read."""
    parser.add_argument(
        "--layout", default="auto", type=_layout, metavar="NAME", help="how the images are "
        "arranged, a name of `distreid layouts` (default: recognise it and say so)"
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
    add_label_options(parser)
    add_box_options(parser)
    parser.add_argument(
        "--every", default="", metavar="0.5s|N", help="of a video a frame each half second, or "
        "each Nth, and of boxes those in such frames (default: all)"
    )  # fmt: skip
    parser.add_argument(
        "--strict-counts", action="store_true", help="an error unless query and gallery have as "
        "many images as was published"
    )  # fmt: skip


def add_box_options(parser: argparse.ArgumentParser | OptionGroup) -> None:
    """Adds what says which boxes are cut out of frames, and how."""
    parser.add_argument(
        "--boxes", type=given_name, metavar="FILE", help="the boxes in the frames of --data, each "
        "an image: a table with path and x,y,w,h or x1,y1,x2,y2, COCO's JSON, a folder of YOLO's "
        "text files, or of MOTChallenge a file in each sequence, such as det/det.txt"
    )  # fmt: skip
    parser.add_argument("--min-score", type=float, metavar="S", help="of a box (default: any)")
    parser.add_argument(
        "--min-size", type=int, metavar="N", help="pixels that a box is wide and high at least"
    )
    parser.add_argument(
        "--classes", type=words, default=(), metavar="NAME,…", help="of boxes, by name or number "
        "(default: all)"
    )  # fmt: skip
    parser.add_argument(
        "--box-origin", type=int, default=0, choices=(0, 1), help="what the boxes' first pixel is "
        "counted as (default: 0)"
    )  # fmt: skip
    parser.add_argument(
        "--box-margin", type=float, default=0.0, metavar="SHARE", help="of a box's width and "
        "height added on each side (default: 0)"
    )  # fmt: skip
    parser.add_argument(
        "--box-aspect", type=float, metavar="W/H", help="make each box so wide for its height, "
        "around its middle, as DeepSORT does: 0.5 for networks of 256x128 (default: as it is)"
    )  # fmt: skip


def box_request_of(options: ExtractOptions | argparse.Namespace) -> BoxRequest:
    """What options say of boxes; OptionError if it cannot be meant."""
    request = BoxRequest(
        file=options.boxes,
        min_score=options.min_score,
        min_size=options.min_size,
        classes=tuple(options.classes),
        origin=options.box_origin,
        margin=options.box_margin,
        aspect=options.box_aspect,
    )
    request.check()
    return request


def add_label_options(parser: argparse._ActionsContainer | OptionGroup) -> None:
    """Adds what says how persons, cameras and splits are told."""
    parser.add_argument(
        "--ids", default="auto", choices=IDS, help="text: persons and cameras are names also where "
        "all are numbers, so that 012 and 12 are two (default: auto)"
    )  # fmt: skip
    parser.add_argument(
        "--columns", type=columns, default={}, metavar="path=HEADER,…", help="of a table: which "
        "column is path, person_id, camera_id, split, time or tracklet, where it is not called so; "
        "without a header by number, from 1"
    )  # fmt: skip
    parser.add_argument(
        "--split-names", type=split_names, default={}, metavar="query=WORD,…", help="which of the "
        f"data's words, or folders, is which of {', '.join(SPLITS)}; several words: "
        "query=B,query=C"
    )  # fmt: skip


def choices_of(arguments: argparse.Namespace) -> Choices:
    """What a parsed command line with `add_network_options` says of the network."""
    return Choices(**{field.name: getattr(arguments, field.name) for field in fields(Choices)})


def parse_extract_options(arguments: argparse.Namespace) -> ExtractOptions:
    """The parsed command line as options; what the command does not have stays as it is."""
    values: dict[str, Any] = {
        f.name: getattr(arguments, f.name)
        for f in fields(ExtractOptions)
        if hasattr(arguments, f.name)
    }
    values["checkpoints"] = tuple(values["checkpoints"])
    return ExtractOptions(**values)


def _layout(text: str) -> str:
    if text not in LAYOUTS:
        raise argparse.ArgumentTypeError(_unknown_layout(text))
    return text


def _unknown_layout(name: object) -> str:
    import difflib  # a tenth of a second, and mistakes are rare

    near = ", ".join(difflib.get_close_matches(str(name), LAYOUTS, 3, cutoff=0))
    return f"{name}: not known; near it: {near}; distreid layouts lists all"


def scales(text: str) -> tuple[float, ...]:
    """`1,1.1` as numbers; ArgumentTypeError for anything else."""
    with _expected(text, "positive numbers separated by commas, such as 1,1.1"):
        return tuple(float(part) for part in text.split(","))


def three_numbers(text: str) -> tuple[float, ...]:
    """`R,G,B`; ArgumentTypeError for anything else."""
    with _expected(text, "three numbers separated by commas, such as 0.485,0.456,0.406"):
        first, second, third = (float(part) for part in text.split(","))
        return first, second, third


def input_size(text: str) -> tuple[int, int]:
    """`256x128` as height and width; ArgumentTypeError for anything else."""
    with _expected(text, "height and width, such as 256x128"):
        height, width = text.split("x")
        return int(height), int(width)


def columns(text: str) -> dict[str, str]:
    """`path=image,person_id=pid` as what → header; ArgumentTypeError for anything else."""
    with _expected(text, "pairs such as path=image,person_id=pid"):
        return dict(_pairs(text))


def split_names(text: str) -> dict[str, str]:
    """`query=probe,gallery=test` as word → split; ArgumentTypeError for anything else."""
    with _expected(text, f"pairs such as query=probe, of {', '.join(SPLITS)}"):
        pairs = _pairs(text)
        if not all(split in SPLITS for split, _ in pairs):
            raise ValueError(text)
        return {word: split for split, word in pairs}


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = [part.split("=", 1) for part in text.split(",")]
    if not all(len(pair) == 2 and pair[0] for pair in pairs):
        raise ValueError(text)
    return [(key.strip(), value) for key, value in pairs]


def _is_names(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(text, str) for pair in value.items() for text in pair
    )


def words(text: str) -> tuple[str, ...]:
    """`car,person` as words."""
    return tuple(word.strip() for word in text.split(","))


def _workers(text: str) -> int | None:
    with _expected(text, "a number, or auto"):
        return None if text == "auto" else int(text)


@contextlib.contextmanager
def _expected(text: str, what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {what}") from error


def _is_a(kind: type | tuple[type, ...], value: object) -> bool:
    """`isinstance`, but that True and False are no numbers."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")

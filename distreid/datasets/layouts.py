"""The one table of layouts: how each is read, recognised, described, and how large it should be.

To add a layout, write its function and add it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from distreid.datasets import cuhk03, market, mars, msmt17, table, vehicles, viper
from distreid.datasets.files import Asked
from distreid.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One arrangement of images on a disk, and what is known of it."""

    read: Callable[[Path, Asked], Manifest]
    marks: tuple[tuple[str, ...], ...] = ()
    """By what it is recognised: everything in one of these is there; `name/` is a folder.
    Without any it is asked for by name, or found in the way that `found` says."""
    found: str = "its name"
    data: str
    """What is arranged so, for the README."""
    labels: str
    """Where query, gallery, persons and cameras come from, for the README."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """The published numbers of query and gallery images (MARS: tracklets), without junk."""
    splits: int = 1
    """How many `--split` chooses among."""
    multi_query: bool = False
    """Whether `--multi-query` adds something."""


def _counts(query: int, gallery: int) -> dict[str, int]:
    return {"query": query, "gallery": gallery}


IN_NAMES = "from names such as "
CUHK03_CONFIG = "by `cuhk03_new_protocol_config_*.mat`; camera: the view"
CUHK03_CLASSIC = "100 persons, both; by `testsets` of the .mat or torchreid's .json"
VEHICLEID = "by `train_test_split/test_list_*.txt`; no cameras"
VERIWILD = "by `train_test_split/test_*.txt`; camera from `vehicle_info.txt`"

# The first layout that is recognised is taken. Counts as torchreid's and fast-reid's data set
# classes state them, unless a comment names another source.
LAYOUTS: dict[str, Layout] = {
    "market1501": Layout(
        read=market.market1501,
        marks=(("bounding_box_test/",),),
        data="Market-1501, and anything arranged like it",
        labels=IN_NAMES + "`0001_c1s1_000151_00.jpg`; junk (−1) and distractors (0000) are kept "
        "as rows; `--multi-query` adds `gt_bbox/`",
        counts=_counts(3368, 15913),
        multi_query=True,
    ),
    "market1501_500k": Layout(
        read=market.market1501,
        data="Market-1501 with the 500k distractors in `images/`",
        labels="as `market1501`; everything in `images/` is a distractor",
        multi_query=True,
    ),
    "dukemtmcreid": Layout(
        read=market.market1501,
        found="as `market1501`; the names of the queries",
        data="DukeMTMC-reID",
        labels=IN_NAMES + "`0005_c2_f0046985.jpg`",
        counts=_counts(2228, 17661),
    ),
    "occluded_duke": Layout(
        read=market.market1501,
        found="as `dukemtmcreid`; `occluded` in the folder's name",
        data="Occluded-Duke",
        labels="as `dukemtmcreid`",
        # Miao et al., Pose-Guided Feature Alignment for Occluded Person Re-Identification, 2019.
        counts=_counts(2210, 17661),
    ),
    "msmt17": Layout(
        read=msmt17.msmt17,
        marks=(("list_query.txt",),),
        data="MSMT17 V1 (`test/`) and V2 (`mask_test_v2/`)",
        labels="by `list_query.txt`, `list_gallery.txt`; camera: the name's third word",
        counts=_counts(11659, 82161),
    ),
    # Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, 2017.
    "cuhk03_detected": Layout(
        read=cuhk03.cuhk03,
        marks=(("cuhk03_release/",), ("cuhk-03.mat",), ("images_detected/",)),
        data="CUHK03, new protocol; from the .mat or `images_detected/`",
        labels=CUHK03_CONFIG,
        counts=_counts(1400, 5332),
    ),
    "cuhk03_labeled": Layout(
        read=cuhk03.cuhk03,
        data="the same with `images_labeled/`",
        labels=CUHK03_CONFIG,
        counts=_counts(1400, 5328),
    ),
    "cuhk03_np_detected": Layout(
        read=market.market1501,
        found="as `market1501`, in a folder named `detected`",
        data="CUHK03-NP: the new protocol, arranged like Market-1501",
        labels=IN_NAMES + "`0001_c1_1.png`",
        counts=_counts(1400, 5332),
    ),
    "cuhk03_np_labeled": Layout(
        read=market.market1501,
        found="as `market1501`, in a folder named `labeled`",
        data="the same, of labeled boxes",
        labels="as `cuhk03_np_detected`",
        counts=_counts(1400, 5328),
    ),
    "cuhk03_classic_detected": Layout(
        read=cuhk03.cuhk03_classic,
        data="CUHK03, classic protocol, 20 splits",
        labels=CUHK03_CLASSIC,
        splits=20,
    ),
    "cuhk03_classic_labeled": Layout(
        read=cuhk03.cuhk03_classic,
        data="the same with `images_labeled/`",
        labels=CUHK03_CLASSIC,
        splits=20,
    ),
    "viper": Layout(
        read=viper.viper,
        marks=(("cam_a/",),),
        data="VIPeR, 10 halves of the persons × 2 directions",
        labels="`cam_a/` against `cam_b/`; persons by torchreid's `splits.json`, or drawn",
        counts=_counts(316, 316),
        splits=20,
    ),
    "mars": Layout(
        read=mars.mars,
        marks=(("bbox_test/",),),
        data="MARS, with its evaluation files in `info/`",
        labels="tracklets by `info/*.mat`, each scored by its mean feature; junk (−1) left out",
        counts=_counts(1980, 9330),
    ),
    "veri776": Layout(
        read=vehicles.veri776,
        marks=(("image_query/",),),
        data="VeRi-776",
        labels="`image_query/`, `image_test/`; " + IN_NAMES + "`0002_c002_00030600_0.jpg`",
        counts=_counts(1678, 11579),
    ),
    "vehicleid_small": Layout(
        read=vehicles.vehicleid,
        marks=(("train_test_split/test_list_800.txt",), ("query800/", "gallery800/")),
        data="VehicleID, 800 vehicles; one image of each is the gallery, 11 splits",
        labels=VEHICLEID,
        counts=_counts(6493 - 800, 800),
        splits=11,
    ),
    "vehicleid_medium": Layout(
        read=vehicles.vehicleid,
        data="1,600 vehicles",
        labels=VEHICLEID,
        counts=_counts(13377 - 1600, 1600),
        splits=11,
    ),
    "vehicleid_large": Layout(
        read=vehicles.vehicleid,
        data="2,400 vehicles",
        labels=VEHICLEID,
        counts=_counts(19777 - 2400, 2400),
        splits=11,
    ),
    # One query of each vehicle: Lou et al., VERI-Wild, 2019; the sums are fast-reid's.
    "veriwild_small": Layout(
        read=vehicles.veriwild,
        marks=(("train_test_split/vehicle_info.txt",),),
        data="VeRi-Wild, 3,000 vehicles",
        labels=VERIWILD,
        counts=_counts(3000, 41861 - 3000),
    ),
    "veriwild_medium": Layout(
        read=vehicles.veriwild,
        data="5,000 vehicles",
        labels=VERIWILD,
        counts=_counts(5000, 69389 - 5000),
    ),
    "veriwild_large": Layout(
        read=vehicles.veriwild,
        data="10,000 vehicles",
        labels=VERIWILD,
        counts=_counts(10000, 138517 - 10000),
    ),
    "layumi": Layout(
        read=market.layumi,
        marks=(("query/", "gallery/"),),
        data="`query/PID/` and `gallery/PID/`, as Person_reID_baseline_pytorch's `prepare.py`, "
        "`prepare_Duke.py`, `_MSMT`, `_VeRi` and `_viper` write them",
        labels="from the names, by that project's rule; `--multi-query` adds `multi-query/`",
        multi_query=True,
    ),
    "imagefolder": Layout(
        read=table.imagefolder,
        found="images in its folders and nowhere else",
        data="one folder per person, as torchvision's ImageFolder",
        labels="person from the folder; no split, so no score",
    ),
    "folder": Layout(
        read=table.folder,
        found="images anywhere",
        data="any other tree of images",
        labels="none; features only",
    ),
    "csv": Layout(
        read=table.csv_manifest,
        found="a file",
        data="a CSV with a header: `path`, and as you have them `person_id`, `camera_id`, `split` "
        "(`query`, `gallery`), anything else",
        labels="from the columns; further ones are kept; a broken line is named by its number",
        multi_query=True,
    ),
    "pattern": Layout(
        read=table.by_pattern,
        found="`--pattern REGEX`",
        data="any tree of images",
        labels="from the groups `person`, `camera`, `split` of the pattern, found in the path; "
        "without `split`, from folders named `query` and `gallery`",
    ),
}
# Where one folder can be read in several ways, what is said when the first is taken.
OTHER_WAYS = {
    "cuhk03_detected": "as torchreid does by default, fast-reid takes --layout cuhk03_labeled; "
    "further cuhk03_classic_detected, cuhk03_classic_labeled",
    "vehicleid_small": "larger are --layout vehicleid_medium, vehicleid_large",
    "veriwild_small": "larger are --layout veriwild_medium, veriwild_large",
}


def table_rows() -> list[str]:
    """The README's table of layouts, a line of Markdown each."""
    rows = ["| `--layout` | what | recognised by | query, gallery, person, camera | published |"]
    rows.append("|---|---|---|---|---|")
    for name, layout in LAYOUTS.items():
        marks = " or ".join(", ".join(f"`{part}`" for part in parts) for parts in layout.marks)
        counts = " / ".join(f"{count:,}" for count in layout.counts.values())
        cells = (f"`{name}`", layout.data, marks or layout.found, layout.labels, counts or "–")
        rows.append(f"| {' | '.join(cells)} |")
    return rows

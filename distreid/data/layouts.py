"""The one table of layouts: how each is read, recognised, described, and how large it should be.

To add a layout, write its function and add it here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from distreid.data import (
    changing_clothes,
    cross_modality,
    cuhk03,
    frame_boxes,
    image_table,
    labelled_members,
    ls_vid,
    ltcc,
    market,
    mars,
    msmt17,
    occluded_reid,
    person_search_layouts,
    prid2011,
    split_folders,
    trees,
    vehicles,
    video,
    viper,
)
from distreid.data.image_files import Label, LayoutRequest, labels_by, persons_by, some_images
from distreid.data.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class NamesFit:
    """How most images in some folders are named."""

    folders: tuple[str, ...]
    label: Label
    """Gives None for a name that is none of the layout's."""
    below: re.Pattern[bytes] | None = None
    """What the folder is named that an image lies in, if it lies in one."""

    def fit(self, root: Path) -> bool:
        """Whether they do, by the first images of each that is there."""
        folders = [root / name for name in self.folders if (root / name).is_dir()]
        return all(self._fits(some_images(folder, LOOKED_AT)) for folder in folders)

    def _fits(self, paths: list[bytes]) -> bool:
        return 2 * sum(map(self._is_named_so, paths)) > len(paths)

    def _is_named_so(self, path: bytes) -> bool:
        folder, _, name = path.rpartition(b"/")
        return self.label(name) is not None and (
            not folder or self.below is None or self.below.fullmatch(folder) is not None
        )


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One arrangement of images on a disk, and what is known of it."""

    read: Callable[[Path, LayoutRequest], Manifest]
    marks: tuple[tuple[str, ...], ...] = ()
    """By what it is recognised: everything in one of these is there; `name/` is a folder.
    Without any it is asked for by name, or found in the way that `found` says."""
    names: NamesFit | None = None
    """What else must be so for the layout to be recognised."""
    found: str = "its name"
    data: str
    """What is arranged so, for people."""
    labels: str
    """Where query, gallery, persons and cameras come from, for people."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """The published numbers of query and gallery images (MARS: tracklets), without junk."""
    splits: int = 1
    """How many `--split` chooses among."""
    multi_query: bool = False
    """Whether `--multi-query` adds something."""
    sketch: tuple[str, ...] = ()
    """What lies in the folder, a path each; `…` is more of the same."""


def _counts(query: int, gallery: int) -> dict[str, int]:
    return {"query": query, "gallery": gallery}


LOOKED_AT = 100  # images, by whose names a layout is recognised
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
        names=NamesFit(folders=("bounding_box_test",), label=labels_by(market.MARKET_NAME)),
        data="Market-1501, and anything arranged like it",
        labels=IN_NAMES + "`0001_c1s1_000151_00.jpg`; junk (−1) and distractors (0000) are kept "
        "as rows; `--multi-query` adds `gt_bbox/`",
        counts=_counts(3368, 15913),
        multi_query=True,
        sketch=(
            "query/0001_c1s1_000151_00.jpg",
            "bounding_box_test/0001_c2s1_000301_01.jpg",
            "gt_bbox/0001_c1s1_000151_01.jpg (for --multi-query)",
        ),
    ),
    "market1501_500k": Layout(
        read=market.market1501,
        data="Market-1501 with the 500k distractors in `images/`",
        labels="as `market1501`; everything in `images/` is a distractor",
        multi_query=True,
        sketch=(
            "query/…",
            "bounding_box_test/…",
            "images/0000_c1s1_000000_00.jpg (distractors)",
        ),
    ),
    "dukemtmcreid": Layout(
        read=market.market1501,
        found="as `market1501`; the names of the queries",
        data="DukeMTMC-reID",
        labels=IN_NAMES + "`0005_c2_f0046985.jpg`",
        counts=_counts(2228, 17661),
        sketch=(
            "query/0005_c2_f0046985.jpg",
            "bounding_box_test/0005_c5_f0051341.jpg",
        ),
    ),
    "occluded_duke": Layout(
        read=market.market1501,
        found="as `dukemtmcreid`; `occluded` in the folder's name",
        data="Occluded-Duke",
        labels="as `dukemtmcreid`",
        # Miao et al., Pose-Guided Feature Alignment for Occluded Person Re-Identification, 2019.
        counts=_counts(2210, 17661),
        sketch=(
            "query/0005_c2_f0046985.jpg",
            "bounding_box_test/0005_c5_f0051341.jpg",
        ),
    ),
    "msmt17": Layout(
        read=msmt17.msmt17,
        marks=(("list_query.txt",),),
        data="MSMT17 V1 (`test/`) and V2 (`mask_test_v2/`)",
        labels="by `list_query.txt`, `list_gallery.txt`; camera: the name's third word",
        counts=_counts(11659, 82161),
        sketch=(
            "list_query.txt",
            "list_gallery.txt",
            "test/0000/0000_000_01_0303morning_0015_0.jpg",
        ),
    ),
    # Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, 2017.
    "cuhk03_detected": Layout(
        read=cuhk03.cuhk03,
        marks=(("cuhk03_release/",), ("cuhk-03.mat",), ("images_detected/",)),
        data="CUHK03, new protocol; from the .mat or `images_detected/`",
        labels=CUHK03_CONFIG,
        counts=_counts(1400, 5332),
        sketch=(
            "cuhk03_new_protocol_config_detected.mat",
            "cuhk03_release/cuhk-03.mat (or images_detected/1_001_1_01.png)",
        ),
    ),
    "cuhk03_labeled": Layout(
        read=cuhk03.cuhk03,
        marks=(("images_labeled/", "cuhk03_new_protocol_config_labeled.mat"),),
        data="the same with `images_labeled/`",
        labels=CUHK03_CONFIG,
        counts=_counts(1400, 5328),
        sketch=(
            "cuhk03_new_protocol_config_labeled.mat",
            "cuhk03_release/cuhk-03.mat (or images_labeled/1_001_1_01.png)",
        ),
    ),
    "cuhk03_np_detected": Layout(
        read=market.market1501,
        found="as `market1501`, in a folder named `detected`",
        data="CUHK03-NP: the new protocol, arranged like Market-1501",
        labels=IN_NAMES + "`0001_c1_1.png`",
        counts=_counts(1400, 5332),
        sketch=(
            "detected/query/0001_c1_1.png",
            "detected/bounding_box_test/0001_c2_6.png",
        ),
    ),
    "cuhk03_np_labeled": Layout(
        read=market.market1501,
        found="as `market1501`, in a folder named `labeled`",
        data="the same, of labeled boxes",
        labels="as `cuhk03_np_detected`",
        counts=_counts(1400, 5328),
        sketch=(
            "labeled/query/0001_c1_1.png",
            "labeled/bounding_box_test/0001_c2_6.png",
        ),
    ),
    "cuhk03_classic_detected": Layout(
        read=cuhk03.cuhk03_classic,
        data="CUHK03, classic protocol, 20 splits",
        labels=CUHK03_CLASSIC,
        splits=20,
        sketch=("cuhk03_release/cuhk-03.mat (or images_detected/1_001_1_01.png)",),
    ),
    "cuhk03_classic_labeled": Layout(
        read=cuhk03.cuhk03_classic,
        marks=(("images_labeled/",),),
        data="the same with `images_labeled/`",
        labels=CUHK03_CLASSIC,
        splits=20,
        sketch=("cuhk03_release/cuhk-03.mat (or images_labeled/1_001_1_01.png)",),
    ),
    "viper": Layout(
        read=viper.viper,
        marks=(("cam_a/",),),
        names=NamesFit(folders=("cam_a", "cam_b"), label=viper.label),
        data="VIPeR, 10 halves of the persons × 2 directions",
        labels="`cam_a/` against `cam_b/`; persons by torchreid's `splits.json`, or drawn",
        counts=_counts(316, 316),
        splits=20,
        sketch=(
            "cam_a/000_45.bmp",
            "cam_b/000_45.bmp",
            "splits.json (torchreid's, if there)",
        ),
    ),
    "mars": Layout(
        read=mars.mars,
        marks=(("bbox_test/",),),
        names=NamesFit(folders=("bbox_test",), label=mars.label),
        data="MARS, with its evaluation files in `info/`",
        labels="tracklets by `info/*.mat`, each scored by its mean feature; junk (−1) left out",
        counts=_counts(1980, 9330),
        sketch=(
            "bbox_test/0000/0000C1T0001F001.jpg",
            "info/tracks_test_info.mat",
            "info/query_IDX.mat",
            "info/test_name.txt",
        ),
    ),
    "veri776": Layout(
        read=vehicles.veri776,
        marks=(("image_query/",),),
        names=NamesFit(folders=("image_query", "image_test"), label=labels_by(vehicles.VERI_NAME)),
        data="VeRi-776",
        labels="`image_query/`, `image_test/`; " + IN_NAMES + "`0002_c002_00030600_0.jpg`",
        counts=_counts(1678, 11579),
        sketch=(
            "image_query/0002_c002_00030600_0.jpg",
            "image_test/0002_c003_00084300_0.jpg",
        ),
    ),
    "vehicleid_small": Layout(
        read=vehicles.vehicleid,
        marks=(("train_test_split/test_list_800.txt",), ("query800/", "gallery800/")),
        data="VehicleID, 800 vehicles; one image of each is the gallery, 11 splits",
        labels=VEHICLEID,
        counts=_counts(6493 - 800, 800),
        splits=11,
        sketch=(
            "train_test_split/test_list_800.txt",
            "image/0000001.jpg (or query800/, gallery800/)",
        ),
    ),
    "vehicleid_medium": Layout(
        read=vehicles.vehicleid,
        data="1,600 vehicles",
        labels=VEHICLEID,
        counts=_counts(13377 - 1600, 1600),
        splits=11,
        sketch=(
            "train_test_split/test_list_1600.txt",
            "image/0000001.jpg",
        ),
    ),
    "vehicleid_large": Layout(
        read=vehicles.vehicleid,
        data="2,400 vehicles",
        labels=VEHICLEID,
        counts=_counts(19777 - 2400, 2400),
        splits=11,
        sketch=(
            "train_test_split/test_list_2400.txt",
            "image/0000001.jpg",
        ),
    ),
    # One query of each vehicle: Lou et al., VERI-Wild, 2019; the sums are fast-reid's.
    "veriwild_small": Layout(
        read=vehicles.veriwild,
        marks=(("train_test_split/vehicle_info.txt",),),
        data="VeRi-Wild, 3,000 vehicles",
        labels=VERIWILD,
        counts=_counts(3000, 41861 - 3000),
        sketch=(
            "train_test_split/vehicle_info.txt",
            "train_test_split/test_3000_query.txt",
            "images/00001/000001.jpg",
        ),
    ),
    "veriwild_medium": Layout(
        read=vehicles.veriwild,
        data="5,000 vehicles",
        labels=VERIWILD,
        counts=_counts(5000, 69389 - 5000),
        sketch=(
            "train_test_split/vehicle_info.txt",
            "train_test_split/test_5000_query.txt",
            "images/00001/000001.jpg",
        ),
    ),
    "veriwild_large": Layout(
        read=vehicles.veriwild,
        data="10,000 vehicles",
        labels=VERIWILD,
        counts=_counts(10000, 138517 - 10000),
        sketch=(
            "train_test_split/vehicle_info.txt",
            "train_test_split/test_10000_query.txt",
            "images/00001/000001.jpg",
        ),
    ),
    "dukemtmc_videoreid": Layout(
        read=video.dukemtmc_videoreid,
        marks=(("query/", "gallery/"),),
        names=NamesFit(folders=("query", "gallery"), label=video.duke_label),
        data="DukeMTMC-VideoReID",
        labels="`query/PERSON/TRACKLET/`; camera from the frames' names; tracklets, each scored by "
        "its mean feature",
        counts=_counts(702, 2636),
        sketch=(
            "query/0001/0001/0001_C6_F0001_X30823.jpg",
            "gallery/0001/0002/0001C2F0001X30823.jpg",
        ),
    ),
    "ilids_vid": Layout(
        read=video.ilids_vid,
        marks=(
            ("i-LIDS-VID/sequences/cam1/", "i-LIDS-VID/sequences/cam2/"),
            ("sequences/cam1/", "sequences/cam2/"),
        ),
        data="iLIDS-VID, ten halves of the persons",
        labels="camera 1 is query, camera 2 gallery; persons by "
        "`train_test_splits_ilidsvid.mat`, all without it; tracklets",
        counts=_counts(150, 150),
        splits=10,
        sketch=(
            "i-LIDS-VID/sequences/cam1/person001/cam1_person001_00317.png",
            "i-LIDS-VID/sequences/cam2/person001/cam2_person001_00437.png",
            "train-test people splits/train_test_splits_ilidsvid.mat",
        ),
    ),
    "ilids_vid_halves": Layout(
        read=video.ilids_vid,
        data="iLIDS-VID, all persons, for the mean over the ten halves",
        labels="as `ilids_vid`, with the halves that a person is in",
        sketch=(
            "i-LIDS-VID/sequences/cam1/person001/cam1_person001_00317.png",
            "i-LIDS-VID/sequences/cam2/person001/cam2_person001_00437.png",
            "train-test people splits/train_test_splits_ilidsvid.mat",
        ),
    ),
    "prid2011": Layout(
        read=prid2011.prid2011,
        marks=(
            ("prid_2011/multi_shot/cam_a/", "prid_2011/multi_shot/cam_b/"),
            ("multi_shot/cam_a/", "multi_shot/cam_b/"),
        ),
        data="PRID2011, ten halves of the persons",
        labels="camera A is query, B gallery; persons by `splits_prid2011.json`, all without it; "
        "tracklets",
        counts=_counts(89, 89),
        splits=10,
        sketch=(
            "prid_2011/multi_shot/cam_a/person_0001/0001.png",
            "prid_2011/multi_shot/cam_b/person_0001/0001.png",
            "splits_prid2011.json",
        ),
    ),
    "prid2011_halves": Layout(
        read=prid2011.prid2011,
        data="PRID2011, all persons, for the mean over the ten halves",
        labels="as `prid2011`, with the halves that a person is in",
        sketch=(
            "prid_2011/multi_shot/cam_a/person_0001/0001.png",
            "prid_2011/multi_shot/cam_b/person_0001/0001.png",
            "splits_prid2011.json",
        ),
    ),
    "ls_vid": Layout(
        read=ls_vid.ls_vid,
        marks=(
            (ls_vid.LIST, "test/" + ls_vid.QUERIES),
            ("info/" + ls_vid.LIST, "info/" + ls_vid.QUERIES),
        ),
        data="LS-VID",
        labels="by `list_seq_test.txt`, a line a tracklet; those in `query` of `info_test.mat` "
        "ask, the others are the gallery; camera from the frames' names; junk is left out",
        # Of tracklets, as Li et al. (ICCV 2019) state them.
        counts=_counts(3504, 7829),
        sketch=(
            "list_sequence/list_seq_test.txt",
            "test/data/info_test.mat",
            "tracklet_test/0003/0003_0001_12_0000001.jpg",
        ),
    ),
    # Before Occluded-REID, as it has a folder of that name, too.
    "partial_reid": Layout(
        read=occluded_reid.partial_reid,
        marks=(("partial_body_images/", "whole_body_images/"),),
        data="Partial-REID",
        labels="`partial_body_images/` is query, `whole_body_images/` gallery; person: the "
        "name's first number; no cameras",
        # Zheng et al., Partial Person Re-identification, 2015: 60 persons, five images each.
        counts=_counts(300, 300),
        sketch=(
            "partial_body_images/001_001.jpg",
            "whole_body_images/001_001.jpg",
        ),
    ),
    "occluded_reid": Layout(
        read=occluded_reid.occluded_reid,
        marks=(("occluded_body_images/", "whole_body_images/"),),
        data="Occluded-REID",
        labels="`occluded_body_images/PERSON/` is query, `whole_body_images/PERSON/` gallery; no "
        "cameras",
        # Zhuo et al., Occluded Person Re-Identification, 2018: 200 persons, five images each.
        counts=_counts(1000, 1000),
        sketch=(
            "occluded_body_images/001/001_01.tif",
            "whole_body_images/001/001_01.tif",
        ),
    ),
    "p_dukemtmc": Layout(
        read=occluded_reid.p_dukemtmc,
        marks=(("test/occluded_body_images/", "test/whole_body_images/"),),
        data="P-DukeMTMC-reID",
        labels="`test/occluded_body_images/` is query, `test/whole_body_images/` gallery; "
        + IN_NAMES
        + "`0005_c2_f0046985.jpg`",
        sketch=(
            "test/occluded_body_images/0005/0005_c2_f0046985.jpg",
            "test/whole_body_images/0005/0005_c5_f0051341.jpg",
        ),
    ),
    "partial_ilids": Layout(
        read=occluded_reid.partial_ilids,
        marks=(("Probe/", "Gallery/"),),
        names=NamesFit(
            folders=("Probe", "Gallery"),
            label=persons_by(occluded_reid.PROBE_NAME),
            below=re.compile(b""),
        ),
        data="Partial-iLIDS",
        labels="`Probe/` is query, `Gallery/` gallery, one image of each person; no cameras",
        # He et al., Deep Spatial Feature Reconstruction, CVPR 2018: 119 persons.
        counts=_counts(119, 119),
        sketch=("Probe/001.jpg", "Gallery/001.jpg"),
    ),
    "celeb_reid": Layout(
        read=changing_clothes.celeb_reid,
        marks=(("query/", "gallery/"),),
        names=NamesFit(folders=("query", "gallery"), label=persons_by(changing_clothes.CELEB_NAME)),
        data="Celeb-reID",
        labels="`query/`, `gallery/`; person: the first number of names such as `1_1_0.jpg`; no "
        "cameras",
        # Huang et al., Beyond Scalar Neuron, TCSVT 2020, table II.
        counts=_counts(2972, 11006),
        sketch=("query/1_1_0.jpg", "gallery/1_2_0.jpg"),
    ),
    "ltcc": Layout(
        read=ltcc.ltcc,
        marks=(("query/", "test/"),),
        names=NamesFit(folders=("query", "test"), label=labels_by(ltcc.LTCC_NAME)),
        data="LTCC, with the clothes of each image",
        labels=IN_NAMES + "`001_1_c1_015833.png`: person, clothes, camera",
        # Qian et al., Long-Term Cloth-Changing Person Re-identification, 2020.
        counts=_counts(493, 7050),
        sketch=(
            "query/001_1_c1_015833.png",
            "test/001_2_c2_015833.png",
        ),
    ),
    "prcc": Layout(
        read=changing_clothes.prcc,
        marks=tuple(
            tuple(f"{folder}/{camera}/" for camera in changing_clothes.PRCC_CAMERAS)
            for folder in changing_clothes.PRCC_FOLDERS
        ),
        data="PRCC, with the clothes of each image",
        labels="`rgb/test/A/PERSON/` is gallery, `B` (the same clothes) and `C` query",
        sketch=(
            "rgb/test/A/003/cropped_rgb001.jpg",
            "rgb/test/B/003/cropped_rgb001.jpg",
            "rgb/test/C/003/cropped_rgb001.jpg",
        ),
    ),
    "vc_clothes": Layout(
        read=changing_clothes.vc_clothes,
        marks=(("query/", "gallery/"),),
        names=NamesFit(folders=("query", "gallery"), label=changing_clothes.vc_label),
        data="VC-Clothes, with the clothes of each image",
        labels=IN_NAMES + "`0001-01-02-03.jpg`: person, camera, clothes",
        sketch=(
            "query/0001-01-02-03.jpg",
            "gallery/0001-03-01-00.jpg",
        ),
    ),
    "deepchange": Layout(
        read=changing_clothes.deepchange,
        marks=(("test-set-query-bbox.txt", "test-set-gallery-bbox.txt"),),
        data="DeepChange, with the track of each image",
        labels="by `test-set-query-bbox.txt`, `test-set-gallery-bbox.txt`; camera: the "
        "name's second word",
        sketch=(
            "test-set-query-bbox.txt",
            "test-set-gallery-bbox.txt",
            "test-set-query/P1_C1_….jpg",
            "test-set-gallery/P1_C2_….jpg",
        ),
    ),
    "last": Layout(
        read=changing_clothes.last,
        marks=(("test/query/", "test/gallery/", "train/", "val/"),),
        names=NamesFit(folders=("test/query",), label=changing_clothes.last_label),
        data="LaST",
        labels="`test/query/`, `test/gallery/PERSON/`; person: the name's first number; no cameras",
        sketch=(
            "test/query/000001_….jpg",
            "test/gallery/000001/000001_….jpg",
            "train/",
            "val/",
        ),
    ),
    "sysu_mm01": Layout(
        read=cross_modality.sysu_mm01,
        marks=(("exp/test_id.txt", "cam3/"), ("exp/test_id.txt", "cam6/")),
        data="SYSU-MM01: infrared images (cameras 3, 6) are query, visible ones gallery",
        labels="`cam1/PERSON/` … of the persons in `exp/test_id.txt`",
        sketch=(
            "exp/test_id.txt",
            "exp/rand_perm_cam.mat (the official draws, if there)",
            "cam1/0006/0001.jpg",
            "cam3/0006/0001.jpg",
        ),
    ),
    "llcm": Layout(
        read=cross_modality.llcm,
        marks=(("idx/test_id.txt", "test_nir/", "test_vis/"),),
        data="LLCM: near-infrared images are query, visible ones gallery",
        labels="`test_nir/cam1/PERSON/` … of the persons in `idx/test_id.txt`",
        sketch=(
            "idx/test_id.txt",
            "test_nir/cam1/0001/….jpg",
            "test_vis/cam1/0001/….jpg",
        ),
    ),
    "regdb": Layout(
        read=cross_modality.regdb,
        marks=(("idx/test_visible_1.txt", "Visible/", "Thermal/"),),
        data="RegDB: visible images are query, thermal ones gallery; ten halves of the persons",
        labels="`Visible/PERSON/`, `Thermal/PERSON/`, by `idx/test_visible_1.txt` …",
        sketch=(
            "idx/test_visible_1.txt, … test_visible_10.txt",
            "idx/test_thermal_1.txt, … test_thermal_10.txt",
            "Visible/1/male_back_v_00001_1.bmp",
            "Thermal/1/male_back_t_00001_1.bmp",
        ),
    ),
    "reid_imgs": Layout(
        read=trees.reid_imgs,
        marks=(("imgs/",),),
        names=NamesFit(folders=("imgs",), label=lambda _: (0, 0), below=re.compile(rb"[^/]+")),
        data="the crops of tracked persons, as mmtracking arranges them",
        labels="`imgs/PERSON/`; each image is query and gallery",
        sketch=("imgs/MOT17-02-FRCNN_000002/000000.jpg",),
    ),
    "layumi": Layout(
        read=market.layumi,
        marks=(("query/", "gallery/"),),
        names=NamesFit(
            folders=("query", "gallery"),
            label=market.layumi_label,
            below=market.LAYUMI_FOLDER,
        ),
        data="`query/PID/` and `gallery/PID/`, as Person_reID_baseline_pytorch's `prepare.py`, "
        "`prepare_Duke.py`, `_MSMT`, `_VeRi` and `_viper` write them",
        labels="from the names, with all their digits; `--multi-query` adds `multi-query/`",
        multi_query=True,
        sketch=(
            "query/0001/0001_c1s1_000151_00.jpg",
            "gallery/0001/0001_c2s1_000301_01.jpg",
            "multi-query/0001/… (for --multi-query)",
        ),
    ),
    "split_folders": Layout(
        read=split_folders.split_folders,
        found="a folder named query, probe, gallery, test, train, val, …",
        data="any images in folders of the splits",
        labels="person from the folder below, or from the names; cameras where names tell them; "
        "a guess is said",
        multi_query=True,
        sketch=(
            "query/anna/1.jpg",
            "gallery/anna/7.jpg",
            "(or) query/0001_0003.jpg",
        ),
    ),
    "webdataset": Layout(
        read=labelled_members.webdataset,
        found="tar files with `.json` or `.cls` beside each image",
        data="WebDataset's tar files, or any archive of that kind",
        labels="from the single values of each `.json`, as the columns of a table; `.cls` is the "
        "person without one",
        sketch=(
            "shard-000000.tar#/000000.jpg",
            "shard-000000.tar#/000000.json",
        ),
    ),
    "image_column": Layout(
        read=labelled_members.image_column,
        found="a column of images' bytes in Parquet or Arrow files",
        data="Parquet and Arrow files with images, such as Hugging Face's",
        labels="from the other columns, as those of a table",
        sketch=("train-00000-of-00001.parquet (image, pid, camid)",),
    ),
    "cuhk_sysu": Layout(
        read=person_search_layouts.cuhk_sysu,
        marks=(("Image/SSM/", "annotation/Images.mat"),),
        data="CUHK-SYSU: persons in whole frames",
        labels="queries and persons by `TestG50.mat`, true boxes by `Images.mat`; detections by "
        "`--boxes`",
        sketch=(
            "Image/SSM/s9.jpg",
            "annotation/Images.mat",
            "annotation/pool.mat",
            "annotation/test/train_test/TestG50.mat",
        ),
    ),
    "prw": Layout(
        read=person_search_layouts.prw,
        marks=(("frames/", "annotations/", "query_info.txt"),),
        data="PRW: persons in whole frames",
        labels="queries by `query_info.txt`, true boxes by `annotations/`; camera from the frames' "
        "names; detections by `--boxes`",
        # Zheng et al., Person Re-identification in the Wild, 2017: 2,057 queries.
        sketch=(
            "frames/c1s1_000151.jpg",
            "annotations/c1s1_000151.jpg.mat",
            "frame_test.mat",
            "query_info.txt",
        ),
    ),
    "motchallenge": Layout(
        read=frame_boxes.motchallenge,
        found="`seqinfo.ini` in it or in its folders",
        data="MOTChallenge's sequences: boxes in frames",
        labels="a row for each box of `gt/gt.txt`, else `det/det.txt`; person and tracklet: the "
        "sequence's ids; camera: the sequence",
        sketch=(
            "MOT17-02-FRCNN/seqinfo.ini",
            "MOT17-02-FRCNN/img1/000001.jpg",
            "MOT17-02-FRCNN/gt/gt.txt",
            "MOT17-02-FRCNN/det/det.txt",
        ),
    ),
    "frames": Layout(
        read=frame_boxes.frames,
        found="`--boxes FILE`",
        data="any frames, with boxes in a table, COCO's JSON or YOLO's text files",
        labels="a row for each box; from the columns, as those of a table",
        sketch=(
            "frames/000001.jpg",
            "boxes.csv (path,x,y,w,h,score,person_id,camera_id)",
        ),
    ),
    "imagefolder": Layout(
        read=trees.imagefolder,
        found="images in its folders and nowhere else",
        data="one folder per person, as torchvision's ImageFolder",
        labels="person from the folder; no split, so no score",
        sketch=(
            "anna/1.jpg",
            "anna/2.jpg",
            "berta/1.jpg",
        ),
    ),
    "folder": Layout(
        read=trees.folder,
        found="images anywhere",
        data="any other tree of images",
        labels="none; features only",
        sketch=(
            "any/where/1.jpg",
            "2.png",
        ),
    ),
    "csv": Layout(
        read=image_table.table_manifest,
        found="a file",
        data="a table: CSV, TSV, a list without a header, Parquet, JSON, Excel",
        labels="from the columns, under their usual names or by `--columns`; further ones are "
        "kept; a broken line is named by its number",
        multi_query=True,
        sketch=(
            "path,person_id,camera_id,split",
            "a/1.jpg,1,1,query",
            "a/2.jpg,1,2,gallery",
        ),
    ),
    "pattern": Layout(
        read=trees.by_pattern,
        found="`--pattern REGEX`",
        data="any tree of images",
        labels="from the groups `person`, `camera`, `split` of the pattern, found in the path; "
        "without `split`, from folders named `query` and `gallery`; `--split-names` for others",
        sketch=(
            "query/12_c1_x.jpg",
            "gallery/12_c2_y.jpg",
        ),
    ),
}
# Where one folder can be read in several ways, what is said when the first is taken.
OTHER_WAYS = {
    "cuhk03_detected": "as torchreid does by default, fast-reid takes --layout cuhk03_labeled; "
    "further cuhk03_classic_detected, cuhk03_classic_labeled",
    "vehicleid_small": "larger are --layout vehicleid_medium, vehicleid_large",
    "veriwild_small": "larger are --layout veriwild_medium, veriwild_large",
}


def in_words(text: str) -> str:
    """Of a cell, without Markdown's marks."""
    return text.replace("`", "")


def recognised_by(layout: Layout) -> str:
    """The marks in Markdown, or in words how else it is found."""
    marks = " or ".join(", ".join(f"`{part}`" for part in parts) for parts in layout.marks)
    return marks or layout.found


def table_rows() -> list[str]:
    """The manual's table of layouts, a line of Markdown each."""
    rows = ["| `--layout` | what | recognised by | query, gallery, person, camera | published |"]
    rows.append("|---|---|---|---|---|")
    for name, layout in LAYOUTS.items():
        counts = " / ".join(f"{count:,}" for count in layout.counts.values())
        cells = (f"`{name}`", layout.data, recognised_by(layout), layout.labels, counts or "–")
        rows.append(f"| {' | '.join(cells)} |")
    return rows

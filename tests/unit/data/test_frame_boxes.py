"""Boxes in frames: the files that tell them, what is kept, and where they are cut."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distreid.data.box_request import BoxRequest
from distreid.data.locators import locate
from distreid.data.manifest import Manifest
from distreid.data.source import open_data
from distreid.data.summary import describe
from distreid.errors import DataError, ImageError, OptionError
from distreid.images.frames import cut
from distreid.images.preprocess import Preprocess, decode, read
from distreid.images.sampler import ShardBatches, frame_starts
from distreid.store.plan import plan_shards


def frame(file: Path, width: int = 20, height: int = 10) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(height * width * 3, dtype=np.uint16).reshape(height, width, 3) % 251
    Image.fromarray(pixels.astype(np.uint8)).save(file)
    return file


def boxes_of(manifest: Manifest) -> list[tuple[str, tuple[int, ...] | None]]:
    places = [locate(manifest.file(row)) for row in range(len(manifest))]
    return [(str(place.file.relative_to(manifest.root)), place.box) for place in places]


def opened(root: Path, text: str, **asked: object) -> Manifest:
    file = root / "boxes.csv"
    file.write_text(text)
    frame(root / "frames/1.png")
    frame(root / "frames/2.png")
    return open_data(str(root / "frames"), boxes=BoxRequest(file=str(file), **asked))  # type: ignore[arg-type]


def test_the_metadata_of_wildlife_datasets_has_a_box_in_one_column(tmp_path: Path) -> None:
    text = (
        'image_id,identity,path,bbox\n0,zebra 3,2.png,"[1.0, 2.0, 3.5, 4.0]"\n'
        '1,zebra 4,1.png,\n2,zebra 3,1.png,"[nan, nan, nan, nan]"\n'
    )
    manifest = opened(tmp_path, text)
    # 2.0 + 4.0 is 6, 1.0 + 3.5 is 4.5, and a half goes to the even number.
    assert boxes_of(manifest) == [("1.png", None), ("1.png", None), ("2.png", (1, 2, 4, 6))]
    assert manifest.extra["box"].tolist() == [b"", b"", b"1,2,4.5,6"]
    assert set(manifest.names("person_name").values()) == {"zebra 3", "zebra 4"}
    assert any("without a box, and so whole: 2 images" in note for note in manifest.notes)
    assert len(opened(tmp_path, text, min_size=4)) == 2
    with pytest.raises(DataError, match=r"bbox is '\[1, 2\]'; it must be \[x, y, w, h\]"):
        opened(tmp_path, 'path,bbox\n1.png,"[1, 2]"\n')


def test_a_table_has_corners_or_sizes_and_any_further_columns(tmp_path: Path) -> None:
    text = (
        "path,x,y,w,h,score,pid,cam\n2.png,1,2,3,4,0.5,7,1\n1.png,0,0,5,5,,8,2\n2.png,0,0,1,1,1,9,1"
    )
    manifest = opened(tmp_path, text)
    # The boxes of a frame one after another, in the order of the file.
    assert boxes_of(manifest) == [
        ("1.png", (0, 0, 5, 5)),
        ("2.png", (1, 2, 4, 6)),
        ("2.png", (0, 0, 1, 1)),
    ]
    assert manifest.person_id.tolist() == [8, 7, 9]
    assert manifest.camera_id.tolist() == [2, 1, 1]
    assert manifest.extra["score"].tolist() == [b"", b"0.5", b"1"]
    assert manifest.extra["box"].tolist()[1] == b"1,2,4,6"
    assert any("3 boxes in 2 frames" in note for note in manifest.notes)
    same = opened(tmp_path, "image;xmin;ymin;xmax;ymax\n1.png;1;2;4;6\n")
    assert boxes_of(same) == [("1.png", (1, 2, 4, 6))]


@pytest.mark.parametrize(
    ("box", "asked", "expected"),
    [
        ("0.5,1.5,2.5,3.5", {}, (0, 2, 2, 4)),  # half to even
        ("-0.5,-1.5,0.49,0.51", {}, (0, -2, 0, 1)),
        ("1,1,5,9", {"origin": 1}, (0, 0, 4, 8)),
        ("10,10,20,30", {"margin": 0.1}, (9, 8, 21, 32)),
        ("10,10,20,30", {"aspect": 1.0}, (5, 10, 25, 30)),
        ("0,0,40,10", {"aspect": 0.5}, (18, 0, 22, 10)),  # made narrower, too
        ("10,10,20,30", {"aspect": 1.0, "margin": 0.1}, (3, 8, 27, 32)),  # in this order
    ],
)
def test_the_rule_of_cropping(
    tmp_path: Path, box: str, asked: dict[str, float], expected: tuple[int, ...]
) -> None:
    manifest = opened(tmp_path, f"path,x1,y1,x2,y2\n1.png,{box}\n", **asked)
    assert boxes_of(manifest) == [("1.png", expected)]


def test_what_is_cut_is_clipped_and_its_second_corner_exclusive() -> None:
    pixels = np.arange(600, dtype=np.uint16).astype(np.uint8).reshape(10, 20, 3)
    assert np.array_equal(cut(pixels, (2, 3, 5, 7)), pixels[3:7, 2:5])
    assert np.array_equal(cut(pixels, (-5, -5, 500, 500)), pixels)
    for box in ((3, 3, 3, 9), (5, 5, 4, 9), (20, 0, 30, 5), (0, -9, 5, 0)):
        with pytest.raises(ImageError, match="no area inside its frame of 20×10 pixels"):
            cut(pixels, box)


def test_boxes_are_left_out_by_score_size_and_class(tmp_path: Path) -> None:
    text = (
        "path,x,y,w,h,score,class\n1.png,0,0,9,9,0.9,person\n1.png,0,0,9,9,0.3,person\n"
        "1.png,0,0,9,2,0.9,person\n1.png,0,0,9,9,0.9,dog\n1.png,1,1,9,9,,person\n"
    )
    manifest = opened(tmp_path, text, min_score=0.5, min_size=5, classes=("person",))
    assert [box for _, box in boxes_of(manifest)] == [(0, 0, 9, 9), (1, 1, 10, 10)]
    said = "; ".join(manifest.notes)
    for why in ("1 box left out: score below 0.5", "not of person", "less than 5 pixels"):
        assert why in said
    with pytest.raises(OptionError, match="no such box; there are dog, person"):
        opened(tmp_path, text, classes=("cat",))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("path,x,y,w\n1.png,1,1,1\n", "columns path and x, y, w, h or x1, y1, x2, y2 or bbox are"),
        ("path,x,y,w,h\n1.png,1,1,a,1\n", r"boxes\.csv, line 2: w is 'a'; it must be a number"),
        ("path,x,y,w,h\n1.png,nan,1,1,1\n", "line 2: x is 'nan'"),
        ("path,x,y,w,h\n1.png,1e12,1,1,1\n", "line 2: a box .* is of no picture"),
        ("1.png,1,1,1,1\n", "a header is wanted"),
        ("path,x,y,width,height,w,h\n1.png,1,1,1,1,9,9\n", "line 1: w and width could be w; ren"),
        ("path,x,y,w,h,conf,score\n1.png,1,1,1,1,1,1\n", "line 1: score and conf could be score"),
    ],
)
def test_what_is_no_table_of_boxes_is_named(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(DataError, match=why):
        opened(tmp_path, text)


def sequence(root: Path, name: str) -> Path:
    folder = root / name
    frame(folder / "img1/000001.jpg")
    frame(folder / "img1/000002.jpg")
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={name}\nimDir=img1\nframeRate=25\nseqLength=2\nimExt=.jpg\n"
    )
    return folder


def test_motchallenge_is_found_by_itself(tmp_path: Path) -> None:
    for name in ("MOT-02", "MOT-04"):
        folder = sequence(tmp_path, name)
        (folder / "gt").mkdir()
        (folder / "gt/gt.txt").write_text(
            "1,3,1,2,3,4,1,1,0.9\n2,3,2,2,3,4,1,1,1\n2,5,2,2,3,4,0,8,1\n"
        )
        (folder / "det").mkdir()
        (folder / "det/det.txt").write_text("2,-1,1.5,2,3,4,0.75,-1,-1,-1\n")
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "motchallenge"
    assert boxes_of(manifest)[:2] == [
        ("MOT-02/img1/000001.jpg", (1, 2, 4, 6)),
        ("MOT-02/img1/000002.jpg", (2, 2, 5, 6)),
    ]
    names = {"MOT-02_3": 2, "MOT-04_3": 2}
    persons = manifest.extra["person_name"].tolist()
    assert {name: persons.count(name.encode()) for name in names} == names
    assert manifest.extra["tracklet"].tolist() == persons
    assert manifest.extra["camera_name"].tolist()[0] == b"MOT-02"
    assert manifest.extra["time"].tolist()[:2] == [b"0", b"0.04"]
    found = open_data(str(tmp_path), boxes=BoxRequest(file="det/det.txt"))
    assert found.extra["score"].tolist() == [b"0.75"] * 2
    assert "person_name" not in found.extra
    alone = open_data(str(tmp_path / "MOT-04"))
    assert boxes_of(alone)[0] == ("img1/000001.jpg", (1, 2, 4, 6))
    (tmp_path / "MOT-02/gt/gt.txt").write_text("1,3,1,2\n")
    with pytest.raises(DataError, match=r"gt\.txt, line 1: frame, id, x, y, w, h are wanted"):
        open_data(str(tmp_path))


def test_a_sequence_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    folder = sequence(tmp_path, "MOT").rename(tmp_path / os.fsdecode(b"s\xe9q"))
    (folder / "gt").mkdir()
    (folder / "gt/gt.txt").write_text("1,3,1,2,3,4,1,1,0.9\n")
    manifest = open_data(str(tmp_path))
    assert manifest.path.tolist() == [b"s\xe9q/img1/000001.jpg#xyxy=1,2,4,6"]
    assert manifest.extra["tracklet"].tolist() == [rb"s\xe9q_3"]
    assert manifest.names("camera_name") == {0: r"s\xe9q"}


def test_a_sequence_of_mot17_is_read_once_and_not_for_each_detector(tmp_path: Path) -> None:
    for place, name in enumerate(
        ("MOT17-02-DPM", "MOT17-02-FRCNN", "MOT17-02-SDP", "MOT17-04-SDP")
    ):
        for kind in ("gt", "det"):
            (sequence(tmp_path, name) / kind).mkdir()
        (tmp_path / name / "gt/gt.txt").write_text("1,3,1,2,3,4,1,1,0.9\n")
        (tmp_path / name / "det/det.txt").write_text(f"1,-1,{place},2,3,4,0.75,-1,-1,-1\n")
    manifest = open_data(str(tmp_path))
    assert [frame.split("/")[0] for frame, _ in boxes_of(manifest)] == [
        *("MOT17-02-DPM", "MOT17-04-SDP"),
    ]
    assert any(note.endswith(": MOT17-02-FRCNN, MOT17-02-SDP") for note in manifest.notes)
    # Each detector's boxes are its own.
    assert len(open_data(str(tmp_path), boxes=BoxRequest(file="det/det.txt"))) == 4


def test_coco_with_its_images_and_as_a_list_of_detections(tmp_path: Path) -> None:
    frame(tmp_path / "frames/000007.png")
    file = tmp_path / "coco.json"
    entry = {"image_id": 7, "bbox": [1, 2, 3, 4], "category_id": 1, "score": 0.25, "track_id": 4}
    images = [{"id": 7, "file_name": "000007.png"}]
    content = {
        "images": images,
        "annotations": [entry],
        "categories": [{"id": 1, "name": "person"}],
    }
    for what in (content, [entry]):
        file.write_text(json.dumps(what))
        manifest = open_data(str(tmp_path / "frames"), boxes=BoxRequest(file=str(file)))
        assert boxes_of(manifest) == [("000007.png", (1, 2, 4, 6))]
        assert manifest.extra["score"].tolist() == [b"0.25"]
        assert manifest.extra["tracklet"].tolist() == [b"4"]
        assert manifest.extra["class"].tolist() == [b"person" if what is content else b"1"]
    wrongs: list[object] = [
        {"images": []},
        {**content, "images": [*images, {"id": 7, "file_name": "8.png"}]},
        [{"image_id": 8, "bbox": [1, 2, 3, 4]}],
        [{"bbox": 1}],
        [3],
        [entry, {"image_id": 7, "bbox": [1, 2, 3]}],
        [entry, {"image_id": 7, "bbox": None}],
    ]
    for wrong in wrongs:
        file.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=r"coco\.json") as error:
            open_data(str(tmp_path / "frames"), boxes=BoxRequest(file=str(file)))
        if isinstance(wrong, list) and len(wrong) == 2:
            assert "annotation 1: bbox is" in str(error.value)
        if isinstance(wrong, dict) and wrong["images"]:
            assert "image 7 is 000007.png and 8.png; give each" in str(error.value)


def test_annotations_of_coco_may_have_any_further_keys(tmp_path: Path) -> None:
    frame(tmp_path / "frames/7.png")
    words = {"category": "person", "place": "hall", "corners": "round", "frame": "x"}
    entry = {"image_id": 7, "bbox": [1, 2, 3, 4], "score": None, **words}
    entry |= {"path": "other.png", "class": "a", "category_id": 3}
    (tmp_path / "coco.json").write_text(json.dumps([entry]))
    boxes = BoxRequest(file=str(tmp_path / "coco.json"))
    manifest = open_data(str(tmp_path / "frames"), boxes=boxes)
    assert "score" not in manifest.extra
    assert manifest.path.tolist() == [b"7.png#xyxy=1,2,4,6"]
    own = ("path_in_table", "class_in_table", "class")
    assert [manifest.extra[name].tolist() for name in own] == [[b"other.png"], [b"a"], [b"3"]]
    assert {name: manifest.extra[name].tolist() for name in words} == {
        name: [word.encode()] for name, word in words.items()
    }


def test_cocos_boxes_of_crowds_are_left_out_which_is_said(tmp_path: Path) -> None:
    frame(tmp_path / "frames/a.png")
    one = {"image_id": 1, "bbox": [1, 2, 3, 4]}
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{**one, "iscrowd": 1}, {**one, "bbox": [2, 2, 3, 4], "iscrowd": 0}, one],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    boxes = BoxRequest(file=str(tmp_path / "coco.json"))
    manifest = open_data(str(tmp_path / "frames"), boxes=boxes)
    assert boxes_of(manifest) == [("a.png", (2, 2, 5, 6)), ("a.png", (1, 2, 4, 6))]
    assert "1 box left out: of crowds (iscrowd)" in manifest.notes


def test_boxes_of_a_name_that_two_frames_have_are_refused(tmp_path: Path) -> None:
    for camera in ("cam1", "cam2"):
        frame(tmp_path / f"frames/{camera}/000001.png", 20, 10)
    file = tmp_path / "found.json"
    file.write_text(json.dumps([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]))
    with pytest.raises(DataError, match=r"annotation 0: image 1 may be cam1/000001\.png or cam2/"):
        open_data(str(tmp_path / "frames"), boxes=BoxRequest(file=str(file)))
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "000001.txt").write_text("0 0.5 0.5 0.5 0.4\n")
    with pytest.raises(DataError, match=r"000001\.txt: of cam1/000001\.png, or of cam2/000001"):
        open_data(str(tmp_path / "frames"), boxes=BoxRequest(file=str(labels)))
    for camera in ("cam1", "cam2"):
        (labels / camera).mkdir()
        (labels / f"{camera}/000001.txt").write_text("0 0.5 0.5 0.5 0.4\n")
    manifest = open_data(str(tmp_path / "frames"), boxes=BoxRequest(file=str(labels)))
    assert [path for path, _ in boxes_of(manifest)] == ["cam1/000001.png", "cam2/000001.png"]


def test_yolo_is_told_in_shares_of_the_frame(tmp_path: Path) -> None:
    frame(tmp_path / "frames/a.png", 20, 10)
    frame(tmp_path / "frames/b.png", 20, 10)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.4\n2 0.25 0.5 0.1 0.2 0.75 6\n")
    boxes = BoxRequest(file=str(tmp_path / "labels"))
    manifest = open_data(str(tmp_path / "frames"), boxes=boxes)
    assert boxes_of(manifest) == [("a.png", (5, 3, 15, 7)), ("a.png", (4, 4, 6, 6))]
    assert manifest.extra["class"].tolist() == [b"0", b"2"]
    assert manifest.extra["tracklet"].tolist() == [b"", b"6"]
    assert any("1 frame without a text file" in note for note in manifest.notes)


def test_a_text_file_of_boxes_that_is_no_text_is_named(tmp_path: Path) -> None:
    frame(tmp_path / "data/1.png")
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes/1.txt").write_bytes(b"0 0.5 0.5 0.5 \xff\xfe\n")
    with pytest.raises(DataError, match=r"1\.txt, line 1: box is .* it must be a number"):
        open_data(str(tmp_path / "data"), boxes=BoxRequest(file=str(tmp_path / "boxes")))


def test_options_of_boxes_that_cannot_be_meant() -> None:
    for wrong in (
        BoxRequest(origin=2),
        BoxRequest(margin=-0.5),
        BoxRequest(aspect=0.0),
        BoxRequest(min_size=-1),
        BoxRequest(min_score=math.nan),
    ):
        with pytest.raises(OptionError, match="--"):
            wrong.check()


def test_boxes_are_asked_of_frames_alone(tmp_path: Path) -> None:
    frame(tmp_path / "1.png")
    with pytest.raises(OptionError, match="--boxes and what belongs to it: --layout folder"):
        open_data(str(tmp_path), boxes=BoxRequest(margin=0.5))


def test_a_box_is_read_as_the_png_of_its_pixels(tmp_path: Path) -> None:
    file = frame(tmp_path / "1.png")
    whole = decode(file.read_bytes())
    assert np.array_equal(decode(read(Path(f"{file}#xyxy=2,3,50,7"))), whole[3:7, 2:])
    with pytest.raises(FileNotFoundError):
        read(Path(f"{tmp_path}/2.png#xyxy=0,0,1,1"))


def test_batches_end_between_frames() -> None:
    frames = [0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 3, 3, 4]
    path = np.array([f"{f}.jpg#xyxy=0,0,1,{i}".encode() for i, f in enumerate(frames)])
    starts = frame_starts(path)
    batches = ShardBatches(plan_shards(len(frames), 100), 4, starts)
    assert [*batches] == [range(3), range(3, 6), range(6, 10), range(10, 13)]
    assert len(batches) == 4
    # Frames that fill a batch together stay together.
    pairs = frame_starts(np.array([f"{i // 2}.jpg#xyxy=0,0,1,1".encode() for i in range(6)]))
    assert [*ShardBatches(plan_shards(6, 100), 4, pairs)] == [range(4), range(4, 6)]
    # A shard's end is one whatever its frame is.
    shards = ShardBatches(plan_shards(len(frames), 2), 4, starts)
    assert [*shards][:2] == [range(2), range(2, 4)]
    assert frame_starts(np.array([b"1.jpg", b"2.jpg"])) is None


def test_boxes_in_their_order_are_views_and_one_alone_does_not_keep_its_frame(
    tmp_path: Path,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 40, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "f.png")
    boxes = [tmp_path / f"f.png#xyxy={corners}" for corners in ("3,4,20,30", "-5,0,40,9")]
    load = Preprocess().loader()
    first, second = map(load, boxes)
    assert first.base is not None and first.base is second.base
    assert np.array_equal(second, pixels[:9])
    alone = Preprocess().load(boxes[0])
    assert alone.base is None
    assert np.array_equal(alone, pixels[4:30, 3:20])


def test_boxes_of_no_track_are_no_tracklet(tmp_path: Path) -> None:
    frame(tmp_path / "frames/a.png", 20, 10)
    (tmp_path / "labels").mkdir()
    lines = ["0 0.5 0.5 0.5 0.4 0.9 3", "0 0.5 0.5 0.5 0.4 0.9 3", "0 0.25 0.5 0.1 0.2"]
    (tmp_path / "labels/a.txt").write_text("\n".join(lines) + "\n")
    boxes = BoxRequest(file=str(tmp_path / "labels"))
    manifest = open_data(str(tmp_path / "frames"), boxes=boxes)
    assert describe(manifest)[0] == "images: 3 in 1 tracklet and 1 of none"

"""CUHK-SYSU and PRW as they are distributed: queries and true boxes, with detections beside them.

Rows of the split gallery with a score are detections, those without one the true boxes.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distreid.data.box_files import read_boxes
from distreid.data.box_request import BoxRequest, Corners
from distreid.data.found_boxes import FoundBoxes
from distreid.data.frame_boxes import chosen_boxes, manifest_of_boxes
from distreid.data.gallery_frames import MAT_FOLDER, read_structs, read_test_list
from distreid.data.image_files import LayoutRequest, lines, need, whole
from distreid.data.manifest import GALLERY, QUERY, Manifest
from distreid.data.mat_arrays import read_mat
from distreid.errors import DataError

PRW_ARRAYS = ("box_new", "anno_file", "anno_previous")  # of an annotation, the first that is there
PRW_CAMERA = re.compile(r"c(\d)s\d_\d+")
PRW_NOBODY = -2
TEST_LIST = "TestG50"  # its order numbers CUHK-SYSU's persons, whatever the size of the gallery


def prw(root: Path, asked: LayoutRequest) -> Manifest:
    """`query_info.txt`, and the true boxes in `annotations/` of the frames in `frame_test.mat`, or
    of all. Boxes are cut to whole numbers, as the projects do; person -2 is nobody known."""
    need(root, "frames/", asked.layout)
    found = FoundBoxes()
    for where, line in lines(need(root, "query_info.txt", asked.layout)):
        person, *box, name = line.split()
        if len(box) != 4:
            raise DataError(f"{where}: person, x, y, w, h, frame are wanted; mend the line")
        camera = _prw_camera(name, where)
        corners = _corners([_float(value, where) for value in box])
        whole(person, where, "person")
        found.add(where, _prw_frame(name), corners, split=QUERY, person=person, camera=camera)
    for name in _prw_test_frames(root):
        file = need(root, f"annotations/{name}.jpg.mat", asked.layout)
        arrays = read_mat(file)
        array = next((arrays[each] for each in PRW_ARRAYS if each in arrays), None)
        if array is None or array.ndim != 2 or array.shape[1] != 5:
            raise DataError(f"{file}: no {PRW_ARRAYS[0]} of person, x, y, w, h; check it")
        for row in np.asarray(array, np.float64).tolist():
            person = "" if row[0] == PRW_NOBODY else str(int(row[0]))
            camera = _prw_camera(name, str(file))
            frame, corners = _prw_frame(name), _corners(row[1:])
            found.add(str(file), frame, corners, split=GALLERY, person=person, camera=camera)
    _add_detections(found, root, asked.boxes, _prw_frame, lambda name: _prw_camera(name, name))
    return _finished(found, root, asked)


def cuhk_sysu(root: Path, asked: LayoutRequest) -> Manifest:
    """The queries of `TestG50.mat`, and the true boxes that `Images.mat` has in the frames of
    `pool.mat`. A person's number is the place of the query in TestG50, from 1; all others are
    nobody known. There are no cameras."""
    need(root, "Image/SSM/", asked.layout)
    entries = read_test_list(need(root, f"{MAT_FOLDER}/{TEST_LIST}.mat", asked.layout), TEST_LIST)
    found = FoundBoxes()
    person_of: dict[tuple[str, Corners], int] = {}
    for number, entry in enumerate(entries, start=1):
        name, box = entry["query"]
        if box is None:
            raise DataError(f"{root}: query {number} of {TEST_LIST} has no box")
        corners = _corners(box)
        place = f"{TEST_LIST}, query {number}"
        found.add(place, _ssm(name), corners, split=QUERY, person=str(number))
        shown = [(name, corners)] + [(n, _corners(b)) for n, b in entry["gallery"] if b]
        person_of |= dict.fromkeys(shown, number)
    file = need(root, "annotation/pool.mat", asked.layout)
    pool = {str(name.ravel()[0]) for name in read_structs(file, "pool")}
    file = need(root, "annotation/Images.mat", asked.layout)
    for name, corners in _cuhk_boxes(file):
        if name in pool:
            person = str(person_of.get((name, corners), ""))
            found.add(f"{file}, {name}", _ssm(name), corners, split=GALLERY, person=person)
    _add_detections(found, root, asked.boxes, _ssm, lambda name: "")
    return _finished(found, root, asked)


def _finished(found: FoundBoxes, root: Path, asked: LayoutRequest) -> Manifest:
    if not any(found.columns.get("camera", ())):
        found.columns.pop("camera", None)
    request = replace(asked.boxes, min_score=None, min_size=None, classes=())
    return manifest_of_boxes(found, root, asked.layout, replace(asked, boxes=request))


def _add_detections(
    found: FoundBoxes, root: Path, request: BoxRequest, frame_of: Any, camera_of: Any
) -> None:
    if request.file is None:
        found.notes.append("no detections: give --boxes FILE, or the true boxes are taken for them")
        return
    detections = read_boxes(Path(request.file), root)
    kept, notes = chosen_boxes(detections, request)
    found.notes += [*detections.notes, *notes]
    for i in kept:
        score = detections.score[i]
        if np.isnan(score):
            raise DataError(f"{detections.places[i]}: a detection needs a score; add the column")
        name = Path(detections.frame[i]).name
        found.add(
            detections.places[i],
            frame_of(name),
            detections.corners[i],
            score,
            split=GALLERY,
            camera=camera_of(name),
        )
    found.notes.append(f"{len(kept):,} detections")


def _prw_test_frames(root: Path) -> list[str]:
    file = root / "frame_test.mat"
    if file.is_file():
        return [_without_ending(str(n.ravel()[0])) for n in read_structs(file, "img_index_test")]
    annotations = sorted((root / "annotations").iterdir())
    return [each.name.removesuffix(".jpg.mat") for each in annotations if each.suffix == ".mat"]


def _prw_frame(name: str) -> str:
    return f"frames/{_without_ending(name)}.jpg"


def _without_ending(name: str) -> str:
    return name.removesuffix(".jpg")


def _prw_camera(name: str, where: str) -> str:
    match = PRW_CAMERA.match(name)
    if match is None:
        raise DataError(f"{where}: {name!r} is not named like c1s1_000151")
    return match[1]


def _ssm(name: str) -> str:
    return f"Image/SSM/{name}"


def _cuhk_boxes(file: Path) -> list[tuple[str, Corners]]:
    found = []
    try:
        for image in read_structs(file, "Img"):
            name = str(image["imname"].ravel()[0])
            for each in image["box"].ravel():
                box = each["idlocate"].ravel().tolist()
                if len(box) == 4 and box[2] > 0 and box[3] > 0:
                    found.append((name, _corners(box)))
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise DataError(f"{file}: not arranged as CUHK-SYSU's own ({error})") from error
    return found


def _corners(box: Any) -> Corners:
    """Of x, y, w, h, cut to whole numbers."""
    x, y, w, h = (float(int(value)) for value in box)
    return x, y, x + w, y + h


def _float(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{where}: {text!r} is no number; mend the line") from error

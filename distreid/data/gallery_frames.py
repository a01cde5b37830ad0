"""Person search with a gallery of its own for each query: in which frames it is sought.

TestG50.txt     a line for each query: its person, then the names of its frames
TestG50.mat     as CUHK-SYSU distributes it, in annotation/test/train_test/
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

from distreid.data.image_files import lines
from distreid.errors import DataError

MAT_FOLDER = "annotation/test/train_test"


def gallery_frames(root: Path, name: str) -> dict[int, list[bytes]]:
    """Person → the names of its frames without their folders. DataError if the list is not there,
    or is damaged."""
    places = [root / f"{name}.txt", root / f"{name}.mat", root / MAT_FOLDER / f"{name}.mat"]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise DataError(
            f"{root}: neither {name}.txt nor {MAT_FOLDER}/{name}.mat, which tells the frames of "
            "each query"
        )
    if file.suffix == ".mat":
        return {
            number: [os.fsencode(frame) for frame, _ in entry["gallery"]]
            for number, entry in enumerate(read_test_list(file, name), start=1)
        }
    found: dict[int, list[bytes]] = {}
    for where, line in lines(file):
        person, *frames = line.split()
        if not re.fullmatch(r"\d{1,18}", person) or not frames:
            raise DataError(f"{where}: a person and its frames are wanted; mend the line")
        if int(person) in found:
            raise DataError(f"{where}: a second line for person {person}; leave one")
        found[int(person)] = [os.fsencode(os.path.basename(frame)) for frame in frames]
    return found


def read_test_list(file: Path, name: str) -> list[dict[str, Any]]:
    """CUHK-SYSU's list, a query each: `query`, its frame and box (x, y, w, h), and `gallery`,
    frames each with the box of the person in it, or None. The person is the query's place, from
    1."""
    content = read_structs(file, name)
    found = []
    try:
        for item in content:
            query = item["Query"].ravel()[0]
            gallery = [
                (_text(each["imname"]), _box(each["idlocate"])) for each in item["Gallery"].ravel()
            ]
            box = _box(query["idlocate"])
            found.append({"query": (_text(query["imname"]), box), "gallery": gallery})
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise DataError(f"{file}: not arranged as CUHK-SYSU's own ({error})") from error
    return found


def read_structs(file: Path, name: str) -> Any:
    """An array of structs of a .mat file, one after another; DataError if it has none."""
    import scipy.io

    try:
        return scipy.io.loadmat(io.BytesIO(file.read_bytes()))[name].ravel()
    except Exception as error:  # damaged files raise nearly anything
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{file}: no MATLAB file with {name} ({reason})") from error


def _text(value: Any) -> str:
    return str(value.ravel()[0])


def _box(value: Any) -> tuple[float, float, float, float] | None:
    numbers = value.ravel().tolist()
    if not numbers:
        return None
    x, y, w, h = map(float, numbers)
    return x, y, w, h

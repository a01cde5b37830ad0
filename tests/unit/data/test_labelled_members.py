"""WebDataset's tars, Parquet and Arrow: the images, and what is told beside them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from distreid.data.archives import read_member
from distreid.data.locators import locate
from distreid.data.manifest import NO_PERSON, Manifest
from distreid.data.source import open_data
from distreid.errors import DataError, ImageError

arrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")
JPEG = b"\xff\xd8\xff a picture "


def shard(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def bytes_of(manifest: Manifest, row: int) -> bytes:
    place = locate(manifest.file(row))
    return read_member(place.file, place.member or "", 1 << 20)


def record(**values: object) -> bytes:
    return json.dumps(values).encode()


def test_a_json_beside_each_image_is_a_row_of_a_table(tmp_path: Path) -> None:
    shard(
        tmp_path / "s-0.tar",
        {
            "b.json": record(pid="cow_17", camid=1, split="query", box=[1, 2], shop="north"),
            "b.jpg": JPEG + b"b",
            "a.jpg": JPEG + b"a",
            "a.json": record(pid="cow_18", camid=2, split="gallery", sun=True),
        },
    )
    shard(tmp_path / "s-1.tar", {"dir/a.b.jpg": JPEG + b"c", "dir/a.json": record(pid="cow_17")})
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "webdataset"
    # In the archives' order, which a pass over them has.
    assert manifest.path.tolist() == [b"s-0.tar#/b.jpg", b"s-0.tar#/a.jpg", b"s-1.tar#/dir/a.b.jpg"]
    assert manifest.extra["person_name"].tolist() == [b"cow_17", b"cow_18", b"cow_17"]
    assert manifest.camera_id.tolist() == [1, 2, -1]
    assert manifest.split.tolist() == [b"query", b"gallery", b""]
    assert manifest.extra["shop"].tolist() == [b"north", b"", b""]
    assert "box" not in manifest.extra
    assert [bytes_of(manifest, row)[-1:] for row in range(3)] == [b"b", b"a", b"c"]


def test_a_cls_is_the_person_unless_a_json_tells_one(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    shard(file, {"1.jpg": JPEG, "1.cls": b"7", "2.jpg": JPEG, "2.cls": b"9\n"})
    assert open_data(str(file)).person_id.tolist() == [7, 9]
    shard(file, {"1.jpg": JPEG, "1.cls": b"7", "1.json": record(who=3, id=4)})
    manifest = open_data(str(file), columns={"person_id": "who"})
    assert manifest.person_id.tolist() == [3] and manifest.extra["cls"].tolist() == [b"7"]


@pytest.mark.parametrize("ending", ["meta.json", "JSON"])
def test_labels_beside_an_image_are_read_however_they_end(ending: str, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    labels = {f"{key}.{ending}": record(pid=int(key) + 4) for key in ("1", "2")}
    shard(file, {"1.image.jpg": JPEG, "2.image.jpg": JPEG, "3.jpg": JPEG, **labels})
    manifest = open_data(str(file))
    assert manifest.layout == "webdataset"
    assert manifest.person_id.tolist() == [5, 6, NO_PERSON]
    assert "1 image without a .json or a .cls: nothing is told of them" in manifest.notes
    shard(file, {"1.jpg": JPEG, "1.json": record(pid=1), f"1.a.{ending}": record(pid=2)})
    with pytest.raises(DataError, match=r"x\.tar.*: 1\..* and 1\..* are labels of one image"):
        open_data(str(file))


def test_a_mask_beside_the_image_of_a_sample_is_no_row(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    masks = {"d/0.mask.png": JPEG, "d/0.depth.png": JPEG, "d/9.mask.png": JPEG, "d/9.jpg": JPEG}
    shard(file, {"d/0.jpg": JPEG, "d/0.json": record(pid=1), **masks})
    manifest = open_data(str(file))
    assert manifest.path.tolist() == [b"d/0.jpg", b"d/9.mask.png", b"d/9.jpg"]
    said = "2 images left out that lie beside that of a sample (first: d/0.depth.png)"
    assert said in manifest.notes
    shard(file, {"0.left.jpg": JPEG, "0.right.jpg": JPEG, "0.json": record(pid=1)})
    manifest = open_data(str(file))
    assert manifest.person_id.tolist() == [1, 1]
    assert "1 sample with several images: each is a row (first: 0)" in manifest.notes


@pytest.mark.parametrize(("name", "data"), [("1.json", b"{"), ("1.json", b"[1]"), ("1.cls", b"x")])
def test_labels_that_are_none_are_named(tmp_path: Path, name: str, data: bytes) -> None:
    shard(tmp_path / "x.tar", {"1.jpg": JPEG, name: data})
    with pytest.raises(DataError, match=rf"x\.tar#/{name}: no (labels|record)"):
        open_data(str(tmp_path / "x.tar"))


def write(file: Path, columns: dict[str, object]) -> None:
    table = arrow.table(columns)
    if file.suffix == ".parquet":
        parquet.write_table(table, file, row_group_size=2)
    else:
        new = arrow.ipc.new_stream if file.stem == "stream" else arrow.ipc.new_file
        with arrow.OSFile(str(file), "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)


@pytest.mark.parametrize("name", ["x.parquet", "stream.arrow", "file.arrow"])
@pytest.mark.parametrize("plain", [False, True])
def test_a_column_of_images_is_read_with_the_others(tmp_path: Path, name: str, plain: bool) -> None:
    pictures = [JPEG + bytes([65 + row]) for row in range(5)]
    images = pictures if plain else [{"bytes": p, "path": f"{p[-1]}.jpg"} for p in pictures]
    write(
        tmp_path / name,
        {
            "pid": [1, 2, 1, 3, None],
            "image": images,
            "file_name": [f"{row}.jpg" for row in range(5)],
            "list": [[1]] * 5,
        },
    )
    manifest = open_data(str(tmp_path / name))
    assert manifest.layout == "image_column"
    assert manifest.path.tolist() == [f"image/{row:08d}".encode() for row in range(5)]
    assert manifest.person_id.tolist() == [1, 2, 1, 3, -2]
    assert manifest.extra["file_name_in_archive"].tolist()[0] == b"0.jpg"
    assert [bytes_of(manifest, row) for row in (4, 0, 3)] == [pictures[n] for n in (4, 0, 3)]
    assert any("no single values: list" in note for note in manifest.notes)


def test_several_files_and_rows_without_bytes(tmp_path: Path) -> None:
    for number in range(2):
        rows = [{"bytes": JPEG, "path": None}, {"bytes": None, "path": "gone.jpg"}]
        write(tmp_path / f"train-{number}.parquet", {"image": rows, "label": [number, number]})
    manifest = open_data(str(tmp_path))
    assert manifest.path.tolist()[2] == b"train-1.parquet#/image/00000000"
    assert manifest.person_id.tolist() == [0, 0, 1, 1]
    with pytest.raises(ImageError, match="the row holds no bytes"):
        bytes_of(manifest, 3)


def test_a_table_in_parquet_is_a_table_as_before(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    write(file, {"path": ["1.jpg"], "pid": [5], "feature": [[0.5]]})
    manifest = open_data(str(file))
    assert (manifest.layout, manifest.path.tolist()) == ("csv", [b"1.jpg"])
    with pytest.raises(DataError, match="no column of images"):
        open_data(str(file), "image_column")

"""LMDB databases: which keys are images, their bytes, and what is damaged."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import draw

from distreid.data.archives import list_archive, read_member
from distreid.data.locators import member_of
from distreid.data.source import open_data, own_root
from distreid.errors import DataError, ImageError, OptionError

lmdb: Any = pytest.importorskip("lmdb")
LIMIT = 1 << 20


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    draw(tmp_path / "1.jpg", 1)
    return (tmp_path / "1.jpg").read_bytes()


def database(file: Path, records: dict[bytes, bytes], *, subdir: bool = True) -> Path:
    environment = lmdb.open(str(file), map_size=1 << 24, subdir=subdir)
    with environment.begin(write=True) as writing:
        for key, value in records.items():
            writing.put(key, value)
    environment.close()
    return file


@pytest.mark.parametrize("subdir", [True, False])
def test_keys_are_names_and_others_are_left_out(
    subdir: bool, picture: bytes, tmp_path: Path
) -> None:
    records = {
        b"b/2.jpg": picture + b"2",
        b"a/1.PNG": b"as it is",
        b"image-000000001": picture,
        b"__len__": b"3",
        b"__keys__": b"\x80\x04]\x94.",
        b"label-000000001": b"7",
        b"../up.jpg": picture,
        b"/top.jpg": picture,
    }
    file = database(tmp_path / "x.lmdb", records, subdir=subdir)
    index = list_archive(file)
    names = [b"../up.jpg", b"a/1.PNG", b"b/2.jpg", b"image-000000001.jpg"]
    assert index.names.tolist() == names
    assert index.notes == ("4 keys left out that hold no image's file (first: /top.jpg)",)
    # In any order.
    assert read_member(file, "image-000000001.jpg", LIMIT) == picture
    assert read_member(file, "b/2.jpg", LIMIT) == picture + b"2"
    assert read_member(file, "a/1.PNG", LIMIT) == b"as it is"
    with pytest.raises(FileNotFoundError):
        read_member(file, "c.jpg", LIMIT)
    with pytest.raises(ImageError, match="8 bytes, where 4 are the limit"):
        read_member(file, "a/1.PNG", 4)


def test_a_forked_process_reads_it_too(picture: bytes, tmp_path: Path) -> None:
    file = database(tmp_path / "x.lmdb", {b"1.jpg": picture})
    list_archive(file)
    assert read_member(file, "1.jpg", LIMIT) == picture
    child = os.fork()
    if not child:
        os._exit(int(read_member(file, "1.jpg", LIMIT) != picture))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_its_layout_is_found_inside_and_its_copy_elsewhere(picture: bytes, tmp_path: Path) -> None:
    records = {b"query/7/1.jpg": picture, b"gallery/7/2.jpg": picture + b"2"}
    file = database(tmp_path / "x.lmdb", records)
    manifest = open_data(str(file))
    assert manifest.layout == "split_folders"
    assert manifest.person_id.tolist() == [7, 7]
    (tmp_path / "there").mkdir()
    copy = database(tmp_path / "there/x.lmdb", records)
    for given in (copy, copy.parent):
        assert own_root(manifest.root, given) == member_of(copy)
    assert len(open_data(str(member_of(file, "query")), "folder")) == 1


def test_several_databases_of_a_folder_are_one_data_set(picture: bytes, tmp_path: Path) -> None:
    for name in "ba":
        (tmp_path / "two").mkdir(exist_ok=True)
        database(tmp_path / f"two/{name}.lmdb", {b"1.jpg": picture + name.encode()})
    manifest = open_data(str(tmp_path / "two"))
    assert manifest.path.tolist() == [b"a.lmdb#/1.jpg", b"b.lmdb#/1.jpg"]


def test_what_is_none_or_cut_off_is_one_line(picture: bytes, tmp_path: Path) -> None:
    none = tmp_path / "none.lmdb"
    none.write_bytes(b"x" * 100_000)
    with pytest.raises(DataError, match=r"none.lmdb: no LMDB, or a damaged one"):
        list_archive(none)
    cut = database(
        tmp_path / "cut.lmdb", {f"{n}.jpg".encode(): picture * 20 for n in range(20)}, subdir=False
    )
    os.truncate(cut, cut.stat().st_size // 2)
    with pytest.raises(DataError, match=r"cut.lmdb: it is cut off; copy it again"):
        list_archive(cut)
    empty = database(tmp_path / "empty.lmdb", {b"__len__": b"0"})
    with pytest.raises(DataError, match=r"no image in this archive; check --data; empty\.lmdb: 1"):
        open_data(str(empty))


def test_it_is_read_from_a_disk_and_by_its_library_alone(
    tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"^s3://bucket/x\.lmdb: an LMDB is read from a disk"):
        open_data("s3://bucket/x.lmdb")
    file = database(tmp_path / "x.lmdb", {b"1.jpg": picture})
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(OptionError, match=r"lmdb is not there: pip install 'distreid\[archives\]'"):
        open_data(str(file))

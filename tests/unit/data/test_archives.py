"""Archives read in place: the members that Python's own modules find, and damaged ones."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import random
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from distreid.data.archive_index import kept_indexes, save_indexes
from distreid.data.archive_tree import ArchiveTree, shard_folder
from distreid.data.archives import (
    archives_of,
    check_unchanged,
    list_archive,
    read_member,
    stored_size,
    take_indexes,
)
from distreid.data.locators import Locator, frame_of, kind_of, locate, member_of, with_box
from distreid.data.objects import CHANGED
from distreid.data.source import SAMPLE_FOLDER, open_data, own_root
from distreid.errors import DataError, ImageError, StoreError

LIMIT = 1 << 20
MEMBERS = {
    "a/1.jpg": b"one",
    "a/2.jpg": b"",
    "b.jpg": bytes(range(256)) * 9,
    "a-b/" + "long" * 60 + ".jpg": b"a long name",
    "ümlaut/ß.jpg": b"not ASCII",
}


def write_tar(file: Path, how: int, members: dict[str, bytes] = MEMBERS, mode: str = "w") -> Path:
    with tarfile.open(file, mode, format=how) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


PARTS = ((1, "query"), (2, "bounding_box_test"))


def write_zip(file: Path, method: int, members: dict[str, bytes] = MEMBERS) -> Path:
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file


def content(archive: Path) -> dict[str, bytes]:
    names = [os.fsdecode(name) for name in list_archive(archive).names.tolist()]
    return {name: read_member(archive, name, LIMIT) for name in names}


def notes(archive: Path) -> str:
    return "; ".join(list_archive(archive).notes)


@pytest.mark.parametrize("how", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_members_of_tar_files_are_what_was_written(tmp_path: Path, how: int, ending: str) -> None:
    members = {k: v for k, v in MEMBERS.items() if how != tarfile.USTAR_FORMAT or len(k) < 100}
    packed = ending.partition(".")[2]
    file = write_tar(tmp_path / f"x.{ending}", how, members, f"w:{packed}" if packed else "w")
    assert content(file) == members
    # Also backwards, which a stream must begin anew for.
    for name in reversed(members):
        assert read_member(file, name, LIMIT) == members[name]


def test_a_zstandard_tar_of_several_frames_is_read(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    plain = write_tar(tmp_path / "x.tar", tarfile.GNU_FORMAT).read_bytes()
    file = tmp_path / "x.tar.zst"
    file.write_bytes(b"".join(zstandard.compress(part) for part in (plain[:700], plain[700:])))
    assert content(file) == MEMBERS


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_zip_files_are_what_was_written(tmp_path: Path, method: int) -> None:
    file = write_zip(tmp_path / "x.zip", method)
    assert content(file) == MEMBERS
    file.write_bytes(b"something before" + file.read_bytes())
    assert content(file) == MEMBERS


def test_the_extra_field_of_a_local_header_may_be_longer_than_usual(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("a.jpg")
        info.extra = struct.pack("<HH", 0x7777, 500) + bytes(500)
        archive.writestr(info, b"bytes")
    assert content(file) == {"a.jpg": b"bytes"}


def test_names_are_normal_and_never_followed(tmp_path: Path) -> None:
    members = {"./a.jpg": b"1", "/etc/b.jpg": b"2", "../../c.jpg": b"3", "d//./e.jpg": b"4"}
    expected = {"a.jpg": b"1", "etc/b.jpg": b"2", "../../c.jpg": b"3", "d/e.jpg": b"4"}
    assert content(write_tar(tmp_path / "x.tar", tarfile.GNU_FORMAT, members)) == expected
    assert content(write_zip(tmp_path / "x.zip", zipfile.ZIP_STORED, members)) == expected
    (tmp_path / "outside.jpg").write_bytes(b"not in it")
    with pytest.raises(FileNotFoundError, match=r"has no member \.\./outside\.jpg"):
        read_member(tmp_path / "x.tar", "../outside.jpg", LIMIT)


def test_of_two_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    with tarfile.open(file, "w") as archive:
        for data in (b"first", b"second", b"third"):
            info = tarfile.TarInfo("a.jpg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert content(file) == {"a.jpg": b"third"}
    assert "2 members have the name of a later one, which counts (first: 'a.jpg')" in notes(file)


def test_links_and_devices_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    with tarfile.open(file, "w") as archive:
        for name, kind in (("s.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("a.jpg")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"a"))
    assert content(file) == {"a.jpg": b"a"}
    assert "2 members left out that are links" in notes(file)


def test_a_tar_file_that_was_cut_keeps_what_stands_before(tmp_path: Path) -> None:
    members = {f"{number}.jpg": bytes([number]) * 2000 for number in range(4)}
    file = write_tar(tmp_path / "x.tar", tarfile.GNU_FORMAT, members)
    with file.open("r+b") as stream:
        stream.truncate(3 * (512 + 2048) + 512 + 700)
    assert "cut off in member '3.jpg'" in notes(file)
    assert read_member(file, "2.jpg", LIMIT) == members["2.jpg"]
    with pytest.raises(ImageError, match="cut off within it"):
        read_member(file, "3.jpg", LIMIT)
    with file.open("r+b") as stream:
        stream.truncate(2 * (512 + 2048))
    assert len(list_archive(file)) == 2
    assert "without a tar file's end mark" in notes(file)


def test_a_damaged_header_is_named_by_its_byte(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "x.tar", tarfile.GNU_FORMAT, {"1.jpg": b"1", "2.jpg": b"2"})
    with file.open("r+b") as stream:
        stream.seek(1024 + 3)
        stream.write(b"?")
    with pytest.raises(DataError, match=r"x\.tar: damaged at byte 1,024, after member '1\.jpg'"):
        list_archive(file)


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "zip", "parquet", "arrow"])
@pytest.mark.parametrize("data", [b"", b"nonsense" * 200])
def test_what_is_no_archive_is_one_line(tmp_path: Path, ending: str, data: bytes) -> None:
    file = tmp_path / f"x.{ending}"
    file.write_bytes(data)
    with pytest.raises(DataError, match=rf"x\.{ending}: "):
        open_data(str(file))


def test_a_zip_file_with_backslashes_has_folders(tmp_path: Path) -> None:
    names = [rf"Market\{folder}\0001_c{camera}s1_000151_00.jpg" for camera, folder in PARTS]
    members = dict.fromkeys(names, b"?") | {"Market\\query\\": b""}
    file = write_zip(tmp_path / "x.zip", zipfile.ZIP_DEFLATED, members)
    manifest = open_data(str(file))
    assert manifest.layout == "market1501"
    assert manifest.person_id.tolist() == [1, 1]
    assert content(file) == {name.replace("\\", "/"): b"?" for name in names}
    assert r"names with \ are read with /" in " ".join(manifest.notes)
    slashed = {"a/1.jpg": b"1", r"a\1.jpg": b"2"}
    assert content(write_zip(file, zipfile.ZIP_STORED, slashed)) == slashed


def test_a_compressed_tar_that_was_cut_is_refused(tmp_path: Path) -> None:
    noise = {"a.jpg": random.Random(0).randbytes(30_000)}
    file = write_tar(tmp_path / "x.tar.gz", tarfile.GNU_FORMAT, noise, "w:gz")
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"x\.tar\.gz: .*(cut off|ended)"):
        list_archive(file)


def test_a_zip_file_is_believed_only_as_far_as_it_is_checked(tmp_path: Path) -> None:
    data = b"\xff\xd8\xff" + bytes(5000)
    file = write_zip(tmp_path / "x.zip", zipfile.ZIP_DEFLATED, {"a.jpg": data})
    whole = file.read_bytes()
    central = whole.index(b"PK\x01\x02")

    versions = itertools.count()

    def altered(at: int, new: bytes) -> Path:
        file.write_bytes(whole[:at] + new + whole[at + len(new) :])
        version = next(versions)
        os.utime(file, ns=(version, version))  # another version, however coarse the clock is
        return file

    for at, new, why in (
        (central + 16, b"\0\0\0\0", "checksum is wrong"),
        (central + 24, struct.pack("<I", 4000), "more bytes than the 4,000 that its archive"),
        (central + 24, struct.pack("<I", 6000), "5,003 bytes, where its archive declares 6,000"),
        (central + 24, struct.pack("<I", LIMIT + 1), "1,048,577 bytes, where 1,048,576 are"),
        (central + 10, struct.pack("<H", 12), "compressed by method 12"),
        (central + 42, struct.pack("<I", 7), "damaged: no member begins at byte 7"),
        (30 + len("a.jpg"), b"\xff" * 9, "its archive is damaged"),
    ):
        with pytest.raises(ImageError, match=why):
            content(altered(at, new))
    with pytest.raises(DataError, match=r"damaged: b'a\.jpg' of .* at 2,147,483,648"):
        list_archive(altered(central + 42, struct.pack("<I", 1 << 31)))
    with pytest.raises(DataError, match="encrypted; unpack it"):
        list_archive(altered(central + 8, b"\1\0"))
    file.write_bytes(whole[:-30])
    with pytest.raises(DataError, match="no zip file, or cut off"):
        list_archive(file)


def test_an_archive_that_changes_is_refused_by_name(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "x.tar", tarfile.GNU_FORMAT)
    save_indexes(tmp_path, {file: list_archive(file)})
    manifest = open_data(str(file))
    check_unchanged(tmp_path, manifest)
    write_tar(file, tarfile.GNU_FORMAT, {"b.jpg": b"another"})
    os.utime(file, ns=(7, 7))
    with pytest.raises(ImageError) as refused:
        read_member(file, "b.jpg", LIMIT)
    assert str(refused.value) == CHANGED
    list_archive(file)
    with pytest.raises(StoreError, match=r"x\.tar: changed since .* was begun"):
        check_unchanged(tmp_path, manifest)
    # What a run knows is held against the archive, too.
    take_indexes(tmp_path)
    with pytest.raises(ImageError, match="changed after it was listed"):
        read_member(file, "b.jpg", LIMIT)


def test_indexes_are_kept_and_a_damaged_file_of_them_is_one_line(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "x.zip", zipfile.ZIP_DEFLATED)
    index = list_archive(file)
    save_indexes(tmp_path, {file: index})
    kept = kept_indexes(tmp_path)[file]
    assert kept.stamp == index.stamp and kept.names.tolist() == index.names.tolist()
    assert np.array_equal(kept.places, index.places)
    (tmp_path / "archives.npz").write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match=r"archives\.npz: damaged .* delete it"):
        kept_indexes(tmp_path)
    assert kept_indexes(tmp_path / "nothing") == {}


def test_an_archive_is_a_folder_to_the_layouts(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "x.zip", zipfile.ZIP_STORED)
    root = ArchiveTree(member_of(file))
    assert [child.name for child in root.iterdir()] == ["a", "a-b", "b.jpg", "ümlaut"] or [
        child.name for child in root.iterdir()
    ] == ["a-b", "a", "b.jpg", "ümlaut"]
    assert [child.name for child in (root / "a").iterdir()] == ["1.jpg", "2.jpg"]
    assert (root / "a").is_dir() and not (root / "a").is_file()
    assert (root / "b.jpg").is_file() and not (root / "b").exists()
    assert (root / "a" / "1.jpg").read_bytes() == b"one"
    assert (root / "a" / "1.jpg").read_text() == "one"
    assert sorted(folder.name for folder in root.folders()) == ["a", "a-b", "ümlaut"]


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("inside", ["", "Market/"])
def test_a_layout_is_found_inside_with_the_rows_of_its_folder(
    tmp_path: Path, ending: str, inside: str
) -> None:
    folder = tmp_path / "files" / inside
    for part in ("query", "bounding_box_test"):
        (folder / part).mkdir(parents=True)
        for file in sorted((SAMPLE_FOLDER / part).iterdir())[:12]:
            shutil.copy(file, folder / part)
    kind = {"tar": "tar", "tar.gz": "gztar", "zip": "zip"}[ending]
    made = shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "files")
    ours, theirs = open_data(made), open_data(str(folder))
    assert ours.layout == "market1501"
    key = np.argsort(ours.path, kind="stable"), np.argsort(theirs.path, kind="stable")
    assert ours.take(key[0]).fingerprint() == theirs.take(key[1]).fingerprint()
    if ending != "tar.gz":
        assert ours.fingerprint() == theirs.fingerprint()
    else:
        assert any("compressed as a whole" in note for note in ours.notes)
    for row in range(len(ours)):
        place = locate(ours.file(row))
        file = folder / os.fsdecode(ours.path[row])
        assert read_member(place.file, place.member or "", LIMIT) == file.read_bytes()
        assert stored_size(ours.file(row)) == file.stat().st_size


def test_rows_of_a_compressed_tar_lie_in_its_order(tmp_path: Path) -> None:
    names = [f"{number}/x.jpg" for number in (3, 1, 2)]
    members = {name: name.encode() for name in names}
    file = write_tar(tmp_path / "x.tar.gz", tarfile.GNU_FORMAT, members, "w:gz")
    manifest = open_data(str(file))
    assert [os.fsdecode(path) for path in manifest.path] == names
    assert manifest.layout == "imagefolder" and manifest.person_id.tolist() == [3, 1, 2]


def test_several_tars_are_one_data_set(tmp_path: Path) -> None:
    for number in range(3):
        members = {f"{number}{i}.jpg": b"x" for i in range(2)}
        write_tar(tmp_path / f"s-{number:02d}.tar", tarfile.PAX_FORMAT, members)
    (tmp_path / "README.md").write_text("beside them")
    manifest = open_data(str(tmp_path))
    assert manifest.path.tolist() == [
        f"s-{n:02d}.tar#/{n}{i}.jpg".encode() for n in range(3) for i in range(2)
    ]
    assert archives_of(manifest) == [tmp_path / f"s-{n:02d}.tar" for n in range(3)]
    some = open_data(str(tmp_path / "s-{01..02}.tar"))
    assert some.path.tolist() == manifest.path.tolist()[2:]
    with pytest.raises(DataError, match=r"s-03\.tar: no such file, of .*s-\{01\.\.03\}\.tar"):
        open_data(str(tmp_path / "s-{01..03}.tar"))
    assert len(shard_folder(tmp_path, ["s-00.tar"]).relative_names()) == 2


def test_images_beside_an_archive_are_a_folder_as_before(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", zipfile.ZIP_STORED)
    (tmp_path / "1.jpg").write_bytes(b"x")
    assert open_data(str(tmp_path)).path.tolist() == [b"1.jpg"]


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_an_archive_without_images_is_one_line(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"x.{ending}"
    for members in ({}, {"a.txt": b"text"}):
        if ending == "tar":
            write_tar(file, tarfile.GNU_FORMAT, members)
        else:
            write_zip(file, zipfile.ZIP_STORED, members)
        with pytest.raises(DataError, match="no image in this archive"):
            open_data(str(file))


def test_a_locator_is_taken_apart_and_put_together() -> None:
    assert locate(Path("a/1.jpg")) == Locator(Path("a/1.jpg"))
    assert locate(Path("a/x.tar#/b/1.jpg")) == Locator(Path("a/x.tar"), "b/1.jpg")
    assert locate(Path("a/x.tar#")) == Locator(Path("a/x.tar"), "")
    boxed = Path(os.fsdecode(with_box(b"x.zip#/f#1.jpg", (-3, 4, 50, 60))))
    assert locate(boxed) == Locator(Path("x.zip"), "f#1.jpg", (-3, 4, 50, 60))
    assert locate(boxed).frame == Path("x.zip#/f#1.jpg")
    assert frame_of(with_box(b"f.jpg", (0, 0, 1, 1))) == b"f.jpg" == frame_of(b"f.jpg")
    assert locate(Path("notes#/1.jpg")) == Locator(Path("notes#/1.jpg"))
    assert [kind_of(Path(n)) for n in ("X.TAR", "x.tar.zst", "x.jpg")] == [
        "tar",
        "compressed tar",
        None,
    ]


def test_a_host_may_keep_the_archive_elsewhere(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "x.zip", zipfile.ZIP_STORED)
    root = Path("/elsewhere/x.zip#/a")
    assert own_root(root, file) == own_root(root, tmp_path) == tmp_path / "x.zip#" / "a"
    assert own_root(root, tmp_path / "y.zip") is None
    assert own_root(Path("/elsewhere"), tmp_path) == tmp_path


def test_a_stream_is_closed_when_its_archive_is_listed_anew(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "x.tar.gz", tarfile.GNU_FORMAT, {"a.jpg": b"1"}, "w:gz")
    assert content(file) == {"a.jpg": b"1"}
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b"1", b"2", 0)))
    os.utime(file, ns=(5, 5))
    assert content(file) == {"a.jpg": b"1"}

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import pytest
from conftest import LIMIT_S

from distreid.data.locators import path_of
from distreid.errors import StoreError
from distreid.host.atomic_files import (
    check_target,
    make_folder,
    open_hdf5,
    publish,
    publish_hdf5,
    publish_text,
)


def test_a_publication_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("old")

    def half(aside: Path) -> None:
        aside.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"a\.txt: No space left on device; make room"):
        publish(file, half)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "make room"),
        (errno.EFBIG, "make room"),
        (errno.EIO, "check the folder"),
    ],
)
def test_what_is_to_be_done_about_a_failed_publication_is_said(
    tmp_path: Path, number: int, mend: str
) -> None:
    def fail(aside: Path) -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(StoreError, match=rf"a\.txt: {os.strerror(number)}; {mend}$"):
        publish(tmp_path / "a.txt", fail)


@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, linked: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, kind in (("pipe", "a device, pipe or socket"), ("folder", "a folder")):
        file = tmp_path / name
        if linked:
            (tmp_path / f"link to {name}").symlink_to(file)
            file = tmp_path / f"link to {name}"
        with pytest.raises(StoreError, match=f"{name}: {kind}, which is not replaced"):
            publish_text(file, "new")
    with pytest.raises(StoreError, match="/dev/null: a device"):
        publish_text(Path("/dev/null"), "new")
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "folder").is_dir()


def test_a_folder_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"a.txt: no such folder {tmp_path}/b; make it"):
        publish_text(tmp_path / "b" / "a.txt", "new")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/a\.txt: Not a directory; check the folder"):
        publish_text(tmp_path / "file" / "a.txt", "new")
    with pytest.raises(StoreError, match="file: File exists; check the folder"):
        make_folder(tmp_path / "file")
    with pytest.raises(StoreError, match=r"^s3://bucket/a\.csv: an address; results are"):
        check_target(path_of("s3://bucket/a.csv"))
    make_folder(tmp_path / "b" / "c")
    check_target(tmp_path / "b" / "c" / "a.txt")


def test_an_error_of_a_library_does_not_show_the_name_of_the_file_aside(tmp_path: Path) -> None:
    def fail(aside: Path) -> None:
        raise OSError(f"cannot write {aside}")

    with pytest.raises(StoreError, match=r"a\.txt: cannot write .*/a\.txt; check the folder"):
        publish(tmp_path / "a.txt", fail)


def test_bytes_are_on_the_disk_before_their_name_and_the_name_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only a failing power supply would show: the order of the calls."""
    calls: list[str] = []
    fsync, rename = os.fsync, os.replace

    def synced(handle: int) -> None:
        calls.append(f"sync {Path(os.readlink(f'/proc/self/fd/{handle}')).suffix or 'folder'}")
        fsync(handle)

    def renamed(old: Path, new: Path) -> None:
        calls.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    publish_text(tmp_path / "a.txt", "new")
    assert calls == ["sync .tmp", "rename", "sync folder"]


def test_two_files_of_one_name_are_written_at_the_same_time(tmp_path: Path) -> None:
    """As the shards of two checkpoints are, each by a thread of its run's."""
    both = threading.Barrier(2, timeout=LIMIT_S)

    def write(folder: str) -> bytes:
        def fill(hdf5: h5py.File) -> None:
            both.wait()
            hdf5["run"] = folder
            both.wait()

        (tmp_path / folder).mkdir()
        publish_hdf5(tmp_path / folder / "000000.h5", fill)
        with open_hdf5(tmp_path / folder / "000000.h5") as hdf5:
            return bytes(hdf5["run"][()])

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(write, ("a", "b"))) == [b"a", b"b"]

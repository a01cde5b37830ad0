"""An export comes under its name as a whole, and nothing that is not its own is lost by it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import error_line

from distreid.cli import main
from distreid.errors import Stopped, StoreError
from distreid.export import exporting
from distreid.export.export_description import FILE, ExportDescription
from distreid.export.export_options import ExportOptions
from distreid.export.exporting import NEW, OLD, _empty, _publish, _remove_what_was_left, export
from distreid.host.folder_lock import Busy, Holder


def quiet(line: str) -> None:
    assert line


def make(folder: Path, text: str) -> Path:
    """What is taken for an export."""
    folder.mkdir(parents=True)
    (folder / FILE).write_text(text)
    return folder


def text_of(folder: Path) -> str:
    return (folder / FILE).read_text()


@pytest.fixture
def aside(tmp_path: Path) -> Path:
    """A folder aside whose export holds."""
    return make(tmp_path / ".x.0123.tmp" / NEW, "new").parent


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def announce(aside: Path, pid: int) -> None:
    """As the export in this folder, by a process of this machine, does."""
    holder = replace(Holder.this_process(), pid=pid)
    (aside / "job-0.lock").write_text(json.dumps(asdict(holder)))


def test_an_export_leaves_alone_the_folder_in_which_another_is_at_work(
    tmp_path: Path, aside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(aside, os.getpid())
    monkeypatch.setattr(secrets, "token_hex", lambda _: "0123")
    with pytest.raises(Busy):
        export(ExportOptions(checkpoint="sample", format="onnx", out=tmp_path / "x"), quiet)
    assert text_of(aside / NEW) == "new"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_came_to_the_name_during_the_gate_stays(
    overwrite: bool, tmp_path: Path, aside: Path
) -> None:
    out = tmp_path / "x"
    out.mkdir()
    (out / "precious.txt").write_text("another program's")
    with pytest.raises(StoreError, match="holds other things"):
        _publish(aside, out, overwrite=overwrite)
    assert names(out) == ["precious.txt"]
    shutil.rmtree(out)
    make(out, "another export's")
    if not overwrite:
        with pytest.raises(StoreError, match="--overwrite replaces it"):
            _publish(aside, out, overwrite=False)
        assert text_of(out) == "another export's"


def test_an_export_and_an_empty_folder_give_way(
    tmp_path: Path, aside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk: list[Path] = []
    monkeypatch.setattr(exporting, "sync", on_disk.append)
    out = tmp_path / "x"
    out.mkdir()
    _publish(aside, out, overwrite=False)
    assert text_of(out) == "new"
    assert on_disk == [aside / NEW / FILE, aside / NEW, tmp_path]
    make(aside / NEW, "newer")
    _publish(aside, out, overwrite=True)
    assert (text_of(out), text_of(aside / OLD)) == ("newer", "new")
    _empty(aside, out)
    assert text_of(out) == "newer" and not (aside / OLD).exists()


def test_what_stands_under_the_name_is_not_lost_by_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = ExportDescription(
        format="onnx", file="model.onnx", identity={"precision": "fp32"}, files={}, run={}
    )
    held = SimpleNamespace(problem=None, describe=list, to_json=dict)
    monkeypatch.setattr(exporting, "make_probe", lambda *_: SimpleNamespace(save=Path.is_dir))
    monkeypatch.setattr(exporting, "_write", lambda *given: about.save(given[-1]))
    monkeypatch.setattr(exporting, "try_export", lambda *_: held)
    rename = Path.rename

    def stop(path: Path, target: Path) -> Path:
        if path.name == NEW:
            raise Stopped(signal.SIGTERM)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stop)
    out = make(tmp_path / "x", "before")
    with pytest.raises(Stopped):
        export(ExportOptions(checkpoint="sample", format="onnx", out=out, overwrite=True), quiet)
    assert text_of(out) == "before"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("end", ["killed", "stopped twice"])
def test_the_next_export_puts_back_what_a_dead_one_had_renamed(
    end: str, tmp_path: Path, aside: Path
) -> None:
    make(aside / OLD, "before")
    other = make(tmp_path / ".x.y.0123.tmp" / OLD, "of x.y")
    if end == "killed":
        ended = subprocess.Popen("true")
        ended.wait()
        announce(aside, ended.pid)
    _remove_what_was_left(tmp_path / "x")
    assert text_of(tmp_path / "x") == "before"
    assert not aside.exists()
    assert other.exists()


def test_what_can_neither_go_back_nor_was_replaced_stays_for_the_next_export(
    tmp_path: Path, aside: Path
) -> None:
    make(aside / OLD, "before")
    out = make(tmp_path / "x", "came meanwhile")
    _remove_what_was_left(out)
    assert (text_of(out), text_of(aside / OLD)) == ("came meanwhile", "before")
    shutil.rmtree(out)
    _remove_what_was_left(out)
    assert text_of(out) == "before" and not aside.exists()


def test_of_an_export_that_was_published_the_old_one_goes(tmp_path: Path, aside: Path) -> None:
    make(aside / OLD, "before")
    shutil.rmtree(aside / NEW)  # and its user has since moved it
    _remove_what_was_left(tmp_path / "x")
    assert not names(tmp_path)


def test_an_export_stays_where_the_old_one_cannot_be_put_back(
    tmp_path: Path, aside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(aside / OLD, "before")

    def refuse(_: Path, __: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        _remove_what_was_left(tmp_path / "x")
    assert text_of(aside / OLD) == "before"


def test_a_mount_point_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exporting, "load_model", lambda *_: pytest.fail("the work has begun"))
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    line = ["export", "--checkpoint", "sample", "--format", "onnx", "--out", str(tmp_path)]
    assert main(line) == 2
    assert error_line(capsys).startswith(f"{tmp_path}: a mount point, which nothing replaces")

"""One line says what is the matter with a score, and what is meant instead, before the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from distreid import cli


def unit(seed: int, rows: int) -> NDArray[np.float64]:
    features = np.random.default_rng(seed).normal(size=(rows, 16))
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True))


def said(folder: Path, capsys: pytest.CaptureFixture[str], *options: str, **columns: object) -> str:
    """What stands before the table, in one line."""
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    np.savez(folder / "f.npz", allow_pickle=False, **arrays)
    assert cli.main(["evaluate", str(folder / "f.npz"), *options]) == 0
    return " ".join(capsys.readouterr().out.split("┏")[0].split())


def test_copies_of_the_queries_in_the_gallery(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = np.tile(unit(0, 8), (2, 1))
    persons = np.tile(np.repeat(np.arange(4), 2), 2)
    line = said(
        tmp_path,
        capsys,
        features=features,
        person_id=persons,
        path=[f"{part}/{n}.jpg" for part in "qg" for n in range(8)],
        split=["query"] * 8 + ["gallery"] * 8,
    )
    assert line.startswith("Rank-1 is 100 %, and 8 of 8 queries looked at find their own feature")
    assert "--protocol leave-one-out" in line


def test_each_image_as_query_and_as_gallery_finds_itself_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(
        tmp_path,
        capsys,
        features=np.tile(unit(0, 8), (2, 1)),
        person_id=np.tile(np.repeat(np.arange(4), 2), 2),
        path=[f"{n}.jpg" for n in range(8)] * 2,
        split=["query"] * 8 + ["gallery"] * 8,
    )
    assert "8 queries are in the gallery: none finds itself" in lines
    assert "100 %" not in lines


def test_a_rank_1_of_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = np.repeat(unit(0, 4), 3, axis=0) + 0.01 * unit(1, 12)
    persons = np.repeat(np.arange(4), 3)
    is_query = np.arange(12) % 3 == 0
    # Persons of the gallery are numbered otherwise.
    persons[~is_query] = (persons[~is_query] + 1) % 4
    lines = said(
        tmp_path,
        capsys,
        features=features,
        person_id=persons,
        split=np.where(is_query, "query", "gallery"),
    )
    assert lines.startswith("Rank-1 is 0: no query finds its person first.")


def test_the_cameras_of_sysu_mm01_and_persons_of_one_camera(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 27: a list of four persons in SYSU-MM01's form."""
    lines = said(
        tmp_path,
        capsys,
        features=unit(0, 12),
        person_id=np.tile(np.arange(4), 3),
        camera_id=[3] * 4 + [1] * 4 + [2] * 4,
        split=["query"] * 4 + ["gallery"] * 8,
    )
    assert "as in SYSU-MM01: that is scored by --protocol sysu-mm01-all" in lines
    lines = said(
        tmp_path,
        capsys,
        features=unit(0, 9),
        person_id=[0, 1, 2, 0, 0, 1, 1, 2, 2],
        camera_id=[1, 2, 3, 1, 4, 2, 2, 3, 3],
        split=["query"] * 3 + ["gallery"] * 6,
    )
    assert "2 of 3 persons are in one camera alone" in lines
    assert "--protocol leave-one-out" in lines


def test_names_that_tell_other_persons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{n % 5 + 1:04d}_c{n % 3 + 1}s1_{n:06d}_00.jpg" for n in range(30)]
    columns = {
        "features": unit(0, 30),
        "path": names,
        "camera_id": np.arange(30) % 3,
        "split": ["query"] * 10 + ["gallery"] * 20,
    }
    lines = said(tmp_path, capsys, person_id=np.arange(30) // 6, **columns)
    assert "10 of 10 file names tell other persons than the labels" in lines
    # Numbered anew is no contradiction.
    lines = said(tmp_path, capsys, person_id=(np.arange(30) % 5) * 7, **columns)
    assert "file names tell" not in lines

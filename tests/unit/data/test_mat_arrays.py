"""MATLAB files as scipy writes them, which writes what MATLAB does."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from distreid.data import mat_arrays
from distreid.data.mat_arrays import read_mat
from distreid.errors import DataError

PATHS = np.array(["query/1.jpg", "ä 2.jpg", ""], dtype=object)
CONTENT: dict[str, Any] = {
    **{
        kind: np.arange(6).reshape(2, 3).astype(kind)
        for kind in ("f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
    },
    "cube": np.arange(24.0).reshape(2, 3, 4),
    "empty": np.zeros((0, 4)),
    "logical": np.array([[True, False]]),
    "x": 3.0,  # a name and values that lie in their tags
    "text": "hello wörld",
    "paths": PATHS,
    "char_rows": np.array(["ab", "cde"]),
}


def written(content: dict[str, Any], *, compressed: bool = False) -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, content, do_compression=compressed)
    return stream.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_those_that_scipy_reads(tmp_path: Path, compressed: bool) -> None:
    file = tmp_path / "a.mat"
    file.write_bytes(written(CONTENT, compressed=compressed))
    found, theirs = read_mat(file), scipy.io.loadmat(file)
    for name, value in CONTENT.items():
        if name in ("text", "paths", "char_rows"):
            continue
        assert found[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(found[name], theirs[name])
        assert found[name].shape == np.atleast_2d(value).shape
    assert found["text"].tolist() == [["hello wörld"]]
    assert found["paths"].tolist() == [PATHS.tolist()]
    assert found["char_rows"].tolist() == [["ab"], ["cde"]]


def test_what_is_no_array_of_numbers_or_texts_is_left_out(tmp_path: Path) -> None:
    cells = np.array([1.0, "a"], dtype=object)
    content = {"struct": {"a": 1}, "complex": np.ones(2) * 1j, "cells": cells, "kept": np.ones(2)}
    (tmp_path / "a.mat").write_bytes(written(content))
    assert [*read_mat(tmp_path / "a.mat")] == ["kept"]


def test_an_array_that_unpacks_to_far_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mat").write_bytes(written({"a": np.zeros(100_000)}, compressed=True))
    assert read_mat(tmp_path / "a.mat")["a"].size == 100_000
    monkeypatch.setattr(mat_arrays, "SPARE_BYTES", 1000)
    with pytest.raises(DataError, match="unpacks to far more than the file has"):
        read_mat(tmp_path / "a.mat")


@given(st.booleans(), st.integers(128, 2000), st.integers(0, 255), st.integers(0, 2000))
def test_any_change_is_read_or_refused(compressed: bool, place: int, byte: int, cut: int) -> None:
    content = bytearray(written(CONTENT, compressed=compressed))
    content[min(place, len(content) - 1)] = byte
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(DataError):
        file = Path(folder, "a.mat")
        file.write_bytes(content[: len(content) - cut])
        for array in read_mat(file).values():
            assert array.ndim >= 2

"""Codes are read as they were written, with the finer ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distreid.nearest.codes import Directions, encode
from distreid.nearest.exact_search import Part, StoredRows, search, unit_queries
from distreid.search.index import read_codes, read_directions, write_codes
from distreid.search.kept_columns import write_arrays


@pytest.mark.parametrize("scanned", [None, 6])
def test_codes_are_read_as_they_were_written(tmp_path: Path, scanned: int | None) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    basis = np.linalg.qr(rng.standard_normal((24, 16)))[0].astype(np.float32)
    made = Directions(basis=basis, step=np.full(16, 1 / 127, np.float32), scanned=scanned)
    arrays = {"basis": made.basis, "step": made.step}
    write_arrays(tmp_path / "directions", arrays, {"scanned": scanned})
    stored = StoredRows(pieces=[rows], source=np.arange(len(rows)))
    write_codes(tmp_path / "codes", made, stored)
    found = read_codes(tmp_path / "codes", read_directions(tmp_path / "directions"))
    expected = encode(made, [rows])
    levels = [(found, expected)]
    if scanned is None:
        assert found.finer is None
    else:
        assert found.finer is not None and expected.finer is not None
        assert found.code.shape[1] == scanned + 2
        levels.append((found.finer, expected.finer))
    for ours, theirs in levels:
        assert (ours.code == theirs.code).all()
        assert (ours.error, ours.residual) == (theirs.error, theirs.residual)
        assert ours.longest == theirs.longest
        assert (ours.directions.basis == theirs.directions.basis).all()
    part = Part(rows=stored, ids=np.arange(len(rows)), codes=found)
    plain = Part(rows=stored, ids=np.arange(len(rows)), codes=None)
    queries = unit_queries(rows[:3] + 0.1)
    assert (search([part], queries, 5).ids == search([plain], queries, 5).ids).all()

"""What makes exact search fast: directions learnt of a gallery's rows, and codes of each run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.errors import StoreError
from distreid.nearest.codes import Codes, Directions, encode, learn
from distreid.nearest.exact_search import Part, StoredRows, search, unit_queries
from distreid.search.kept_columns import check_arrays, read_array, read_facts, write_arrays

LEAST_ROWS = 20_000  # fewer are simply multiplied
SAMPLED_ROWS = 20_000  # of which directions are learnt
COMPARED_ROWS = 200_000  # of which it is known how near a row's neighbours are
ASKED_ROWS = 32  # rows that stand for queries
HARDER = 0.95  # a query's scores of a row's: it is another image, of another day
TOP = 12  # others that such a query wants: ten, and a little more
ENCODED_ROWS = 8192


def learn_directions(folder: Path, parts: Sequence[Part]) -> Directions:
    """Learns directions of the rows that may be found, and writes them; with them, the share of
    rows that each width tried left to be scored."""
    rows = sum(map(len, parts))
    compared = _evenly(parts, COMPARED_ROWS)
    part = Part(
        rows=StoredRows(pieces=[compared], source=np.arange(len(compared))),
        ids=np.arange(len(compared)),
        codes=None,
    )
    asked = compared[:: -(-len(compared) // ASKED_ROWS)]
    # Of fewer rows, a row's twelfth neighbour is about where fewer of them are; beside itself.
    top = 1 + max(1, round(TOP * len(compared) / rows))
    threshold = search([part], unit_queries(asked), top).scores[:, -1] * HARDER
    sample = compared[:: -(-len(compared) // SAMPLED_ROWS)]
    directions, tried = learn(sample, asked, threshold, rows)
    facts = {
        "tried": {str(width): share for width, share in tried.items()},
        "rows": rows,
        "scanned": directions.scanned,
    }
    write_arrays(folder, {"basis": directions.basis, "step": directions.step}, facts)
    return directions


def read_directions(folder: Path) -> Directions:
    """What `learn_directions` wrote."""
    basis = np.ascontiguousarray(read_array(folder, "basis"))
    return Directions(
        basis=basis,
        step=np.array(read_array(folder, "step")),
        scanned=read_facts(folder).get("scanned"),
    )


def write_codes(folder: Path, directions: Directions, rows: StoredRows) -> None:
    """Codes of all rows."""
    count = len(rows.source)
    pieces = (
        rows.take(np.arange(first, min(first + ENCODED_ROWS, count)))
        for first in range(0, count, ENCODED_ROWS)
    )
    codes = encode(directions, pieces)
    arrays, facts = {"code": codes.code}, _facts(codes)
    if codes.finer is not None:
        arrays["rest"], facts["finer"] = codes.finer.code, _facts(codes.finer)
    write_arrays(folder, arrays, facts)


def check_codes(folder: Path, directions: Path, rows: int) -> None:
    """StoreError if the codes of so many rows are damaged, or cannot be read with the directions
    of a folder."""
    check_arrays(folder)
    if len(read_codes(folder, read_directions(directions))) != rows:
        raise StoreError(f"{folder}: not the codes of its run's rows")


def copy_codes(folder: Path, to: Path, kept: NDArray[np.int64]) -> None:
    """The codes of the rows at these places; each array of the folder has one for each row."""
    arrays = {file.stem: read_array(folder, file.stem)[kept] for file in folder.glob("*.npy")}
    write_arrays(to, arrays, read_facts(folder))


def _facts(codes: Codes) -> dict[str, Any]:
    return {"error": codes.error, "residual": codes.residual, "longest": codes.longest}


def read_codes(folder: Path, directions: Directions) -> Codes:
    """What `write_codes` wrote, mapped."""
    facts = read_facts(folder)

    def codes(
        of: Directions, name: str, facts: dict[str, Any], finer: Codes | None = None
    ) -> Codes:
        return Codes(
            directions=of,
            code=np.asarray(read_array(folder, name)),
            error=tuple(facts["error"]),
            residual=tuple(facts["residual"]),
            longest=facts["longest"],
            finer=finer,
        )

    if directions.scanned is None:
        return codes(directions, "code", facts)
    finer = codes(directions, "rest", facts["finer"])
    return codes(directions.first(directions.scanned), "code", facts, finer)


def _evenly(parts: Sequence[Part], most: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """About `most` of the rows that may be found, evenly spaced."""
    step = -(-sum(map(len, parts)) // most)
    return np.concatenate([part.rows.take(part.places[::step]) for part in parts if len(part)])

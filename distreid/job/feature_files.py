"""Features that other programs saved: what lies in their file, with the labels beside it.

Two forms are known. Query and gallery apart: `query_features` (Q, D), `gallery_features` (G, D),
`query_ids`, `gallery_ids`, and if there are `query_cameras`, `gallery_cameras`, paths and further
columns, under these or the usual short names. Or together: `features` (N, D) with a column
`person_id` and as in a table of images `camera_id`, `split`, `path` and others.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from distreid.data.cross_modality import with_trials
from distreid.data.image_files import LayoutRequest
from distreid.data.image_table import manifest_of
from distreid.data.manifest import GALLERY, MULTI_QUERY, QUERY, Status, text_column
from distreid.data.mat_arrays import read_mat
from distreid.data.roles import listed_twice, merged, of_test_persons, read_ids
from distreid.data.table_files import READERS, read_table
from distreid.data.table_text import Table
from distreid.errors import DataError, OptionError
from distreid.evaluation.draws import has_paths
from distreid.evaluation.ranking import GIVEN_AT_ONCE
from distreid.host.digests import sha256
from distreid.models.safe_load import safe_load
from distreid.store import FeatureStore
from distreid.store.array_store import ArrayStore
from distreid.store.plan import Plan

SIDES = {
    QUERY: ("query", "probe", "q"),
    GALLERY: ("gallery", "g"),
    MULTI_QUERY: ("multiquery", "mquery"),
}
# What an array is called after its side; compared without capitals, `_`, `-`, `/` and `.`.
KINDS = {
    "features": ("features", "feature", "feats", "feat", "f", "embeddings", "embedding", "emb"),
    "person_id": (
        *("ids", "id", "pids", "pid", "labels", "label", "personids", "personid", "persons"),
        *("person", "identities", "identity"),
    ),
    "camera_id": (
        *("cameras", "camera", "cams", "cam", "camids", "camid", "cameraids", "cameraid"),
    ),
    "path": ("paths", "path", "names", "files", "filenames", "images", "imgpaths"),
}
LABEL_ENDINGS = (".csv", ".tsv", ".txt", *READERS)  # of a file of labels beside an .npy
TABLES_OF_FEATURES = (".csv", ".tsv")
NUMBERED = re.compile(r"(.*?)[_ .-]?(\d{1,6})")  # feature_12
TEST_IDS = "test_ids"  # an array of persons
LENGTH_SLACK = 1e-3  # of a feature that counts as normalised
UNPACKED_FACTOR = 100  # numbers that deflate better are a bomb, or few
SPARE_BYTES = 1 << 28
ROWS_AT_ONCE = 1 << 14
HAS_IMAGE = "has_image"  # a column of `Store.to_npz`


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """What a file holds."""

    features: NDArray[Any] | None
    """(N, D) of any real type, as they are in the file; None if it has labels alone."""
    table: Table
    """N rows of labels."""
    notes: tuple[str, ...] = ()
    test_ids: tuple[str, ...] = ()
    """The persons who are tested; empty: all."""


def open_features(
    file: Path,
    *,
    labels: Path | None = None,
    asked: LayoutRequest | None = None,
    space: str = "",
    needs_features: bool = True,
    test_ids: Path | None = None,
) -> ArrayStore:
    """A file's features and labels as a store in memory, normalised; its manifest's notes say
    what was taken for what.

    `labels` is a table with a row for each feature, in their order; of an .npy the table beside it
    of the same name is taken. With `needs_features` false a file of labels alone will do.
    `test_ids` is a file of the persons who are tested, instead of an array of this name. A row that
    stands there as query and again as gallery, with one path and feature, is one row. RegDB's
    halves are read where its `idx/` lies beside the file. DataError
    says what is missing, damaged or does not fit; nothing in the file is run.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file; check its name")
    asked = asked or LayoutRequest(layout="csv")
    try:
        found, asked = _read(file, labels, asked, needs_features)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}; check the file") from error
    if needs_features and found.features is None:
        raise DataError(f"{file}: no features; {_wanted()}")
    if not len(found.table):
        raise DataError(f"{file}: it has no row")
    manifest = manifest_of(found.table, asked, wants_paths=False)
    status = np.zeros(len(manifest), np.uint8)
    if HAS_IMAGE in manifest.extra:
        status[manifest.extra[HAS_IMAGE] == b"False"] = Status.MISSING
        extra = {name: c for name, c in manifest.extra.items() if name != HAS_IMAGE}
        manifest = replace(manifest, extra=extra)
    raw = found.features if found.features is not None else np.ones((len(manifest), 1))
    if len(raw) != len(manifest):
        raise DataError(f"{file}: {len(raw):,} features and {len(manifest):,} rows of labels")
    array, norm = _normalised(found.table, raw, status)
    if needs_features:  # a matrix of distances has each row where it stands
        by = manifest
        if not has_paths(manifest):  # then a feature tells the image
            digests = [hashlib.sha256(row.tobytes()).hexdigest().encode() for row in array]
            by = replace(manifest, path=text_column(digests))
        pairs = [pair for pair in listed_twice(by) if np.array_equal(*array[list(pair)])]
        manifest, kept = merged(manifest, pairs)
        array, norm, status = array[kept], norm[kept], status[kept]
    manifest = with_trials(manifest)
    ids = read_ids(test_ids) if test_ids else found.test_ids
    if ids:
        manifest = of_test_persons(manifest, ids, str(test_ids or f"{file}: {TEST_IDS}"))
    notes = [*found.notes, *manifest.notes]
    if (np.abs(norm[status == Status.OK] - 1) > LENGTH_SLACK).any():
        notes.append(
            "the features are not of length 1: normalised; --features raw takes them as is"
        )
    manifest = replace(manifest, notes=tuple(notes))
    plan = Plan(
        manifest=manifest,
        identity={
            "imported": space,
            "model": {"name": "imported"},
            "dim": array.shape[1],
            "manifest": manifest.fingerprint(),
            "file": sha256(*filter(None, (file, labels))),
            "dtype": "float32",
        },
        provenance={"file": str(file)},
        dim=array.shape[1],
        dtype="float32",
        shard_rows=len(manifest),
    )
    return ArrayStore(run=file, plan=plan, norm=norm, status=status, array=array)


def open_distances(file: Path, store: FeatureStore) -> NDArray[Any]:
    """(Q, G) of an .npy, mapped; DataError if it does not fit the rows, or one is not finite."""
    matrix: NDArray[Any] = _npy(file)["features"]
    rows, columns = len(store.manifest.rows(QUERY)), len(store.manifest.rows(GALLERY))
    if matrix.shape != (rows, columns) or matrix.dtype.kind not in "fiu":
        raise DataError(
            f"{file}: {' × '.join(map(str, matrix.shape))} {matrix.dtype}; distances of {rows:,} "
            f"queries × {columns:,} gallery rows are wanted"
        )
    at_once = max(1, GIVEN_AT_ONCE // max(1, columns))
    for first in range(0, rows, at_once):
        block = np.asarray(matrix[first : first + at_once])
        for row, column in np.argwhere(~np.isfinite(block))[:1].tolist():
            raise DataError(
                f"{file}: row {first + row}, column {column} (from 0) is {block[row, column]}, "
                "which is no distance; mend it"
            )
    return matrix


def _read(
    file: Path, labels: Path | None, asked: LayoutRequest, needs_features: bool
) -> tuple[Arrays, LayoutRequest]:
    """What a file holds, and what is asked of its table: names of arrays are found here."""
    ending = file.suffix.lower()
    if ending in TABLES_OF_FEATURES and labels is None and needs_features:
        return _table_of_features(read_table(file)), asked
    if ending == ".parquet" or ending == ".pq":
        return Arrays(features=_parquet_features(file), table=read_table(labels or file)), asked
    if not needs_features and ending in LABEL_ENDINGS:
        return Arrays(features=None, table=read_table(file)), asked
    if ending not in LOADERS:
        raise DataError(f"{file}: no file of features by its ending; {', '.join(LOADERS)} are")
    loaded = LOADERS[ending](file)
    named = {array: name for name, array in asked.columns.items() if array in loaded}
    loaded = {named.get(name, name): value for name, value in loaded.items()}
    arrays = {name: _plain_array(file, name, value) for name, value in loaded.items()}
    arrays = {name: array for name, array in arrays.items() if array.ndim}  # no epochs and the like
    test_ids = tuple(_texts(arrays.pop(TEST_IDS).ravel())) if TEST_IDS in arrays else ()
    rest = {name: array for name, array in asked.columns.items() if array not in named}
    asked = replace(asked, columns=rest)
    if ending == ".npy" and labels is None:
        beside = [file.with_suffix(each) for each in LABEL_ENDINGS]
        labels = next((each for each in beside if each.is_file()), None)
        if labels is None:
            raise DataError(
                f"{file}: no labels; give --labels FILE, a table with a row for each feature, or "
                f"name it {beside[0].name}"
            )
    if labels is not None:
        features = _one(file, arrays, "features")
        if features is None:
            raise DataError(f"{file}: no array features for the rows of {labels}")
        table = read_table(labels)
        return Arrays(features=arrays[features], table=table, test_ids=test_ids), asked
    found = _apart(file, arrays) or _together(file, arrays, list(loaded))
    return replace(found, test_ids=test_ids), asked


def _table_of_features(table: Table) -> Arrays:
    """A table with a column for each number of the feature, such as `feature_0`, `feature_1`, …."""
    numbered: dict[str, dict[int, int]] = {}
    for place, name in enumerate(table.header):
        if (match := NUMBERED.fullmatch(name)) and _plain(match[1]) in ("", *KINDS["features"]):
            of_it = numbered.setdefault(match[1], {})
            if int(match[2]) in of_it:
                raise DataError(f"{table.file}: {name} and another column are one number; mend it")
            of_it[int(match[2])] = place
    several = {name: places for name, places in numbered.items() if len(places) > 1}
    if len(several) > 1:
        first, second = (table.header[min(places.values())] for places in [*several.values()][:2])
        raise DataError(
            f"{table.file}: {first}, … and {second}, … could be the features; leave one out"
        )
    found = next(iter(several.values()), {})
    if found and max(found) - min(found) >= len(found):
        lacking = next(n for n in range(min(found), max(found)) if n not in found)
        raise DataError(f"{table.file}: no column for number {lacking} of the features; mend it")
    if len(found) < 2:
        raise DataError(
            f"{table.file}: no features; a table has a column for each of their numbers, such as "
            "feature_0, feature_1, …; or give the features' file, and this one as --labels"
        )
    columns = [table.columns[found[number]] for number in sorted(found)]
    try:
        features = np.array(columns, np.float64).T
    except ValueError as error:
        raise DataError(f"{table.file}: a feature is no number ({error}); mend it") from error
    rest = [place for place in range(len(table.header)) if place not in found.values()]
    table = replace(
        table,
        header=[table.header[place] for place in rest],
        columns=[table.columns[place] for place in rest],
    )
    return Arrays(features=features, table=table)


def _apart(file: Path, arrays: Mapping[str, NDArray[Any]]) -> Arrays | None:
    """Query and gallery in arrays of their own; None if there are none."""
    found: dict[str, dict[str, NDArray[Any]]] = {}
    left_out = []
    for name, array in arrays.items():
        side, kind = _side_and_kind(name)
        if side and kind in found.setdefault(side, {}):
            raise DataError(f"{file}: {name} and another array are {side}_{kind}; leave one out")
        if side:
            found[side][kind] = array
        else:
            left_out.append(name)
    sides = [side for side in SIDES if "person_id" in found.get(side, {})]
    if not {QUERY, GALLERY} & {side for side in found if "features" in found[side]} and not sides:
        return None
    sides = [side for side in SIDES if side in found and {"features", "person_id"} & {*found[side]}]
    features = [found[side]["features"] for side in sides if "features" in found[side]]
    if features and len(features) < len(sides):
        lacking = next(side for side in sides if "features" not in found[side])
        raise DataError(f"{file}: no {lacking}_features; {_wanted()}")
    lengths = {side: len(found[side]["features" if features else "person_id"]) for side in sides}
    for side in sides:
        for kind, array in [*found[side].items()]:
            fits = len(array) == lengths[side] and (array.ndim == 1 or kind == "features")
            if not fits and kind not in KINDS:
                left_out.append(f"{side}_{kind}")
                del found[side][kind]
            elif not fits:
                raise DataError(
                    f"{file}: {side} has {lengths[side]:,} features, but {array.shape} of {kind}"
                )
    if len({array.shape[1:] for array in features}) > 1:
        said = ", ".join(f"{side} {found[side]['features'].shape}" for side in sides)
        raise DataError(f"{file}: features of different dimensions ({said}); extract them alike")
    kinds = dict.fromkeys(kind for side in sides for kind in found[side] if kind != "features")
    for side in sides:
        if "camera_id" in kinds and "camera_id" not in found[side]:
            raise DataError(f"{file}: cameras of one side, but none of {side}; give both")
    columns = [
        [
            text
            for side in sides
            for text in (_texts(found[side][kind]) if kind in found[side] else [""] * lengths[side])
        ]
        for kind in kinds
    ]
    if "path" in kinds:
        place = [*kinds].index("path")
        columns[place] = [path or f"row {row}" for row, path in enumerate(columns[place])]
    splits = [side for side in sides for _ in range(lengths[side])]
    table = Table(
        file=file,
        header=[*kinds, "split"],
        columns=[*columns, splits],
        places=[f"row {row + 1} of {side}" for side in sides for row in range(lengths[side])],
    )
    notes = [f"not used: {', '.join(left_out)}"] if left_out else []
    together = np.concatenate(features) if features else None
    return Arrays(features=together, table=table, notes=tuple(notes))


def _together(file: Path, arrays: Mapping[str, NDArray[Any]], names: Sequence[str]) -> Arrays:
    """One array of features, and columns of as many rows; DataError, with the names of all that the
    file holds, if there is none."""
    name = _one(file, arrays, "features")
    columns = {each: array for each, array in arrays.items() if each != name and array.ndim == 1}
    if name is None and not any(_is("person_id", each) for each in columns):
        raise DataError(f"{file}: it holds {', '.join(names) or 'nothing'}; {_wanted()}")
    rows = len(arrays[name]) if name else max(map(len, columns.values()))
    columns = columns or {"path": np.array([f"row {row}" for row in range(rows)], str)}
    left_out = []
    for each in [*columns]:
        if len(columns[each]) == rows:
            continue
        if any(_is(kind, each) for kind in KINDS) or _plain(each) in ("split", "set"):
            raise DataError(f"{file}: {rows:,} features, but {columns[each].shape} of {each}")
        left_out.append(each)
        del columns[each]
    left_out += [each for each in arrays if each != name and each not in columns]
    table = Table(
        file=file,
        header=[_heading(each, columns) for each in columns],
        columns=[_texts(array) for array in columns.values()],
    )
    notes = [f"not used: {', '.join(sorted({*left_out}))}"] if left_out else []
    return Arrays(features=arrays[name] if name else None, table=table, notes=tuple(notes))


def _heading(name: str, columns: Mapping[str, Any]) -> str:
    """An array's name as a table has it, whose headers are in the singular."""
    for kind in KINDS:
        alike = [each for each in columns if _is(kind, each)]
        if alike == [name]:
            return kind
    return name.replace("/", "_")


def _one(file: Path, arrays: Mapping[str, NDArray[Any]], kind: str) -> str | None:
    found = [name for name in arrays if _is(kind, name)]
    if len(found) > 1:
        raise DataError(f"{file}: {' and '.join(found)} could be the {kind}; leave one out")
    return found[0] if found else None


def _is(kind: str, name: str) -> bool:
    return _plain(name) in KINDS[kind]


def _side_and_kind(name: str) -> tuple[str, str]:
    """Of an array's name; empty if it tells none. What follows a whole word for a side is a column
    of that name."""
    plain = _plain(name)
    for side, words in SIDES.items():
        for word in words:
            rest = plain.removeprefix(word)
            if rest == plain or not rest:
                continue
            for kind, names in KINDS.items():
                if rest in names:
                    return side, kind
            if match := re.fullmatch(rf"{word}[_/.-](.+)", name.lower()):
                return side, match[1].replace("/", "_")
    return "", ""


def _plain(name: str) -> str:
    return re.sub(r"[_/.\s-]", "", name.lower())


def _plain_array(file: Path, name: str, value: Any) -> NDArray[Any]:
    """What a file holds under a name as an array; rows and columns of one are no dimension."""
    try:
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
    except ValueError as error:
        raise DataError(f"{file}: {name} is no array ({error}); save it as one") from error
    if array.dtype.kind == "O" and not all(isinstance(each, str) for each in array.flat):
        cells = [
            each.item() if isinstance(each, np.ndarray) and each.size == 1 else each
            for each in array.flat
        ]
        if not all(isinstance(each, str) for each in cells):
            raise DataError(
                f"{file}: {name} holds neither numbers nor texts; save it as an array or a tensor"
            )
        array = np.array(cells)
    if array.ndim == 2 and 1 in array.shape and not _is_features(name):
        array = array.reshape(-1)
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    return array


def _is_features(name: str) -> bool:
    return _is("features", name) or _side_and_kind(name)[1] == "features"


def _texts(array: NDArray[Any]) -> list[str]:
    if array.dtype.kind == "S":
        return [value.decode("utf-8", "surrogateescape") for value in array.tolist()]
    return [str(value) for value in array.tolist()]


def _normalised(
    table: Table, raw: NDArray[Any], status: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, D) features of length 1, and (N,) what it was. DataError names a row that has none."""
    if raw.ndim != 2 or raw.dtype.kind not in "fiu" or not raw.size:
        raise DataError(
            f"{table.file}: features of {' × '.join(map(str, raw.shape))} {raw.dtype}; (rows, "
            "dimensions) of real numbers are wanted"
        )
    array = np.empty(raw.shape, np.float32)
    norm = np.empty(len(raw), np.float32)
    for first in range(0, len(raw), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        block = np.asarray(raw[rows], np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            length = np.linalg.norm(block, axis=1)
        usable = np.isfinite(length) & (length > 0) & (length < np.finfo(np.float32).max)
        bad = np.flatnonzero(~usable & (status[rows] == Status.OK))
        if len(bad):
            raise DataError(
                f"{table.where(first + int(bad[0]))}: its feature holds NaN or infinity, or is "
                "zero; mend it, or leave the row out"
            )
        with np.errstate(invalid="ignore", divide="ignore"):
            array[rows] = block / length[:, None]
        norm[rows] = length
    array[status != Status.OK] = np.nan
    norm[status != Status.OK] = np.nan
    return array, norm


def _npy(file: Path) -> dict[str, Any]:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged headers raise nearly anything
        raise DataError(f"{file}: no .npy, or a damaged one ({_one_line(error)})") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{file}: no .npy, but an .npz; numpy.save writes one")
    return {"features": array}


def _npz(file: Path) -> dict[str, Any]:
    """Every array, after a look at the sizes that their headers claim."""
    try:
        with zipfile.ZipFile(file) as parts:
            for part in parts.infolist():
                if part.file_size > UNPACKED_FACTOR * part.compress_size + SPARE_BYTES:
                    raise DataError(f"{file}: {part.filename} unpacks to {part.file_size:,} bytes")
                with parts.open(part) as stream:
                    _check_header(stream, part.file_size)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except DataError:
        raise
    except Exception as error:  # damaged archives raise nearly anything
        raise DataError(f"{file}: no .npz, or a damaged one ({_one_line(error)})") from error


def _check_header(stream: Any, size: int) -> None:
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
        version, np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(stream)
    if dtype.hasobject or int(np.prod(shape, dtype=object)) * dtype.itemsize > size:
        raise ValueError("an array of Python objects, or larger than its file")


def _mat(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        if b"MATLAB 7.3" in stream.read(128):
            return {
                name: value.T if value.ndim == 2 else value for name, value in _hdf5(file).items()
            }
    return dict(read_mat(file))


def _torch(file: Path) -> dict[str, Any]:
    content = safe_load(file, str(file), file.stat().st_size)
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds no dictionary of tensors; {_wanted()}")
    found: dict[str, Any] = {}
    for name, value in _flat(content).items():
        if hasattr(value, "detach"):
            value = value.detach()
            try:
                value = (value.float() if value.is_floating_point() else value).numpy()
            except (TypeError, RuntimeError, NotImplementedError):
                continue  # sparse, quantised, complex, or without numbers
        elif not isinstance(value, (list, tuple)) or not all(
            isinstance(each, (int, float, str)) for each in value
        ):
            continue
        found[str(name)] = value
    if not found:
        raise DataError(f"{file}: holds no tensors; save them as tensors, not as numpy's arrays")
    return found


def _flat(content: dict[Any, Any]) -> dict[str, Any]:
    """Also of dictionaries one level down, as in {"query": {"features": …}}."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        inner = value if isinstance(value, dict) else {}
        found |= {f"{name}_{each}": of for each, of in inner.items()} or {str(name): value}
    return found


def _hdf5(file: Path) -> dict[str, Any]:
    """Every dataset that lies in the file itself, by its path in it."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or not item.shape:
            return
        size, stored = item.size * item.dtype.itemsize, item.id.get_storage_size()
        if size > UNPACKED_FACTOR * stored + SPARE_BYTES:
            raise DataError(
                f"{file}: {name} would take {size:,} bytes, and {stored:,} of it lie in the file; "
                "of a run of distreid, give the folder"
            )
        is_text = h5py.check_string_dtype(item.dtype) is not None
        if is_text or item.dtype.kind in "fiuS":
            found[name] = item.asstr()[()] if is_text else item[()]

    try:
        with h5py.File(file, "r", locking=False) as hdf5:
            hdf5.visititems(visit)
    except DataError:
        raise
    except Exception as error:  # h5py raises nearly anything on damaged bytes
        raise DataError(f"{file}: no HDF5, or a damaged one ({_one_line(error)})") from error
    return found


def _parquet_features(file: Path) -> NDArray[Any] | None:
    """The column of lists; None if there is none."""
    try:
        from pyarrow import parquet, types
    except ImportError as error:
        raise OptionError("pyarrow is not there: pip install 'distreid[tables]'") from error
    try:
        whole = parquet.ParquetFile(file)
        lists = [f.name for f in whole.schema_arrow if _is_list(types, f.type)]
        names = [name for name in lists if _is("features", name)] or lists
        if not names:
            return None
        if len(names) > 1:
            raise DataError(
                f"{file}: columns {' and '.join(names)} could be the features; leave one out, or "
                "name one of them features"
            )
        column = whole.read(columns=names[:1]).column(0).combine_chunks()
        lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
        if len(lengths) != 1 or column.null_count:
            raise DataError(f"{file}: column {names[0]}: lists of different lengths")
        values = column.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(values).reshape(len(column), int(lengths[0]))
    except DataError:
        raise
    except Exception as error:  # damaged files raise nearly anything
        raise DataError(f"{file}: no Parquet, or a damaged one ({_one_line(error)})") from error


def _is_list(types: Any, kind: Any) -> bool:
    """Whether a column has lists of numbers."""
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(
        is_list and (types.is_floating(kind.value_type) or types.is_integer(kind.value_type))
    )


LOADERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".mat": _mat,
    ".pt": _torch,
    ".pth": _torch,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
}


def _wanted() -> str:
    return (
        "wanted are query_features, gallery_features, query_ids, gallery_ids, or features with "
        "person_id and split"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]

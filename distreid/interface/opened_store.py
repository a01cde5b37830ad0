"""A complete run as a Python user holds it."""

from __future__ import annotations

import difflib
import functools
import importlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distreid.data.manifest import GALLERY, MULTI_QUERY, QUERY, Status
from distreid.errors import OptionError, StoreError
from distreid.host.atomic_files import MEND, publish
from distreid.job.options import path_text
from distreid.report.notebook import store_html
from distreid.store import FeatureStore
from distreid.store.shards import read_shard, shard_file

if TYPE_CHECKING:
    import pandas

TABLES_EXTRA = "pip install 'distreid[tables]'"
OWN_COLUMNS = ("features", "feature", "has_image", "file", "allow_pickle")
"""What an exported table has itself, or numpy's function for one; a data set's column of such a
name is `NAME_in_table`."""


def open_store(path: str | os.PathLike[str], *, verify: bool = True) -> Store:
    """Opens a complete run, the folder that was `--out` of an extraction.

    Every byte is read and checked against its checksum, unless `verify` is False; that every
    shard is there and of this run is checked in any case. StoreError, whose text is one line,
    says what is missing or damaged. What happens to the files later is not seen, but that one
    is cut.
    """
    if not isinstance(verify, bool):
        raise OptionError(f"verify={verify!r}: True or False is wanted")
    return Store(FeatureStore.open(Path(path_text("path", path)), checksum=verify))


class FeatureArray:
    """(N, D) features in the original order, over the memory-mapped shards.

    Index it as an array by rows: a row number (negative ones count from the end), a slice, a list
    or array of row numbers in any order, or a boolean mask of N. What it gives is a copy in memory,
    of the type that is stored: float32 or float16. Rows without an image are NaN.
    """

    ndim = 2

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._map = functools.cache(self._mapped)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return len(self._store.manifest), self._store.plan.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float16."""
        return np.dtype(self._store.plan.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.floating[Any]]]:
        return (row for block in self.blocks() for row in block)

    def blocks(self) -> Iterator[NDArray[np.floating[Any]]]:
        """(rows, D) of each shard in order, mapped and not read: for more than fits in memory."""
        return (self._shard(index) for index in range(len(self._store.plan.shards)))

    def __getitem__(
        self, rows: SupportsIndex | slice | Sequence[int] | NDArray[np.generic]
    ) -> NDArray[np.floating[Any]]:
        if isinstance(rows, tuple):
            raise IndexError("features are indexed by rows alone: features[rows][:, columns]")
        if isinstance(rows, (bool, np.bool_)):
            raise IndexError(f"{rows} is no row number; a mask has as many values as rows")
        found = np.arange(len(self))[rows]
        if np.ndim(found) > 1:
            raise IndexError(f"rows of {np.ndim(found)} dimensions; give a list of row numbers")
        wanted = np.atleast_1d(found)
        result = np.empty((len(wanted), self.shape[1]), self.dtype)
        index, place = np.divmod(wanted, self._store.plan.shard_rows)
        for shard in np.unique(index):
            of_shard = index == shard
            result[of_shard] = self._shard(int(shard))[place[of_shard]]
        return result if np.ndim(found) else result[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.floating[Any]]:
        if copy is False:
            raise ValueError("the features lie in several files, so an array of them is a copy")
        return self[:] if dtype is None else self[:].astype(dtype)

    def __repr__(self) -> str:
        return f"<features of {self.shape[0]:,} rows × {self.shape[1]:,}, {self.dtype}>"

    def _shard(self, index: int) -> np.memmap[Any, np.dtype[np.floating[Any]]]:
        features = self._map(index)
        # To read what a file no longer has would end the process. The mapping knows its size now.
        mapping: Any = features.base
        if mapping.size() < features.offset + features.nbytes:
            file = shard_file(self._store.run, index)
            raise StoreError(f"{file}: was cut since the store was opened; {MEND}")
        return features

    def _mapped(self, index: int) -> np.memmap[Any, np.dtype[np.floating[Any]]]:
        plan = self._store.plan
        mapped = read_shard(self._store.run, plan, plan.shards[index]).features
        assert isinstance(mapped, np.memmap)
        mapped.setflags(write=False)
        return mapped


class Store:
    """The features of a run with their paths and labels; N rows, in the original order.

    Made by `distreid.open_store` and `distreid.extract_features`. A pickled one is the name of
    its folder: whoever unpickles it opens that, and StoreError says if it is another run by now.
    """

    def __init__(self, store: FeatureStore) -> None:
        self.feature_store = store
        """What it stands on, for programs that want shards and plans."""
        self.features = FeatureArray(store)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.feature_store.run

    @property
    def identity(self) -> dict[str, Any]:
        """What the features depend on: the weights' SHA-256, model, preprocessing, precision, …"""
        return self.feature_store.plan.identity

    @functools.cached_property
    def paths(self) -> list[str]:
        """Of the images, as `--data` has them: relative to `root`."""
        return [os.fsdecode(path) for path in self.feature_store.manifest.path.tolist()]

    @property
    def root(self) -> Path:
        """The folder that the paths start from."""
        return self.feature_store.manifest.root

    @property
    def person_id(self) -> NDArray[np.int64]:
        """(N,); -1 junk, 0 a distractor in Market-1501's way, -2 not known."""
        return self.feature_store.manifest.person_id

    @property
    def camera_id(self) -> NDArray[np.int64]:
        """(N,); -1 not known."""
        return self.feature_store.manifest.camera_id

    @functools.cached_property
    def split(self) -> NDArray[np.str_]:
        """(N,) `query`, `gallery`, `multi-query`, another word of a CSV, or empty."""
        return np.char.decode(self.feature_store.manifest.split, "utf-8")

    @property
    def has_image(self) -> NDArray[np.bool_]:
        """(N,) whether the image could be read; where not, the features are NaN."""
        has_image: NDArray[np.bool_] = self.feature_store.status == Status.OK
        return has_image

    def __len__(self) -> int:
        return len(self.feature_store.manifest)

    def rows(self, split: str) -> NDArray[np.intp]:
        """The row numbers of a split, ascending. OptionError for a word that no row has, but for
        `query`, `gallery` and `multi-query`, which may have none."""
        known = sorted({*self.split.tolist(), QUERY, GALLERY, MULTI_QUERY})
        if split not in known:
            near = difflib.get_close_matches(str(split), known, 3, cutoff=0)
            raise OptionError(f"no row has the split {split!r}; near it: {', '.join(near)}")
        return self.feature_store.manifest.rows(split)

    def dataframe(self) -> pandas.DataFrame:
        """A pandas table of everything but the features: path, person_id, camera_id, split, any
        further column of a CSV, and has_image. OptionError without pandas."""
        return _library("pandas").DataFrame(self._columns())

    def to_npz(self, file: str | os.PathLike[str]) -> Path:
        """Writes `features` (N, D), `path`, `person_id`, `camera_id`, `split` and `has_image` as a
        numpy archive, under exactly this name. All features are held in memory for it."""
        target = Path(path_text("file", file))

        def write(aside: Path) -> None:
            with aside.open("wb") as stream:  # given a name, numpy would append .npz to it
                columns = {name: np.asarray(column) for name, column in self._columns().items()}
                np.savez(stream, allow_pickle=False, features=self.features[:], **columns)

        publish(target, write)
        return target

    def to_parquet(self, file: str | os.PathLike[str]) -> Path:
        """Writes the columns of `dataframe` and `feature`, a list of D numbers, as Parquet.

        It goes shard by shard, so it takes the memory of one. OptionError without pyarrow.
        """
        pyarrow, parquet = _library("pyarrow"), _library("pyarrow.parquet")
        target = Path(path_text("file", file))

        def write(aside: Path) -> None:
            writer = None
            for shard, block in zip(
                self.feature_store.plan.shards, self.features.blocks(), strict=True
            ):
                part = slice(shard.start, shard.stop)
                columns = {name: column[part] for name, column in self._columns().items()}
                # A name that is no UTF-8 has its bytes as escapes.
                columns["path"] = [
                    os.fsencode(path).decode("utf-8", "backslashreplace")
                    for path in columns["path"]
                ]
                values = pyarrow.array(np.ascontiguousarray(block).reshape(-1))
                feature = pyarrow.FixedSizeListArray.from_arrays(values, self.features.shape[1])
                table = pyarrow.table(columns | {"feature": feature})
                writer = writer or parquet.ParquetWriter(aside, table.schema)
                writer.write_table(table)
            if writer:
                writer.close()

        publish(target, write)
        return target

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened_again, (self.folder.absolute(), self.feature_store.plan.digest)

    def __repr__(self) -> str:
        return f"<distreid.Store {self.folder}: {len(self):,} rows × {self.features.shape[1]:,}>"

    def _repr_html_(self) -> str:
        return store_html(self.feature_store)

    def _columns(self) -> dict[str, Any]:
        extra = {
            f"{name}_in_table" if name in OWN_COLUMNS else name: np.char.decode(column, "utf-8")
            for name, column in self.feature_store.manifest.extra.items()
        }
        return {
            "path": self.paths,
            "person_id": self.person_id,
            "camera_id": self.camera_id,
            "split": self.split,
            **extra,
            "has_image": self.has_image,
        }


def as_features(values: ArrayLike | FeatureArray, name: str = "features") -> NDArray[np.float32]:
    """(N, D) float32; ValueError, which begins with the `name`, for another shape, what are no real
    numbers, or what float32 cannot hold."""
    try:
        features = np.asarray(values)
    except ValueError as error:  # lists of several lengths
        raise ValueError(f"{name}: (rows, dimensions) is wanted, not {error}") from error
    if features.dtype.kind not in "fiub":
        raise ValueError(f"{name} of {features.dtype}; real numbers are wanted")
    if features.ndim != 2:
        raise ValueError(f"{name} of shape {features.shape}; (rows, dimensions) is wanted")
    with np.errstate(over="ignore"):
        found = features.astype(np.float32)
    if (np.isinf(found) & np.isfinite(features)).any():
        raise ValueError(f"{name}: a number is larger than float32 holds; normalise them before")
    return found


def _opened_again(folder: Path, digest: str) -> Store:
    store = open_store(folder, verify=False)
    if store.feature_store.plan.digest != digest:
        raise StoreError(f"{folder}: another run than the pickled store was of; open it anew")
    return store


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OptionError(f"{name.partition('.')[0]} is not there: {TABLES_EXTRA}") from error

"""A gallery in Milvus, where one machine is not enough: pushed, kept alike, and searched there.

The collection has a row for each row that can be found, under its id, with its feature, person,
camera, time and path; its description is the feature space. Pushing again changes nothing, what was
begun is continued, and rows that were removed are removed there too. A row's `origin` says which
row of which run it is, so that another gallery's under the same id is not taken for it. The client
is the same for a server and for a file, which milvus-lite opens in this process.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import NO_CAMERA, NO_PERSON
from distreid.errors import OptionError, StoreError
from distreid.search.gallery import (
    UNKNOWN,
    Filter,
    Gallery,
    checked_queries,
    checked_top,
    names_and_numbers,
)
from distreid.search.kept_columns import read_array

EXTRA = "pip install 'distreid[milvus]'"
SCHEME = "milvus:"
SPACE = "distreid.feature_space"  # the collection's property that says it
PUSHED_AT_ONCE = 1000
ASKED_ROWS = 50
TOP = 10
NO_TIME = -1e18  # of rows whose time is not known: Milvus has no NaN
PATH_BYTES = 4096
ORIGIN = "origin"
ORIGIN_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)  # odd, and far apart
FIELDS = ["person", "person_name", "camera", "camera_name", "time", "path"]


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did."""

    inserted: int
    deleted: int
    rows: int
    """In the collection."""
    recall: float
    """The share of our exact first ten that the collection finds, for rows of the gallery."""


def target(text: str) -> tuple[str, str]:
    """(URI, collection) of `milvus:FILE.db/NAME` or `milvus://HOST:PORT/NAME`."""
    place, _, name = text.removeprefix(SCHEME).rpartition("/")
    if not place or not name or place == "/":
        raise OptionError(f"{text}: milvus:FILE.db/NAME or milvus://HOST:PORT/NAME is wanted")
    return (f"http:{place}" if place.startswith("//") else place), name


def push(gallery: Path, uri: str, name: str) -> Pushed:
    """Makes the collection have the gallery's rows; StoreError if its feature space is another."""
    opened = Gallery(gallery)
    try:
        with _client(uri) as client:
            _prepare(client, name, opened)
            there, known = _there(client, name)
            ours = np.concatenate(
                [part.ids[part.places] for part in opened.parts()] or [np.empty(0, np.int64)]
            )
            same = np.isin(ours, there)
            same[same] = _origins(opened, ours[same]) == known[np.isin(there, ours)]
            missing, gone = ours[~same], np.setdiff1d(there, ours).tolist()
            for first in range(0, len(missing), PUSHED_AT_ONCE):
                rows = missing[first : first + PUSHED_AT_ONCE]
                client.upsert(name, _entities(opened, rows))
            for first in range(0, len(gone), PUSHED_AT_ONCE):
                client.delete(name, ids=gone[first : first + PUSHED_AT_ONCE])
            opened.check()
            client.flush(name)
            client.load_collection(name)
            recall = _recall(client, name, opened, ours)
        return Pushed(inserted=len(missing), deleted=len(gone), rows=len(ours), recall=recall)
    finally:
        opened.close()


def search_collection(
    uri: str, name: str, features: NDArray[Any], top: int, which: Filter | None = None
) -> list[list[dict[str, Any]]]:
    """Of each query the rows found: `row`, `score`, `person_id`, `person`, `camera_id`, `camera`,
    `time` (seconds since 1970, NaN where it is unknown), `path`."""
    if not uri.startswith("http:") and not Path(uri).exists():
        raise StoreError(f"{uri}: no such file; push a gallery to it")
    with _client(uri) as client:
        if not client.has_collection(name):
            raise StoreError(f"{uri}: no collection {name}; push a gallery to it")
        fields = client.describe_collection(name)["fields"]
        dim = next(int(f["params"]["dim"]) for f in fields if f["name"] == "feature")
        queries, top = checked_queries(features, dim), checked_top(top)
        client.load_collection(name)
        found = _found(client, name, queries, top, which)
    return [
        [
            {
                "row": int(hit["id"]),
                "score": float(hit["distance"]),
                "person_id": int(hit["entity"]["person"]),
                "person": hit["entity"]["person_name"] or _said(hit["entity"]["person"], NO_PERSON),
                "camera_id": int(hit["entity"]["camera"]),
                "camera": hit["entity"]["camera_name"] or _said(hit["entity"]["camera"], NO_CAMERA),
                "time": math.nan if hit["entity"]["time"] == NO_TIME else hit["entity"]["time"],
                "path": hit["entity"]["path"],
            }
            for hit in hits
        ]
        for hits in found
    ]


def _said(number: int, unknown: int) -> str:
    return UNKNOWN if number == unknown else str(number)


def expression(which: Filter | None) -> str:
    """A filter in Milvus' own words."""
    if which is None:
        return ""
    terms = []
    for what, words, is_wanted in (
        ("person", which.persons, True),
        ("person", which.not_persons, False),
        ("camera", which.cameras, True),
    ):
        if words is not None:
            names, numbers = names_and_numbers(what, words)
            said = json.dumps(names)
            term = f'({what}_name in {said} or ({what}_name == "" and {what} in {numbers}))'
            terms.append(term if is_wanted else f"not {term}")
    if which.since is not None:
        terms.append(f"time >= {which.since!r}")
    if which.until is not None:
        terms.append(f"(time <= {which.until!r} and time > {NO_TIME!r})")
    return " and ".join(terms)


def _found(
    client: Any, name: str, queries: NDArray[np.float64], top: int, which: Filter | None
) -> Any:
    return client.search(
        name,
        data=queries.astype(np.float32).tolist(),
        anns_field="feature",
        limit=top,
        filter=expression(which),
        output_fields=FIELDS,
    )


def _prepare(client: Any, name: str, opened: Gallery) -> None:
    space = json.dumps(opened.generation.space, sort_keys=True)
    if client.has_collection(name):
        said = client.describe_collection(name)
        # milvus-lite forgets the description.
        there = said.get("properties", {}).get(SPACE) or said.get("description", "")
        if there != space:
            raise StoreError(
                f"collection {name}: of another feature space ({there[:200]}); give another "
                "--collection"
            )
        if not {ORIGIN, "camera_name"} <= {field["name"] for field in said["fields"]}:
            raise StoreError(
                f"collection {name}: of an earlier distreid, which did not note whose rows it has, "
                "or their cameras' names; drop it, or give another --collection"
            )
        return
    pymilvus = _pymilvus()
    kinds = pymilvus.DataType
    schema = client.create_schema(auto_id=False, description=space)
    schema.add_field("id", kinds.INT64, is_primary=True)
    schema.add_field("feature", kinds.FLOAT_VECTOR, dim=opened.dim)
    for field in (ORIGIN, "person", "camera"):
        schema.add_field(field, kinds.INT64)
    schema.add_field("time", kinds.DOUBLE)
    for field in ("person_name", "camera_name", "path"):
        schema.add_field(field, kinds.VARCHAR, max_length=PATH_BYTES)
    index = client.prepare_index_params()
    # Within one file of milvus-lite it is a flat scan; a server makes the index it is best at.
    index.add_index("feature", index_type="AUTOINDEX", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=index, properties={SPACE: space})


def _entities(opened: Gallery, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    place = opened.place_of(rows)
    features = opened.features(rows.tolist())
    columns = {name: opened.column(name, place) for name in ("person_id", "camera_id", "time")}
    names = {
        what: [
            "" if number == unknown or name == str(number) else str(name)
            for name, number in zip(
                opened.names(what, place), columns[f"{what}_id"].tolist(), strict=True
            )
        ]
        for what, unknown in (("person", NO_PERSON), ("camera", NO_CAMERA))
    }
    origins = _origins(opened, rows)
    paths = [os.fsdecode(path) for path in opened.column("path", place).tolist()]
    return [
        {
            "id": int(rows[i]),
            "feature": features[i].tolist(),
            ORIGIN: int(origins[i]),
            "person": int(columns["person_id"][i]),
            "person_name": names["person"][i],
            "camera": int(columns["camera_id"][i]),
            "camera_name": names["camera"][i],
            "time": NO_TIME if np.isnan(columns["time"][i]) else float(columns["time"][i]),
            "path": paths[i].encode("utf-8", "backslashreplace").decode()[: PATH_BYTES // 4],
        }
        for i in range(len(rows))
    ]


def _origins(opened: Gallery, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each row: another one for another run, other features in its shard, another
    row of the run or another person."""
    place = opened.place_of(rows)
    source, person = opened.column("source", place), opened.column("person_id", place)
    number, origins = opened.part_of(place), np.empty(len(rows), np.uint64)
    for i, run in enumerate(opened.runs):
        of_run = number == i
        said = f"{run.segment.digest} {run.segment.prefix}".encode()
        origins[of_run] = int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "little")
        shard = source[of_run] // run.columns.facts["shard_rows"]
        checksum = read_array(run.columns.folder, "shards")[shard, 2]
        for value, factor in zip(
            (source[of_run], person[of_run], checksum), ORIGIN_FACTORS, strict=True
        ):
            origins[of_run] += value.astype(np.uint64) * np.uint64(factor)  # modulo 2 ** 64
    return origins.view(np.int64)


def _there(client: Any, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ascending ids of every row of the collection, and their origins."""
    client.load_collection(name)
    found: list[tuple[int, int]] = []
    pages = client.query_iterator(name, batch_size=PUSHED_AT_ONCE, output_fields=["id", ORIGIN])
    while page := pages.next():
        found += [(int(row["id"]), int(row[ORIGIN])) for row in page]
    pages.close()
    ids, origins = np.array(found, np.int64).reshape(-1, 2).T
    there, first = np.unique(ids, return_index=True)
    return there, origins[first]


def _recall(client: Any, name: str, opened: Gallery, ours: NDArray[np.int64]) -> float:
    if not len(ours):
        return 1.0
    asked = ours[:: -(-len(ours) // ASKED_ROWS)]
    queries = checked_queries(opened.features(asked.tolist()), opened.dim)
    exact = opened.search(queries, TOP).rows
    found = _found(client, name, queries, TOP, None)
    shares = [
        np.isin(truth, [int(hit["id"]) for hit in hits]).mean()
        for truth, hits in zip(exact, found, strict=True)
    ]
    return float(np.mean(shares))


@contextmanager
def _client(uri: str) -> Iterator[Any]:
    pymilvus = _pymilvus()
    client = None
    try:
        client = pymilvus.MilvusClient(uri)
        yield client
    except pymilvus.exceptions.MilvusException as error:
        said = " ".join(str(getattr(error, "message", error)).split())
        raise StoreError(f"{uri}: Milvus says: {said[:300]}") from error
    finally:
        if client is not None:
            client.close()


def _pymilvus() -> Any:
    logging.getLogger("pymilvus").setLevel(logging.ERROR)  # it tells how it helps itself
    try:
        return importlib.import_module("pymilvus")
    except ImportError as error:
        raise OptionError(f"pymilvus is not there: {EXTRA}") from error

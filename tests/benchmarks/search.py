"""Exact search beside faiss: python tests/benchmarks/search.py [--rows N] [--only NAME …]

The rows are features of the sample's network over the sample's images with noise on every
coordinate (`real`), or clusters in all directions (`isotropic`); the queries are rows with more
noise. All sides answer the same queries in turns, with as many threads, and the answers are
compared. `gallery` times opening, adding and hiding; `hnsw` and `ivfpq` build such an index of a
gallery and search by it, beside faiss by the same one and the exact search. Times are medians in
ms; `cpu` is the processor's time, which others on the machine disturb less. Needs faiss
(pip install 'distreid[search]').
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

import distreid
from distreid.data.manifest import build_manifest
from distreid.nearest.codes import Codes, encode, learn
from distreid.nearest.exact_search import Part, StoredRows, search, unit_queries
from distreid.nearest.side_by_side import threads
from distreid.search.approximate import KINDS as INDEX_KINDS
from distreid.search.approximate import build, read_faiss_index
from distreid.search.changes import Manner, add, create, remove
from distreid.search.gallery import Gallery
from distreid.search.index import HARDER
from distreid.store.plan import Plan, shard_rows_for
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows, write_shard

Floats = NDArray[np.float32]
AT_ONCE = 100_000
PERSON_ROWS = 20
QUIET = Manner(say=lambda line: None)


def real_rows(count: int, dim: int, rng: np.random.Generator) -> Floats:
    """The sample's features over and over, each time with other noise; of fewer dimensions, the
    first principal ones."""
    with tempfile.TemporaryDirectory() as folder:
        store = distreid.extract_features(
            "sample", "sample", Path(folder) / "run", evaluate=False, num_workers=0
        )
        assert isinstance(store, distreid.Store)
        base = store.features[:].astype(np.float32)
    if dim < base.shape[1]:
        base = base @ np.linalg.svd(base, full_matrices=False)[2][:dim].T
    rows = np.empty((count, dim), np.float32)
    for start in range(0, count, AT_ONCE):
        part = rows[start : start + AT_ONCE]
        part[:] = base[rng.integers(0, len(base), len(part))]
        part += 0.25 / np.sqrt(dim) * rng.standard_normal(part.shape, np.float32)
        # And a change of their own along the features' directions, as other persons are.
        weights = rng.standard_normal((len(part), 8), np.float32) / np.sqrt(8)
        others = base[rng.integers(0, len(base), 8)]
        part += 0.5 * weights @ (others - base.mean(axis=0))
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def isotropic_rows(count: int, dim: int, rng: np.random.Generator) -> Floats:
    """Twenty rows a person, noise of 0.7."""
    rows = np.empty((count, dim), np.float32)
    for start in range(0, count, AT_ONCE):
        part = rows[start : start + AT_ONCE]
        persons = rng.standard_normal((-(-len(part) // PERSON_ROWS), dim), np.float32)
        persons /= np.linalg.norm(persons, axis=1, keepdims=True)
        part[:] = np.repeat(persons, PERSON_ROWS, 0)[: len(part)]
        part += 0.7 / np.sqrt(dim) * rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


KINDS = {"real": real_rows, "isotropic": isotropic_rows}


def coded(rows: Floats) -> tuple[Codes, dict[int, float]]:
    """As a gallery codes its rows."""
    compared = rows[:: max(1, len(rows) // 200_000)]
    asked = compared[:: -(-len(compared) // 32)]
    top = 1 + max(1, round(12 * len(compared) / len(rows)))
    threshold = np.sort(asked @ compared.T, axis=1)[:, -top] * np.float32(HARDER)
    directions, tried = learn(compared[::10], asked, threshold, len(rows))
    return encode(directions, [rows]), tried


def turns(
    sides: dict[str, Callable[[int], Any]], rounds: int
) -> dict[str, tuple[float, float, list[Any]]]:
    """Of each side: the median of its seconds, the least of its processor seconds, its answers."""
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    answers: dict[str, list[Any]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name, ask in sides.items():
            started, used = time.perf_counter(), time.process_time()
            answers[name].append(ask(turn))
            cpu[name].append(time.process_time() - used)
            wall[name].append(time.perf_counter() - started)
    return {name: (statistics.median(wall[name]), min(cpu[name]), answers[name]) for name in sides}


def compare(kind: str, count: int, dim: int, rounds: int, many: int, panorama: bool) -> None:
    rng = np.random.default_rng(0)
    rows = KINDS[kind](count, dim, rng)
    queries = rows[rng.integers(0, count, max(many, rounds))]
    queries = queries + 0.3 / np.sqrt(dim) * rng.standard_normal(queries.shape, np.float32)
    unit = unit_queries(queries)
    single = unit.astype(np.float32)
    started = time.perf_counter()
    codes, tried = coded(rows)
    say(kind, count, dim, what="build", seconds=round(time.perf_counter() - started, 1))
    width = codes.code.shape[1]
    rest = 0 if codes.finer is None else codes.finer.code.shape[1]
    of_fp32 = round((width + rest) / (4 * dim), 4)
    say(kind, count, dim, what="codes", width=width, rest=rest, of_fp32=of_fp32)
    say(kind, count, dim, what="left by width", **{str(w): round(s, 6) for w, s in tried.items()})
    pieces = [rows[start : start + 8192] for start in range(0, count, 8192)]
    stored = StoredRows(pieces=pieces, source=np.arange(count))
    part = Part(rows=stored, ids=np.arange(count), codes=codes)
    tenth = np.sort(rng.choice(count, count // 10, replace=False)).astype(np.int32)
    filtered = Part(rows=stored, ids=part.ids, codes=codes, live=tenth)
    search([part], unit[:1], 10), search([filtered], unit[:1], 10), search([part], unit[:50], 10)
    flat = faiss.IndexFlatIP(dim)
    flat.add(rows)
    faiss.omp_set_num_threads(threads())
    sides: dict[str, Callable[[int], Any]] = {
        "distreid": lambda turn: search([part], unit[turn : turn + 1], 10),
        "filter 10 %": lambda turn: search([filtered], unit[turn : turn + 1], 10),
        "flat": lambda turn: flat.search(single[turn : turn + 1], 10)[1],
    }
    if panorama:
        # The rotation by all directions, which Panorama takes level by level.
        sample = rows[:: max(1, count // 20_000)]
        energy, basis = np.linalg.eigh(sample.T.astype(np.float64) @ sample)
        rotation = np.ascontiguousarray(basis[:, np.argsort(-energy)], np.float32)
        index = faiss.IndexFlatIPPanorama(dim, 16, 1024)
        for start in range(0, count, AT_ONCE):
            index.add(rows[start : start + AT_ONCE] @ rotation)
        turned = single @ rotation
        sides["panorama"] = lambda turn: index.search(turned[turn : turn + 1], 10)[1]
    found = turns(sides, rounds)
    same = sum(
        ours.ids.tolist() == flats.tolist()
        for ours, flats in zip(found["distreid"][2], found["flat"][2], strict=True)
    )
    scored = [int(answer.scored.sum()) for answer in found["distreid"][2]]
    report(kind, count, dim, "one query", found, equal=f"{same}/{rounds}", scored=scored)
    sides = {
        "distreid": lambda turn: search([part], unit[:many], 10),
        "flat": lambda turn: flat.search(single[:many], 10)[1],
    }
    found = turns(sides, 1)
    same = int((found["distreid"][2][0].ids == found["flat"][2][0]).all(axis=1).sum())
    report(kind, count, dim, f"{many} queries", found, equal=f"{same}/{many}")


def report(kind: str, count: int, dim: int, what: str, found: dict[str, Any], **more: Any) -> None:
    flat = found["flat"]
    if "scored" in more:
        more["scored"] = f"{statistics.mean(more['scored']):.0f}, at most {max(more['scored'])}"
    for name, (wall, cpu, _) in found.items():
        say(
            kind,
            count,
            dim,
            what=what,
            side=name,
            ms=round(1e3 * wall, 2),
            cpu_ms=round(1e3 * cpu, 2),
            times_flat=round(flat[0] / wall, 1),
            times_flat_cpu=round(flat[1] / cpu, 1),
            **(more if name == "distreid" else {}),
        )


def written(folder: Path, rows: Floats) -> Path:
    """A run with these features, as an import makes it."""
    dim = rows.shape[1]
    manifest = build_manifest(
        root=folder.parent,
        layout="csv",
        path=[f"{folder.name}/{i:08d}.jpg".encode() for i in range(len(rows))],
        person_id=(np.arange(len(rows)) // PERSON_ROWS + 1).tolist(),
        camera_id=(np.arange(len(rows)) % 10 + 1).tolist(),
    )
    identity = {"imported": "", "dim": dim, "manifest": manifest.fingerprint()}
    plan = Plan(
        manifest=manifest,
        identity=identity,
        provenance={},
        dim=dim,
        dtype="float32",
        shard_rows=shard_rows_for(len(rows)),
    )
    for shard in begin(folder, plan):
        part = rows[shard.start : shard.stop]
        ones, zeros = np.ones(len(part), np.float32), np.zeros(len(part), np.uint8)
        write_shard(folder, plan, shard, Rows(features=part, norm=ones, status=zeros))
    finish(folder, plan)
    return folder


def approximate(index_kind: str, count: int, dim: int, rounds: int, many: int) -> None:
    """Through an index of a gallery, by faiss alone with the same one, and exactly."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = real_rows(count, dim, rng)
        create(folder / "g", [written(folder / "run", rows)], QUIET)
        built = build(folder / "g", index_kind, 0.99, QUIET)
        say("real", count, dim, what="index", built=vars(built))
        queries = rows[rng.integers(0, count, max(many, rounds))]
        queries = queries + 0.3 / np.sqrt(dim) * rng.standard_normal(queries.shape, np.float32)
        single = unit_queries(queries).astype(np.float32)
        with distreid.open_gallery(folder / "g") as opened:
            known = opened.reader.generation.approximate
            assert known
            index = read_faiss_index(opened.reader.folder / known["folder"])
            faiss.omp_set_num_threads(threads())
            for asked, turn_count in ((1, rounds * 20), (many, 5)):
                sides: dict[str, Callable[[int], Any]] = {
                    "distreid": searcher(
                        single, asked, lambda part: opened.search(part, 10, approximate=True)
                    ),
                    "flat": searcher(single, asked, lambda part: index.answer(part, 10, None)),
                    "exact": searcher(single, asked, lambda part: opened.search(part, 10)),
                }
                found = turns(sides, turn_count)
                what = f"{index_kind}, {asked} at once (flat: faiss alone)"
                report("real", count, dim, what, found)


def searcher(
    queries: Floats, at_once: int, search: Callable[[Floats], Any]
) -> Callable[[int], Any]:
    """Searches for other ones of them at each turn."""
    places = max(1, len(queries) - at_once + 1)
    return lambda turn: search(queries[turn % places :][:at_once])


def gallery(count: int, dim: int) -> None:
    """Opening, adding and hiding, on a gallery of imported runs."""
    rng, how = np.random.default_rng(1), QUIET

    def timed(what: str, work: Callable[[], Any]) -> Any:
        os.sync()  # else what was written before is waited for
        started = time.perf_counter()
        result = work()
        say("real", count, dim, what=what, seconds=round(time.perf_counter() - started, 3))
        return result

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = real_rows(count, dim, rng)
        run = written(folder / "large", rows)
        added = written(folder / "small", real_rows(10_000, dim, rng))
        query = rows[:1].copy()
        del rows
        timed("create", lambda: create(folder / "g", [run], how))
        opened = timed("open", lambda: Gallery(folder / "g"))
        opened.search(query)
        opened.close()
        timed("add 10,000", lambda: add(folder / "g", added, how))
        chosen = rng.choice(count, 1000, replace=False).tolist()
        timed("hide 1,000", lambda: remove(folder / "g", how, rows=chosen))
        opened = timed("open again", lambda: Gallery(folder / "g"))
        timed("first query", lambda: opened.search(query))
        size = sum(file.stat().st_size for file in (folder / "g").rglob("*") if file.is_file())
        say(
            "real",
            count,
            dim,
            what="gallery's own files",
            of_fp32=round(size / (4 * count * dim), 4),
        )
        opened.close()


def say(kind: str, count: int, dim: int, **figures: Any) -> None:
    print(
        json.dumps({"rows": f"{kind} {count:,} × {dim}"} | figures, ensure_ascii=False), flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--no-panorama", action="store_true")
    parser.add_argument(
        "--only", nargs="+", choices=(*KINDS, "gallery", *INDEX_KINDS), default=[*KINDS]
    )
    parsed = parser.parse_args()
    print(
        json.dumps({"faiss": faiss.__version__, "threads": threads(), "load": os.getloadavg()[0]})
    )
    for name in parsed.only:
        if name == "gallery":
            gallery(parsed.rows, parsed.dim)
        elif name in INDEX_KINDS:
            approximate(name, parsed.rows, parsed.dim, parsed.rounds, parsed.many)
        else:
            panorama = not parsed.no_panorama
            compare(name, parsed.rows, parsed.dim, parsed.rounds, parsed.many, panorama)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"peak_gb": round(peak, 2), "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()

"""What ten million rows take: time and peak memory of every step but the model's.

    python tests/benchmarks/rows.py --rows 10000000 --dim 64

A synthetic manifest without images, random features in place of a model's, the library's usual
shards. Every step is a process of its own, so that its peak of memory is its own; the first
figure is what the interpreter with its libraries takes. Time is by the clock, and the cores' own,
which other jobs on the machine change less. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from distreid.data.manifest import build_manifest
from distreid.job.status import run_status
from distreid.store import FeatureStore
from distreid.store.plan import Plan, Shard, shard_rows_for
from distreid.store.root_file import existing_plan
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows, shard_file, write_shard
from distreid.store.verification import verify_run


def synthetic(rows: int, dim: int, dtype: str = "float32") -> Plan:
    """A plan of rows that no image stands behind."""
    manifest = build_manifest(
        root=Path("/nowhere"),
        layout="csv",
        path=[b"%08d/%04d_c%ds1_%06d.jpg" % (i // 1000, i % 9999, i % 6, i) for i in range(rows)],
        person_id=[i % 9999 for i in range(rows)],
        camera_id=[i % 6 for i in range(rows)],
        split=["query" if i % 100 == 0 else "gallery" for i in range(rows)],
    )
    return Plan(
        manifest=manifest,
        identity={"manifest": manifest.fingerprint(), "weights": "none"},
        provenance={},
        dim=dim,
        dtype=dtype,
        shard_rows=shard_rows_for(rows),
    )


def fill(run: Path, plan: Plan, shards: list[Shard]) -> None:
    """Writes these shards with random features of length 1."""
    generator = np.random.default_rng(0)
    for shard in shards:
        features = generator.standard_normal((len(shard), plan.dim), dtype=np.float32)
        norm = np.linalg.norm(features, axis=1)
        rows = Rows(
            features=(features / norm[:, None]).astype(plan.stored_type),
            norm=norm,
            status=np.zeros(len(shard), np.uint8),
        )
        write_shard(run, plan, shard, rows)


def _rows(run: Path, rows: int, dim: int) -> None:
    synthetic(rows, dim)


def _plan(run: Path, rows: int, dim: int) -> None:
    begin(run, synthetic(rows, dim))


def _fingerprint(run: Path, rows: int, dim: int) -> None:
    plan = existing_plan(run)
    assert plan
    assert plan.manifest.fingerprint() == plan.identity["manifest"]


def _fill_half(run: Path, rows: int, dim: int) -> None:
    plan = existing_plan(run)
    assert plan
    fill(run, plan, plan.shards[::2])


def _resume(run: Path, rows: int, dim: int) -> None:
    plan = existing_plan(run)
    assert plan
    todo = begin(run, plan)
    assert len(todo) == len(plan.shards) // 2


def _fill_rest(run: Path, rows: int, dim: int) -> None:
    plan = existing_plan(run)
    assert plan
    fill(run, plan, [shard for shard in plan.shards if not shard_file(run, shard.index).exists()])


def _finish(run: Path, rows: int, dim: int) -> None:
    plan = existing_plan(run)
    assert plan
    finish(run, plan)


STEPS: dict[str, Callable[[Path, int, int], object]] = {
    "nothing": lambda run, rows, dim: None,
    "rows, from Python's lists": _rows,
    "and their plan.h5": _plan,
    "read the plan": lambda run, rows, dim: existing_plan(run),
    "and fingerprint its rows": _fingerprint,
    "(write half)": _fill_half,
    "status": lambda run, rows, dim: run_status(run),
    "resume": _resume,
    "(write the rest)": _fill_rest,
    "finish": _finish,
    "verify": lambda run, rows, dim: verify_run(run),
    "open": lambda run, rows, dim: FeatureStore.open(run),
    "status of a complete run": lambda run, rows, dim: run_status(run),
}


def measure(name: str, run: Path, rows: int, dim: int) -> tuple[float, float, int]:
    """Seconds by the clock, seconds of the cores, and the peak of resident memory in bytes."""
    started, used = time.perf_counter(), time.process_time()
    STEPS[name](run, rows, dim)
    taken, used = time.perf_counter() - started, time.process_time() - used
    return taken, used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Every step in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="instead of the system's temporary one")
    options = parser.parse_args()
    context, found = multiprocessing.get_context("spawn"), {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name in STEPS:
            with context.Pool(1) as pool:
                arguments = (name, Path(folder), options.rows, options.dim)
                seconds, cores, peak = pool.apply(measure, arguments)
            print(
                f"{name:32} {seconds:8.2f} s, of the cores {cores:8.2f} s {peak / 1e6:8,.0f} MB",
                flush=True,
            )
            found[name] = {"seconds": seconds, "core_seconds": cores, "peak_bytes": peak}
    print(json.dumps({"rows": options.rows, "dim": options.dim, "steps": found}))


if __name__ == "__main__":
    main()

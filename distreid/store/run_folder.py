"""A run's folder from its first shard to its last: begun, continued, verified, finished."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from distreid.data.manifest import Manifest, Status
from distreid.errors import StoreError, printable
from distreid.host.atomic_files import check_target
from distreid.host.counts import counted
from distreid.store.plan import Plan, Shard, differences, short, to_json
from distreid.store.root_file import ROOTS, Columns, existing_plan, write_root
from distreid.store.shards import done_shards, read_shard, shard_file, verify_shard

CALIBRATION = "calibration.json"
"""The file in a run of `distreid calibrate`: thresholds, and counts of scores, of nobody's own."""
INT8_FILES = ("int8.xml", "int8.bin")
"""The network of an int8 run, in OpenVINO's format."""
PICTURES = "pictures"
"""The folder in a run of what its report shows."""
OWN_FILES = (*ROOTS, CALIBRATION, *INT8_FILES, "metrics.json")


def check_result(file: Path, *sources: Path | None) -> None:
    """`check_target` for a result that a user names; StoreError too if it is what the command
    reads: a file, or one of a run's own."""
    check_target(file)
    target = file.resolve()
    for source in filter(None, sources):
        own = {(source / name).resolve() for name in ("", *OWN_FILES)}
        if target in own or target.parent == (source / "shards").resolve():
            raise StoreError(f"{file}: would replace what is read, {source}; give another name")


def begin(run: Path, plan: Plan) -> list[Shard]:
    """Starts or continues a run; gives the shards that are still to be computed.

    Called by one process. Raises StoreError if the folder holds a run of another
    identity, naming the fields, or something that is no run.
    """
    try:
        (run / "shards").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{run}: {error.strerror}; check the path") from error
    is_run = any((run / name).exists() for name in ROOTS)
    todo = remaining(run, plan)
    for left_over in (*run.glob("*.tmp"), *(run / "shards").glob("*.tmp")):
        if ".lock." not in left_over.name:  # of another job, which is about to be refused
            left_over.unlink(missing_ok=True)
    if todo or not is_run:
        write_root(run / "plan.h5", plan)
        # A store that has lost a shard must not look complete while it is mended.
        (run / "store.h5").unlink(missing_ok=True)
    return todo


def remaining(run: Path, plan: Plan) -> list[Shard]:
    """What `begin` would give or refuse; changes nothing."""
    present = existing_plan(run)
    done = done_shards(run) if (run / "shards").is_dir() else set()
    if present is None:
        _adopt(run, plan, done)
    else:
        asked = json.loads(to_json(plan.identity)) | {"shard_rows": plan.shard_rows}
        there = present.identity | {"shard_rows": present.shard_rows}
        differing = differences(there, asked, words="it has {ours}, asked for is {theirs}")
        if differing:
            raise StoreError(
                f"{run} holds another run ({'; '.join(differing)}"
                f"{_first_row(present.manifest, plan.manifest)}); "
                f"{'' if done else 'no shard of it is done: '}"
                "give another --out, or delete that folder"
            )
    return [shard for shard in plan.shards if shard.index not in done]


def _first_row(there: Manifest, asked: Manifest) -> str:
    """Where two lists of images differ first, for a message; empty where they are the same."""
    if len(there) != len(asked):
        return f"; it has {counted(len(there), 'row')}, asked for are {len(asked):,}"
    ours, theirs = there.columns(), asked.columns()
    if ours.keys() != theirs.keys():
        name = min(ours.keys() ^ theirs.keys())
        return f"; {'it' if name in ours else 'what is asked for'} has a column {name}"
    for name, column in ours.items():
        differing = np.flatnonzero(column != theirs[name])
        if len(differing):
            row = int(differing[0])
            values = (column[row], theirs[name][row])
            a, b = (os.fsdecode(v) if isinstance(v, bytes) else v for v in values)
            return printable(f"; first in row {row}: {name} {short(a)}, asked for is {short(b)}")
    return ""


def _adopt(run: Path, plan: Plan, done: set[int]) -> None:
    """Takes the shards that are there for this run's, whose plan was lost, if they are."""
    for index in sorted(done):
        try:
            read_shard(run, plan, plan.shards[index])
        except (StoreError, IndexError) as error:
            raise StoreError(
                f"{run}: shards without a plan, and not of this run ({shard_file(run, index).name})"
                "; give another --out"
            ) from error


def examine(run: Path, plan: Plan, shards: Sequence[Shard]) -> list[Columns | StoreError]:
    """Reads every byte of these shards, several at a time: what each says, or what is wrong."""

    def look(shard: Shard) -> Columns | StoreError:
        try:
            rows = verify_shard(run, plan, shard)
        except StoreError as error:
            return error
        return Columns(norm=rows.norm, status=rows.status)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(look, shards))


def verify(run: Path, plan: Plan) -> Columns:
    """Reads every byte of every shard; gives what the shards say of each row, in order.

    StoreError names the first shard that is missing, damaged or of another run, or the
    first row whose features do not fit its status.
    """
    parts, errors = [], []
    for found in examine(run, plan, plan.shards):
        if isinstance(found, StoreError):
            errors.append(found)
        else:
            parts.append(found)
    if len(errors) > 1:
        raise StoreError(f"{errors[0]} ({len(errors) - 1:,} more: see distreid verify {run})")
    if errors:
        raise errors[0]
    return join(parts)


def join(parts: Sequence[Columns]) -> Columns:
    """The columns of all shards, from each shard's in order."""
    return Columns(
        norm=np.concatenate([part.norm for part in parts]),
        status=np.concatenate([part.status for part in parts]),
    )


def finish(run: Path, plan: Plan) -> None:
    """Verifies every shard, then writes `store.h5`; StoreError if no image could be read."""
    columns = verify(run, plan)
    if not (columns.status == Status.OK).any():
        rows = len(plan.manifest)
        raise StoreError(f"{run}: none of {counted(rows, 'image')} could be read; check --data")
    write_root(run / "store.h5", plan, columns)
    (run / "plan.h5").unlink(missing_ok=True)

"""How far a run is, also while it is made: seen from its files, by any host."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distreid.data.locators import is_address, path_of
from distreid.data.objects import check_runs_address
from distreid.host.atomic_files import check_column, open_hdf5
from distreid.host.counts import counted
from distreid.host.folder_lock import DEAD_AFTER_S, holders, last_sign
from distreid.host.progress import duration
from distreid.store.plan import Shard, plan_shards
from distreid.store.root_file import ROOTS, no_run
from distreid.store.run_copy import RunCopy
from distreid.store.shards import bad_images_in, done_shards, shard_file


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run is."""

    complete: bool
    rows: int
    rows_done: int
    shards: int
    shards_done: int
    bad_images: int | None
    """Among the rows done; None where no shard is read for it, of a run in an object store that is
    not complete."""
    job: str | None
    """Who is at work; empty if nobody is, None where it cannot be known, in an object store."""
    images_per_second: float | None
    """Since that job began; None before its first shard, or if nobody is at work."""
    seconds_left: float | None
    identity: dict[str, Any]

    def describe(self) -> str:
        """One line for people."""
        state = "complete" if self.complete else "not complete"
        line = (
            f"{state}; {self.rows_done:,} of {counted(self.rows, 'image')}, "
            f"{self.shards_done:,} of {counted(self.shards, 'shard')}"
        )
        if self.bad_images is not None:
            line += f", {counted(self.bad_images, 'bad image')}"
        if self.images_per_second is not None and self.seconds_left is not None:
            line += f"; {self.images_per_second:,.0f} images/s, {duration(self.seconds_left)} left"
        if self.job:
            return f"{line}; at work: {self.job}"
        return line if self.complete or self.job is None else f"{line}; no job is at work"


def run_status(run: Path) -> RunStatus:
    """Looks at a run. Nothing is verified, and no feature read: it takes a moment."""
    if is_address(run):
        return _status_in_store(path_of(str(run)))
    root, rows, shards, identity = _read_root(run, run)
    done = done_shards(run)
    there = [shard for shard in shards if shard.index in done]
    files = [shard_file(run, shard.index) for shard in there]
    complete = root.name == "store.h5" and len(there) == len(shards)
    rows_done, job = sum(map(len, there)), _at_work(run)
    rate = _rate(run, there) if job else None
    return RunStatus(
        complete=complete,
        rows=rows,
        rows_done=rows_done,
        shards=len(shards),
        shards_done=len(there),
        bad_images=sum(map(bad_images_in, [root] if complete else files)),
        job=job,
        images_per_second=rate,
        seconds_left=(rows - rows_done) / rate if rate else None,
        identity=identity,
    )


def _status_in_store(address: Path) -> RunStatus:
    """By the list of its objects; only its plan is fetched, and its copy left alone."""
    check_runs_address(str(address))
    with tempfile.TemporaryDirectory() as folder, RunCopy(address, Path(folder)).named() as copy:
        there = copy.listed()
        copy.fetch({name: there[name] for name in ROOTS if name in there})
        root, rows, shards, identity = _read_root(copy.folder, address)
        names = {shard: str(shard_file(Path(), shard.index)) for shard in shards}
        done = [shard for shard in shards if names[shard] in there]
        complete = root.name == "store.h5" and len(done) == len(shards)
        return RunStatus(
            complete=complete,
            rows=rows,
            rows_done=sum(map(len, done)),
            shards=len(shards),
            shards_done=len(done),
            bad_images=bad_images_in(root) if complete else None,
            job=None,
            images_per_second=None,
            seconds_left=None,
            identity=identity,
        )


def _read_root(folder: Path, run: Path) -> tuple[Path, int, list[Shard], dict[str, Any]]:
    """The root file in a folder, and what it says: rows, shards, identity. StoreError names the
    run."""
    root = next((folder / name for name in ROOTS if (folder / name).exists()), None)
    if root is None:
        raise no_run(run)
    with open_hdf5(root) as file:
        rows = len(file["path"])
        check_column(file["path"], rows, "S")
        shards = plan_shards(rows, int(file.attrs["shard_rows"]))
        return root, rows, shards, json.loads(file.attrs["identity"])


def _rate(run: Path, done: list[Shard]) -> float | None:
    """Images/s of the shards that are younger than the plan, which a job writes as it begins.

    All times are the file system's.
    """
    try:
        began = (run / "plan.h5").stat().st_mtime
    except FileNotFoundError:
        return None
    times = {shard: shard_file(run, shard.index).stat().st_mtime for shard in done}
    fresh = {shard: at for shard, at in times.items() if at > began}
    if not fresh:
        return None
    return sum(map(len, fresh)) / (max(fresh.values()) - began)


def _at_work(run: Path) -> str:
    """The job that has the folder, with its last sign of life if it is another machine's."""
    for file, holder in holders(run).items():
        runs = holder.runs()
        silent_s = max(0.0, time.time() - last_sign(file))
        if runs:
            return str(holder)
        if runs is None and silent_s < DEAD_AFTER_S:
            return f"{holder}, last sign of life {duration(silent_s)} ago"
    return ""

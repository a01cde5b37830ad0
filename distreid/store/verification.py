"""What of a run is good, file by file, and the removal of what is not."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from distreid.data.locators import is_address, path_of
from distreid.errors import StoreError
from distreid.host.atomic_files import MEND, check_bytes
from distreid.host.counts import counted
from distreid.host.folder_lock import hold
from distreid.store.plan import Plan
from distreid.store.root_file import (
    Columns,
    compare,
    no_run,
    read_columns,
    read_plan,
    write_root,
)
from distreid.store.run_copy import local_run
from distreid.store.run_folder import examine, join
from distreid.store.shards import done_shards, shard_file


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What every byte of a run was found to be."""

    run: Path
    plan: Plan | None
    """None if neither `store.h5` nor `plan.h5` is good."""
    complete: bool
    """Whether `store.h5` is there; then every shard should be."""
    good: int
    """Shards that are there and good."""
    bad: dict[Path, str]
    """File → a line that begins with its name and says what is wrong."""

    def describe(self) -> str:
        """How much is good."""
        if self.plan is None:
            return f"no plan that can be read; {self.good:,} shards fit their checksum"
        shards = len(self.plan.shards)
        if self.complete and not self.bad:
            return (
                f"{counted(len(self.plan.manifest), 'row')} in {counted(shards, 'shard')}, each "
                "exactly once; every checksum fits"
            )
        return f"{self.good:,} of {counted(shards, 'shard')} there and good"

    def problem(self) -> str:
        """Why the run cannot be used as it is, and what to do; empty if it can."""
        if self.bad:
            return (
                f"{counted(len(self.bad), 'file')} missing or damaged; distreid verify --repair "
                "removes what is damaged, and the same extraction makes it again"
            )
        return "" if self.complete else "not finished; run the same extraction again"


def verify_run(run: Path) -> Findings:
    """Reads every byte of a run, complete or not, or of the copy of one in an object store;
    StoreError if there is none."""
    run = local_run(run, unfinished=True)
    plan, claimed, bad = None, None, {}
    root = run / "store.h5"
    for file in (run / "plan.h5", root):
        try:
            plan = read_plan(file) if file.exists() else plan
            claimed = read_columns(file) if file == root and file.exists() else None
        except StoreError as error:
            bad[file] = str(error)
    if plan is None and not bad:
        raise no_run(run)
    complete = root.exists()
    if plan is None:
        good, bad_shards = _check_alone(run)
    else:
        good, bad_shards = _check_shards(run, plan, complete, claimed)
    return Findings(run=run, plan=plan, complete=complete, good=good, bad=bad | bad_shards)


def _check_shards(
    run: Path, plan: Plan, complete: bool, claimed: Columns | None
) -> tuple[int, dict[Path, str]]:
    """How many shards are good, and what is wrong with the others, or with what `store.h5`
    claims of them."""
    done = done_shards(run)
    shards = [shard for shard in plan.shards if complete or shard.index in done]
    parts, bad = [], {}
    for shard, found in zip(shards, examine(run, plan, shards), strict=True):
        if isinstance(found, StoreError):
            bad[shard_file(run, shard.index)] = str(found)
        else:
            parts.append(found)
    for index in sorted(done - {shard.index for shard in plan.shards}):
        file = shard_file(run, index)
        bad[file] = f"{file}: the plan has no such shard; {MEND}"
    if claimed and len(parts) == len(plan.shards):
        try:
            compare(run / "store.h5", claimed, join(parts))
        except StoreError as error:
            bad[run / "store.h5"] = str(error)
    return len(parts), bad


def _check_alone(run: Path) -> tuple[int, dict[Path, str]]:
    """Without a plan there is only each shard's own checksum: how many fit, and the others."""
    good, bad = 0, {}
    for file in (shard_file(run, index) for index in sorted(done_shards(run))):
        try:
            check_bytes(file)
            good += 1
        except StoreError as error:
            bad[file] = str(error)
    return good, bad


def repair_run(run: Path) -> Findings:
    """`verify_run`, and then removes the files that are bad, so that the same extraction makes
    them again; `store.h5` too, so that the run does not look complete.

    StoreError if a job is at work there, or a folder that lies in a file's place is not empty.
    """
    if is_address(run):
        raise StoreError(
            f"{path_of(str(run))}: --repair is of folders; delete the objects that verify names, "
            "and run the same extraction again"
        )
    if not run.is_dir():
        raise no_run(run)
    with hold(run, lambda line: print(line, file=sys.stderr)):
        findings = verify_run(run)
        if findings.bad:
            _remove_bad(run, findings)
    return findings


def _remove_bad(run: Path, findings: Findings) -> None:
    plan_file = run / "plan.h5"
    if plan_file in findings.bad:
        _remove(plan_file)
    if findings.plan:
        write_root(plan_file, findings.plan)
    for file in sorted({run / "store.h5", *findings.bad} - {plan_file}):
        _remove(file)


def _remove(file: Path) -> None:
    try:
        if file.is_dir():
            file.rmdir()
        else:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{file}: cannot be removed: {error.strerror}; do it yourself") from error

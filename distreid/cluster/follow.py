"""Submitted jobs to their end: states, one bar, one table, one exit status.

SLURM is asked through scontrol, which needs no accounting. A finished job is known to it for
MinJobAge, usually 5 minutes; after that, the output folder tells.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distreid.host.progress import ProgressReport
from distreid.host.terminal import print_whole
from distreid.report.scores import percent
from distreid.store.plan import Plan
from distreid.store.shards import done_shards

INTERVAL_S = 2.0
ERRORS_SHOWN = 5
ERROR = r"error:|Error:|^distreid: stopped"
# submitit's first line of each attempt.
ATTEMPT = " - Starting with JobEnvironment("
# NODE_FAIL and PREEMPTED are not among them: SLURM queues the job again.
ENDED = (
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
)
# What is in a job's log, and what it means.
HINTS = (
    (
        r"exec: .*not found|python\S*: (not found|No such file)",
        "the node has no such Python; install distreid where the nodes see it, or give --python",
    ),
    (
        r"No module named '?(distreid|submitit)",
        "the node's Python has no distreid; install it there, or give another --python",
    ),
    (r"srun: error: .*: Killed", "a process was killed; submit the same again to continue"),
    (r"oom.kill|Out Of Memory", "the memory is full; give more --mem-gb, or fewer --num-workers"),
    (r"DUE TO TIME LIMIT", "the time limit came; submit the same again to continue"),
    (r"DUE TO NODE FAILURE|Node failure", "a node failed; submit the same again to continue"),
)


@dataclass(frozen=True, kw_only=True)
class State:
    """Of a job, at one moment."""

    words: str
    status: int | None = None
    """The exit status; None until the job has ended."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that was submitted."""

    id: str
    look: Callable[[], State]
    log: Path
    """Of rank 0."""
    plan: Plan
    out: Path
    runs: list[Path]
    """`out`, or of several checkpoints the folders in it."""

    @property
    def logs(self) -> list[Path]:
        """Of all ranks that have one, by rank."""
        files = self.log.parent.glob(f"{self.id}_*_log.out")
        return sorted(files, key=lambda file: int(file.name.split("_")[-2]))

    @property
    def rows(self) -> int:
        """Of all its runs."""
        return len(self.plan.manifest) * len(self.runs)

    @property
    def rows_done(self) -> int:
        """In published shards."""
        there = [done_shards(run) for run in self.runs if (run / "shards").is_dir()]
        shards = self.plan.shards
        return sum(len(shard) for done in there for shard in shards if shard.index in done)


def announce(cluster: str, jobs: list[Job], log: Console) -> None:
    """Says where the jobs' logs are, how to watch them, and how to end them."""
    for job in jobs:
        log.print(f"job {job.id}", markup=False)
        lines = f"  log     {job.log}", f"  watch   distreid status {shlex.quote(str(job.out))}"
        log.print(*lines, sep="\n", markup=False)
    if cluster == "slurm":
        log.print(f"  queue   squeue -j {_number(jobs)}", markup=False)
    if cluster != "debug":
        log.print(f"  cancel  {shlex.join(_cancel(cluster, jobs))}", markup=False)


def follow_or_leave(cluster: str, jobs: list[Job], log: Console) -> int:
    """The exit status; at control-C its own: SLURM's jobs go on, those of this host end."""
    try:
        return follow(jobs, log)
    except KeyboardInterrupt:
        cancel = _cancel(cluster, jobs)
        if cluster == "slurm":
            log.print(f"distreid: no longer followed, but not ended; {shlex.join(cancel)} ends it")
            return 128 + signal.SIGINT
        if cluster == "local":
            subprocess.run(cancel, check=False)
            while any(job.look().status is None for job in jobs):
                time.sleep(0.1)
        raise


def _cancel(cluster: str, jobs: list[Job]) -> list[str]:
    """The command that ends the jobs."""
    return ["scancel", _number(jobs)] if cluster == "slurm" else ["kill", *(j.id for j in jobs)]


def _number(jobs: list[Job]) -> str:
    """SLURM's; an array has one for all its jobs."""
    return jobs[0].id.partition("_")[0]


def follow(jobs: list[Job], log: Console) -> int:
    """Shows the jobs' progress until all have ended, then the scores; the worst exit status."""
    watch = Watch(jobs, log)
    # Neither an hour in the queue nor the time of the scores belongs to the rate.
    watch.until(lambda: watch.running or watch.ended)
    total = sum(job.rows for job in jobs)

    def done() -> int:
        return sum(job.rows_done for job in jobs)

    if not watch.ended and done() < total:
        with ProgressReport(log, total, done):
            watch.until(lambda: watch.ended or done() == total)
    watch.until(lambda: watch.ended)
    for job in jobs:
        if watch.states[job.id].status:
            log.print(*reasons(job), sep="\n", markup=False)
    print_whole(score_lines([(job.id, run) for job in jobs for run in job.runs]))
    return max(state.status or 0 for state in watch.states.values())


class Watch:
    """The jobs' states, looked at again and again; each change is a line."""

    def __init__(self, jobs: list[Job], log: Console) -> None:
        self.jobs = jobs
        self.log = log
        self.states: dict[str, State] = {}

    @property
    def running(self) -> bool:
        """Whether one of them runs."""
        return any(state.words.startswith("RUNNING") for state in self.states.values())

    @property
    def ended(self) -> bool:
        """Whether all have."""
        return not self._open()

    def until(self, wanted: Callable[[], bool]) -> None:
        """Looks until it is so."""
        while not wanted():
            # slurmctld has others to answer: of many jobs, no more than one question a second.
            time.sleep(INTERVAL_S * max(1.0, len(self._open()) / 2))
            for job in self._open():
                before, now = self.states.get(job.id), job.look()
                self.states[job.id] = now
                if now != before:
                    self.log.print(f"job {job.id}: {now.words}", markup=False)

    def _open(self) -> list[Job]:
        known = self.states
        return [job for job in self.jobs if job.id not in known or known[job.id].status is None]


def slurm_state(job: str, runs: list[Path]) -> State:
    """By scontrol; by the output folders once SLURM has forgotten the job."""
    found, said = _show(job)
    if "Invalid job id" in said:
        complete = all((run / "store.h5").exists() for run in runs)
        return State(words="forgotten by SLURM", status=0 if complete else 1)
    if "JobState" not in found:
        return State(words=f"SLURM does not answer ({said})")
    words = found["JobState"]
    if words == "PENDING":
        words += f" ({found.get('Reason')})"
    if found.get("Restarts", "0") != "0":
        words += f", attempt {int(found['Restarts']) + 1}"
    if found["JobState"] not in ENDED:
        return State(words=words)
    code, number = (int(part) for part in found["ExitCode"].split(":"))
    status = code or (128 + number if number else 0)
    if found["JobState"] != "COMPLETED":
        status = status or 1
    return State(words=f"{words}, exit status {status}", status=status)


def preempted(job: str | None) -> bool:
    """Whether SLURM has told a running job to make room for another."""
    found, _ = _show(job) if job else ({}, "")
    return found.get("JobState") == "RUNNING" and found.get("PreemptTime", "None") != "None"


def _show(job: str) -> tuple[dict[str, str], str]:
    """The fields of `scontrol show job`, and what it says on stderr."""
    command = ["scontrol", "show", "job", "--oneliner", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:  # in a container there may be none
        return {}, f"scontrol: {error.strerror}"
    return dict(re.findall(r"(\w+)=(\S*)", done.stdout)), done.stderr.strip()


def reasons(job: Job) -> list[str]:
    """Why a job failed: the errors in its ranks' logs, and what they mean."""
    if not job.logs:
        return [f"{job.log}: not there; is --logs a folder that the nodes share?"]
    errors: dict[str, Path] = {}
    hints: dict[str, None] = {}
    for log in job.logs:
        text = log.read_text(encoding="utf-8", errors="replace").rpartition(ATTEMPT)[2]
        found = [line for line in text.splitlines() if re.search(ERROR, line)]
        errors |= {line: log for line in found[-ERRORS_SHOWN:] if line not in errors}
        hints |= {hint: None for pattern, hint in HINTS if re.search(pattern, text)}
    # srun adds a line for every rank that it kills.
    ours = [line for line in errors if line.startswith("distreid: ")]
    shown = (ours or list(errors))[:ERRORS_SHOWN]
    where = dict.fromkeys([errors[line] for line in shown] or [job.log])
    return [*shown, *hints, *(f"see {log}" for log in where)]


def score_lines(runs: list[tuple[str, Path]]) -> Table:
    """A line for each run, with what its metrics.json says under each protocol."""
    found = {run: _scores(run) for _, run in runs}
    protocols = list(dict.fromkeys(name for scores in found.values() for name in scores))
    table = Table("job", "run")
    for name in protocols:
        table.add_column(f"{name}\nRank-1", justify="right")
        table.add_column(f"{name}\nmAP", justify="right")
    for job, run in runs:
        cells = [cell for name in protocols for cell in found[run].get(name, ("–", "–"))]
        table.add_row(job, escape(str(run)), *cells)
    return table


def _scores(run: Path) -> dict[str, tuple[str, str]]:
    """Rank-1 and mAP by protocol; nothing if the run was not scored."""
    file = run / "metrics.json"
    if not (file.exists() and (run / "store.h5").exists()):
        return {}
    scores = json.loads(file.read_text(encoding="utf-8"))["scores"]
    named = {each.get("benchmark", each["protocol"]["name"]): each for each in scores}
    return {name: (_percent(each["rank1"]), _percent(each["mAP"])) for name, each in named.items()}


def _percent(share: float | None) -> str:
    return percent(math.nan if share is None else share)

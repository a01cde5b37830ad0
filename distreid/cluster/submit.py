"""`distreid submit`: the main job as a job of a cluster. The only importer of submitit.

One task for each GPU; srun starts the tasks and SLURM's variables make the process group. A job
that is told to stop, before its time limit or because another goes first, is queued again under
its own number and continues: at most a shard of each rank is lost.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import submitit
from rich.console import Console
from submitit.core.utils import DelayedSubmission, FailedJobError, UncompletedJobError
from submitit.helpers import Checkpointable
from submitit.local.debug import DebugJob
from submitit.slurm import slurm as submitit_slurm

from distreid.cluster.cluster_options import ClusterOptions, parse_cluster_options
from distreid.cluster.follow import Job, State, announce, follow_or_leave, preempted, slurm_state
from distreid.cluster.rehearsal import Rehearsal, rehearse
from distreid.cluster.sweep import read_sweep
from distreid.data.locators import is_address, path_of
from distreid.errors import (
    EXIT_USER,
    FailedElsewhere,
    LaunchError,
    OptionError,
    Stopped,
    exit_status,
)
from distreid.host.atomic_files import make_folder
from distreid.job.main_job import run
from distreid.job.options import (
    CommandParser,
    ExtractOptions,
    add_extract_options,
    parse_extract_options,
)
from distreid.ranks.group import World
from distreid.ranks.slurm_step import Meeting, ports_for

# How much earlier than asked SLURM may send the signal.
SIGNAL_EARLY_S = 60
# The time in which what ended a peer ends this process too: a signal, or srun.
PEER_LIMIT_S = 15
# In a row, each before a shard was finished.
EARLY_STOPS_ALLOWED = 3
# The number of time limits is no measure; progress is.
TIMEOUTS_ALLOWED = 1_000_000
# One's own host has no time limit.
LOCAL_LIMIT_MIN = 60 * 24 * 365


class Extraction(Checkpointable):
    """The main job as a task of submitit's; pickled, so it holds little."""

    def __init__(self, arguments: Sequence[str], *, limit_s: int, signal_delay_s: int) -> None:
        """`arguments` is the main job's command line."""
        self.arguments = list(arguments)
        self.limit_s = limit_s
        self.signal_delay_s = signal_delay_s
        self.started = 0.0
        self.done_before = 0
        self.barren = 0
        """How many attempts in a row have finished no shard."""

    @property
    def options(self) -> ExtractOptions:
        """The command line, parsed."""
        return parse_job(self.arguments)

    def __call__(self) -> int:
        """Runs as one of the job's processes; gives the exit status, under SLURM as SystemExit,
        so that SLURM knows it too."""
        self.started, self.done_before = time.time(), self._done()
        # What the store records as the command.
        sys.argv = ["distreid", "extract", *self.arguments]
        slurm = submitit.JobEnvironment().cluster == "slurm"
        status = exit_status(lambda: self._run(slurm))
        if slurm and status:
            sys.exit(status)
        return status

    def _run(self, slurm: bool) -> None:
        world = _world()
        try:
            run(self.options, world)
        except Stopped as stopped:
            _stop(world, stopped)
        except (FailedElsewhere, LaunchError) as error:
            # The signal that stopped a peer may be on its way to this process too, and a peer
            # that failed makes srun end this one. If neither comes, the peer's host is gone.
            if slurm and isinstance(error, FailedElsewhere) and not world.is_main:
                sys.exit(0)  # the other one gives the status, if it is not just stopped
            if slurm:
                time.sleep(PEER_LIMIT_S)
                if world.is_main and isinstance(error, LaunchError):
                    print(f"distreid: {error}", file=sys.stderr, flush=True)
                    signal.raise_signal(signal.SIGUSR2)
            raise

    def checkpoint(self) -> DelayedSubmission:
        """submitit asks rank 0 how to go on: as before, as long as there is progress."""
        fresh, ran = self._done() - self.done_before, time.time() - self.started
        self.barren = 0 if fresh else self.barren + 1
        # A job that was stopped early may not have had the time for a shard.
        timed_out = ran >= self.limit_s - self.signal_delay_s - SIGNAL_EARLY_S
        if self.barren > (0 if timed_out else EARLY_STOPS_ALLOWED):
            print(
                f"distreid: error: no shard was finished in {ran:.0f} s, so the job is not queued "
                "again; give it more --time, or take a new --out with fewer --shard-rows",
                file=sys.stderr,
                flush=True,
            )
            sys.exit(EXIT_USER)
        print(f"distreid: {fresh:,} shards done since the start; queued again", file=sys.stderr)
        return super().checkpoint()

    def _done(self) -> int:
        """How many shards there are, of all runs."""
        return len(list(self.options.out.glob("**/shards/*.h5")))


def _stop(world: World, stopped: Stopped) -> None:
    """Ends this process as SLURM and submitit want it after a signal."""
    if not world.is_main:
        # Any other status would make srun kill rank 0, which has the job queued again.
        sys.exit(0)
    if stopped.signal_number == signal.SIGTERM and preempted(os.environ.get("SLURM_JOB_ID")):
        # To end by itself would be to have failed, and SLURM would not queue it again.
        stopped = Stopped(signal.SIGUSR2)
    if stopped.signal_number == signal.SIGUSR2:
        signal.raise_signal(signal.SIGUSR2)  # submitit's handler stands again
    raise stopped


def _world() -> World:
    """SLURM's variables; submitit's own where it starts the processes itself."""
    task = submitit.JobEnvironment()
    if task.cluster != "local" or task.num_tasks == 1:
        return World.from_environment()
    job = int(task.job_id)
    return World(
        rank=task.global_rank,
        world_size=task.num_tasks,
        local_rank=task.local_rank,
        local_world_size=task.num_tasks,
        has_group=True,
        meeting=Meeting(host="localhost", job=f"local {job}", ports=ports_for(job)),
    )


def submit(parsed: argparse.Namespace) -> None:
    """Checks, and submits or prints; SystemExit with the job's status if it was waited for."""
    cluster = parse_cluster_options(parsed)
    common = parsed.job[1:] if parsed.job[:1] == ["--"] else parsed.job
    log = Console(stderr=True, highlight=False, soft_wrap=True)
    lines = read_sweep(cluster.array) if cluster.array else [[]]
    where = f"--array {cluster.array}: job " if cluster.array else ""
    commands = [
        _command(cluster, common + line, where and f"{where}{number}: ")
        for number, line in enumerate(lines, 1)
    ]
    rehearsals = _rehearse(commands)
    for rehearsal in rehearsals:
        log.print(*rehearsal.describe(), sep="\n", markup=False)
        needed = rehearsal.estimate(cluster.processes, cluster.images_per_second, cluster.attempt_s)
        log.print(f"time    {needed}", markup=False)
    logs = (cluster.logs or _logs(cluster, rehearsals)).absolute()
    if cluster.dry_run:
        print(dry_run(cluster, logs, commands))
        return
    make_folder(logs)
    jobs = _submit(cluster, logs, commands, rehearsals)
    announce(cluster.cluster, jobs, log)
    if cluster.wait or cluster.cluster == "debug":
        sys.exit(follow_or_leave(cluster.cluster, jobs, log))


def parse_job(arguments: Sequence[str]) -> ExtractOptions:
    """The main job's command line as options; OptionError if it is none."""
    parser = _JobParser(prog="distreid extract")
    add_extract_options(parser)
    return parse_extract_options(parser.parse_args(arguments))


class _JobParser(CommandParser):
    """Of a job among several, whose number is said before what is wrong with it."""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"{message}; see {self.prog} --help")


def _command(cluster: ClusterOptions, arguments: list[str], where: str) -> list[str]:
    """With the GPU insisted on, if one was asked for: a job on the wrong node must not crawl."""
    try:
        asked = parse_job(arguments).device
    except OptionError as error:
        raise OptionError(f"{where}{error}") from error
    if cluster.cluster == "slurm" and cluster.gpus_per_node and asked == "auto":
        return [*arguments, "--device", "cuda"]
    return arguments


def _rehearse(commands: list[list[str]]) -> list[Rehearsal]:
    everything = [parse_job(command) for command in commands]
    if remote := next((each.out for each in everything if is_address(each.out)), None):
        raise OptionError(
            f"--out {path_of(str(remote))}: a submitted job writes to a folder; give one, or start "
            "it by srun or torchrun"
        )
    folders = [options.out.absolute() for options in everything]
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise OptionError(f"--array: more than one job has --out {twice}; give each its own")
    return [rehearse(options) for options in everything]


def _logs(cluster: ClusterOptions, rehearsals: list[Rehearsal]) -> Path:
    if cluster.array:
        return cluster.array.with_suffix(".jobs")
    return rehearsals[0].options.out / "jobs"


def _name(commands: list[list[str]]) -> str:
    """Of the job: one for each output folder."""
    if len(commands) > 1:
        return "distreid-array"
    out = parse_job(commands[0]).out.absolute()
    return f"distreid-{out.name}-{hashlib.sha256(os.fsencode(out)).hexdigest()[:6]}"


def dry_run(cluster: ClusterOptions, logs: Path, commands: list[list[str]]) -> str:
    """What would be submitted: the sbatch file under SLURM, and each job's command."""
    text = ""
    if cluster.cluster == "slurm":
        text = submitit_slurm._make_sbatch_string(
            command=f"{cluster.nodes_python} -u -m submitit.core._submit {shlex.quote(str(logs))}",
            folder=logs,
            map_count=len(commands) if len(commands) > 1 else None,
            **cluster.slurm_parameters(_name(commands), len(commands)),
        )
        text += "\n# what each task of it runs\n"
    lines = [shlex.join(["distreid", "extract", *command]) for command in commands]
    return text + "\n".join(f"# {line}" for line in lines)


def _submit(
    cluster: ClusterOptions, logs: Path, commands: list[list[str]], rehearsals: list[Rehearsal]
) -> list[Job]:
    executor = _executor(cluster, logs, commands)
    work = [
        Extraction(c, limit_s=60 * cluster.minutes, signal_delay_s=cluster.signal_delay)
        for c in commands
    ]
    with _refusals_in_words(), _interrupts_ignored():
        started = executor.submit_array(work) if len(work) > 1 else [executor.submit(work[0])]
    return [
        Job(
            id=job.job_id,
            look=_look(cluster, job, rehearsal.folders),
            log=job.task(0).paths.stdout,
            plan=rehearsal.plan,
            out=rehearsal.options.out,
            runs=rehearsal.folders,
        )
        for job, rehearsal in zip(started, rehearsals, strict=True)
    ]


def _look(cluster: ClusterOptions, job: Any, runs: list[Path]) -> Callable[[], State]:
    """How to see the job's state. submitit would ask sacct, and take a node's failure for the
    end."""
    if cluster.cluster == "slurm":
        return lambda: slurm_state(job.job_id, runs)
    return lambda: _local_state(job)


def _local_state(job: Any) -> State:
    """A debug job runs when it is asked."""
    if not isinstance(job, DebugJob) and not job.done():
        return State(words="RUNNING")
    try:
        status = int(job.results()[0])
    except UncompletedJobError:  # killed
        status = 1
    return State(words=f"ENDED, exit status {status}", status=status)


def _executor(cluster: ClusterOptions, logs: Path, commands: list[list[str]]) -> Any:
    if cluster.cluster == "debug":
        return submitit.DebugExecutor(folder=logs)
    if cluster.cluster == "local":
        python = cluster.nodes_python
        if cluster.gpus_per_node:  # which submitit would number anew
            name = "CUDA_VISIBLE_DEVICES"
            as_here = [f"{name}={os.environ[name]}"] if name in os.environ else ["-u", name]
            python = f"{shlex.join(['env', *as_here])} {python}"
        executor: Any = submitit.LocalExecutor(logs, TIMEOUTS_ALLOWED, python=python)
        executor.update_parameters(
            timeout_min=LOCAL_LIMIT_MIN,
            tasks_per_node=cluster.tasks,
            stderr_to_stdout=True,
            setup=list(cluster.setup),
        )
        return executor
    try:
        executor = submitit.SlurmExecutor(logs, TIMEOUTS_ALLOWED, python=cluster.nodes_python)
    except RuntimeError as error:
        raise LaunchError(
            "--cluster slurm: there is no srun here; submit from a login node, or use "
            "--cluster local"
        ) from error
    executor.update_parameters(**cluster.slurm_parameters(_name(commands), len(commands)))
    return executor


@contextlib.contextmanager
def _refusals_in_words() -> Iterator[None]:
    """sbatch's refusal as one line, with the partitions that there are."""
    try:
        yield
    except FailedJobError as error:
        said = re.findall(r"sbatch: (?:error: )?(.*)", str(error))
        message = "; ".join(said) or " ".join(str(error).split())
        if "partition" in message:
            found = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True)
            message += f"; the partitions are {', '.join(sorted(set(found.stdout.split())))}"
        raise LaunchError(f"sbatch refuses the job: {message}") from error


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """What is started here, a job of this host, does not end with a traceback at control-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

"""The options of `distreid submit`: one frozen dataclass, its command line, and sbatch's words.

Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import math
import re
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from distreid.errors import OptionError
from distreid.job.options import given_path

CLUSTERS = ("slurm", "local", "debug")
OWN_OPTIONS = {
    "nodes": "nodes",
    "gpus-per-node": "gpus-per-node",
    "ntasks-per-node": "tasks-per-node",
    "cpus-per-task": "cpus-per-task",
    "mem": "mem-gb",
    "time": "time",
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "signal": "signal-delay",
    "array": "array",
}
"""What sbatch calls what has an option here, on which the estimated time may depend."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """What is asked of the cluster; OptionError if a value cannot be meant."""

    cluster: str = "slurm"
    nodes: int = 1
    gpus_per_node: int = 1
    """0: no GPU, and the job computes on the CPU."""
    tasks_per_node: int | None = None
    """None: one for each GPU, and at least one."""
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    """Of each node."""
    time: str = "60"
    """Minutes, or as SLURM has it: `HH:MM:SS`, `D-HH`, …"""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    slurm: tuple[str, ...] = ()
    """Further options of sbatch, as `name=value`, or `name` alone."""
    setup: tuple[str, ...] = ()
    """Lines of shell before the job starts, such as `module load cuda`."""
    python: str | None = None
    """The nodes' Python, or a command that ends in it; None: this one."""
    signal_delay: int = 120
    """Seconds before the time limit at which the job is told to stop and be queued again."""
    logs: Path | None = None
    """None: `jobs` in the output folder."""
    array: Path | None = None
    """A table with a job in each line."""
    max_parallel: int | None = None
    images_per_second: float | None = None
    """Of one task; for the estimated time."""
    dry_run: bool = False
    wait: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("nodes", 1),
            ("gpus_per_node", 0),
            ("tasks_per_node", 1),
            ("cpus_per_task", 1),
            ("max_parallel", 1),
            ("signal_delay", 1),
        ):
            if (value := getattr(self, name)) is not None and value < least:
                flag = "--" + name.replace("_", "-")
                raise OptionError(f"{flag} must be at least {least}, got {value}")
        for name in ("images_per_second", "mem_gb"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0.001):
                flag = "--" + name.replace("_", "-")
                raise OptionError(f"{flag} must be a number of at least 0.001, got {value}")
        for option in self.slurm:
            name = _name(option)
            if not name:
                raise OptionError(f"--slurm {option}: give NAME=VALUE, or NAME alone")
            if name in OWN_OPTIONS:
                raise OptionError(f"--slurm {option}: give --{OWN_OPTIONS[name]} instead")
        if self.cluster != "slurm" and self.nodes > 1:
            raise OptionError(f"--cluster {self.cluster}: one node only, got --nodes {self.nodes}")
        if self.attempt_s <= 0:
            raise OptionError(
                f"--time {self.time}: no longer than the {self.signal_delay} s of --signal-delay "
                "before its end at which the job stops; give more --time"
            )

    @property
    def tasks(self) -> int:
        """Of each node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)

    @property
    def processes(self) -> int:
        """Of the whole job."""
        return 1 if self.cluster == "debug" else self.nodes * self.tasks

    @property
    def attempt_s(self) -> float:
        """Seconds in which the job works before it is queued again."""
        return 60 * self.minutes - self.signal_delay if self.cluster == "slurm" else math.inf

    @property
    def minutes(self) -> int:
        """The time limit, rounded up."""
        match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", self.time)
        if match is None:
            raise OptionError(f"--time {self.time}: give minutes, HH:MM:SS or D-HH:MM:SS")
        days, first, second, third = (int(group or 0) for group in match.groups())
        if match[1] or match[4]:  # D-HH:MM:SS or HH:MM:SS, else MM:SS
            seconds = ((days * 24 + first) * 60 + second) * 60 + third
        else:
            seconds = first * 60 + second
        if seconds == 0:
            raise OptionError(f"--time {self.time}: must be more than nothing")
        return -(-seconds // 60)

    @property
    def nodes_python(self) -> str:
        """The command of a task, for a shell."""
        # A signal that comes while Python still imports would kill it, and fail the job.
        python = self.python or shlex.quote(sys.executable)
        return f"""sh -c 'trap "" USR2 && exec "$@"' - {python}"""

    def slurm_parameters(self, name: str, jobs: int) -> dict[str, Any]:
        """What submitit makes the sbatch file of, for one job or an array of several."""
        srun = ["--kill-on-bad-exit=1"]
        if self.cpus_per_task:  # since 22.05, srun does not take it over from sbatch
            srun.append(f"--cpus-per-task={self.cpus_per_task}")
        more: dict[str, Any] = {"requeue": True}
        if jobs == 1:  # a second one with the same name waits for the first, and finds it done
            more["dependency"] = "singleton"
        for option in self.slurm:
            more[_name(option)] = option.partition("=")[2] or True
        return {
            key: value
            for key, value in {
                "job_name": name,
                "time": self.minutes,
                "nodes": self.nodes,
                "ntasks_per_node": self.tasks,
                "gpus_per_node": self.gpus_per_node or None,
                "cpus_per_task": self.cpus_per_task,
                # sbatch takes no fractions.
                "mem": f"{math.ceil(1024 * self.mem_gb)}M" if self.mem_gb else None,
                "partition": self.partition,
                "account": self.account,
                "qos": self.qos,
                "constraint": self.constraint,
                "setup": list(self.setup) or None,
                "signal_delay_s": self.signal_delay,
                "stderr_to_stdout": True,
                "srun_args": srun,
                "array_parallelism": self.max_parallel or jobs,
                "additional_parameters": more,
            }.items()
            if value is not None
        }


def _name(option: str) -> str:
    """Of an option of sbatch, as sbatch writes it."""
    return option.partition("=")[0].strip().lstrip("-").replace("_", "-")


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Adds the cluster's options, and after `--` those of the main job, to a parser."""
    parser.add_argument("--cluster", default="slurm", choices=CLUSTERS, help="local: processes of "
                        "this host, in the background. debug: one process, at once")  # fmt: skip
    what = parser.add_argument_group("what is asked for")
    what.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (default: 1)")
    what.add_argument("--gpus-per-node", type=int, default=1, metavar="N", help="0: compute on "
                      "the CPU (default: 1)")  # fmt: skip
    what.add_argument("--tasks-per-node", type=int, metavar="N", help="processes (default: one for "
                      "each GPU)")  # fmt: skip
    what.add_argument("--cpus-per-task", type=int, metavar="N", help="cores of each process "
                      "(default: as the cluster gives)")  # fmt: skip
    what.add_argument("--mem-gb", type=float, metavar="N", help="of each node")
    what.add_argument("--time", default="60", metavar="MINUTES", help="or HH:MM:SS, D-HH:MM:SS. A "
                      "job that needs longer is queued again as long as it makes progress "
                      "(default: 60)")  # fmt: skip
    for name, what_for in (
        ("partition", "the queue"),
        ("account", "who is charged"),
        ("qos", "the quality of service"),
        ("constraint", "features that a node must have"),
    ):
        what.add_argument(f"--{name}", metavar="NAME", help=f"{what_for}, as sbatch has it")
    what.add_argument("--slurm", action="append", metavar="NAME=VALUE", help="any other option of "
                      "sbatch; may be repeated")  # fmt: skip
    what.add_argument("--setup", action="append", metavar="LINE", help="a line of shell before the "
                      "job, such as 'module load cuda'; may be repeated")  # fmt: skip
    what.add_argument("--python", metavar="COMMAND", help="the nodes' Python, also inside a "
                      "container's command (default: this one)")  # fmt: skip
    what.add_argument("--signal-delay", type=int, default=120, metavar="SECONDS", help="how long "
                      "before the time limit the job stops to be queued again "
                      "(default: 120)")  # fmt: skip
    what.add_argument("--logs", type=given_path, metavar="DIR", help="a folder that the nodes "
                      "share (default: jobs in --out)")  # fmt: skip
    many = parser.add_argument_group("several jobs")
    many.add_argument("--array", type=given_path, metavar="CSV|YAML", help="a job for each line: "
                      "its columns are options of the job, added to those after --")  # fmt: skip
    many.add_argument("--max-parallel", type=int, metavar="N", help="of them, at the same time")
    how = parser.add_argument_group("what happens here")
    how.add_argument("--dry-run", action="store_true", help="check everything, print what would be "
                     "submitted, and submit nothing")  # fmt: skip
    how.add_argument("--images-per-second", type=float, metavar="N", help="of one process, for the "
                     "estimated time")  # fmt: skip
    how.add_argument("--wait", action="store_true", help="follow the job, print the scores, and "
                     "end with its exit status")  # fmt: skip
    parser.add_argument("job", nargs=argparse.REMAINDER, metavar="-- OPTIONS", help="the options "
                        "of the main job, as for distreid extract")  # fmt: skip


def parse_cluster_options(arguments: argparse.Namespace) -> ClusterOptions:
    """The parsed command line as options."""
    values: dict[str, Any] = {f.name: getattr(arguments, f.name) for f in fields(ClusterOptions)}
    values |= {name: tuple(values[name] or ()) for name in ("slurm", "setup")}
    return ClusterOptions(**values)

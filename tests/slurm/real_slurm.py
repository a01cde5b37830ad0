"""A real SLURM for the tests in this folder, and a submitted job as they see it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from conftest import REPOSITORY

from distreid.ranks.slurm_step import ports_for

T = TypeVar("T")

SCRIPT = Path(__file__).parent / "cluster"
PROGRAMS = ("slurmctld", "slurmd", "srun", "munged", "ip", "nsenter")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
LIMIT_S = 600  # a slow machine's patience; nothing here is timed


def wait_for(
    what: Callable[[], Any], why: str, limit_s: float = LIMIT_S, pause_s: float = 0.3
) -> Any:
    """What comes true in the end, or a failure that says what did not."""
    deadline = time.monotonic() + limit_s
    while not (found := what()):
        assert time.monotonic() < deadline, f"gave up waiting for {why}"
        time.sleep(pause_s)
    return found


@dataclass(frozen=True)
class Cluster:
    """Two nodes; commands run on a third host, as on a login node."""

    first: int
    """The process whose namespaces the cluster is."""
    state: Path

    def start(self, *command: str | Path, **settings: str) -> subprocess.Popen[str]:
        """A command inside, in this Python's environment."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        environment = {k: v for k, v in os.environ.items() if k not in names} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "SLURM_CONF": str(self.state / "slurm.conf"),
            "OMP_NUM_THREADS": "1",
        }
        enter = ("nsenter", f"--target={self.first}", "--mount", "--net", "--uts", "--pid")
        there = ("sh", "-c", 'cd "$0" && exec "$@"', REPOSITORY)  # entering leads to the root
        return subprocess.Popen(
            [*enter, *map(str, (*there, *command))],
            env=environment | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str | Path, status: int = 0, **settings: str) -> str:
        """What a command prints, on both streams; it must end with the status."""
        process = self.start(*command, **settings)
        out, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == status, f"{command}: {process.returncode}\n{out}{err}"
        return out + err

    def start_node(self, node: str) -> None:
        self.run(SCRIPT, "on", node, "slurmd", "-N", node)

    @contextlib.contextmanager
    def configured(self, parameter: str, wanted: bool) -> Iterator[None]:
        """With or without a parameter of slurmctld."""
        file = self.state / "slurm.conf"
        before = file.read_text()
        if not wanted:
            file.write_text(before.replace(f"SlurmctldParameters={parameter}", ""))
            self.run("scontrol", "reconfigure")
        yield
        file.write_text(before)
        self.run("scontrol", "reconfigure")

    def make_room(self) -> None:
        """Another job goes first, on both nodes."""
        self.run(
            "sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null",
            "--wrap=true",
        )  # fmt: skip

    @contextlib.contextmanager
    def first_ports_taken(self) -> Iterator[None]:
        """With a stranger on the port that the next job would take first on n1, by srun and by
        torchrun."""
        said = self.run("scontrol", "show", "config")
        job = int(re.findall(r"NEXT_JOB_ID *= (\d+)", said)[0])
        ports = str(ports_for(job)[0]), str(20000 + job % 12000)
        listening = self.state / "listening"
        listen = (
            "import pathlib, socket, sys, time\n"
            "sockets = [socket.create_server(('', int(port))) for port in sys.argv[2:]]\n"
            "(file := pathlib.Path(sys.argv[1])).touch()\n"
            "while file.exists(): time.sleep(0.1)"
        )
        stranger = self.start(SCRIPT, "on", "n1", sys.executable, "-c", listen, listening, *ports)
        wait_for(listening.exists, "the stranger on the ports")
        yield
        listening.unlink()
        assert stranger.communicate(timeout=LIMIT_S) == ("", "")

    def submit(self, out: Path, *options: str | Path, job: tuple[str | Path, ...] = ()) -> Job:
        """A job of `distreid submit`, on the CPU."""
        said = self.run(
            sys.executable, "launch/submit.py", *options, "--", "--device", "cpu",
            "--num-workers", "0", "--out", out, *job,
        )  # fmt: skip
        found = re.search(r"^job (\d+)", said, flags=re.MULTILINE)
        assert found, said
        return Job(self, found[1], out, out / "jobs")


@dataclass(frozen=True)
class Job:
    """A job that was submitted."""

    cluster: Cluster
    id: str
    out: Path
    logs: Path
    command: str = ""
    """What the ranks' command lines have; empty: submitit's."""

    @property
    def shards(self) -> int:
        return len(list((self.out / "shards").glob("*.h5")))

    @property
    def log(self) -> str:
        files = sorted(self.logs.glob(f"{self.id}_*_log.out"))
        return "".join(file.read_text() for file in files)

    def show(self, name: str) -> str:
        """A field of `scontrol show job`; empty if there is none."""
        said = self.cluster.run("scontrol", "show", "job", "--oneliner", self.id)
        found = re.search(rf"\b{name}=(\S*)", said)
        return found[1] if found else ""

    def waits_for_start(self, restarts: int) -> None:
        """Until it runs after so many restarts."""
        wanted = ("RUNNING", str(restarts))
        wait_for(lambda: (self.show("JobState"), self.show("Restarts")) == wanted, "a restart")

    def ends(self) -> str:
        """The state that the job ends in."""
        wait_for(lambda: self.show("JobState") in ENDED, f"job {self.id} to end")
        return self.show("JobState")

    def ranks(self) -> list[int]:
        """The processes of the job's tasks."""
        command = self.command or f"-m\0submitit.core._submit\0{self.logs}\0"
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_text()
            except OSError:  # ended meanwhile
                continue
            if command in line and "srun" not in line:
                found.append(int(process.name))
        return found

    def stall(self, shards: int = 1) -> None:
        """Stops every rank as a host that hangs would, once so many more shards are done."""
        wanted = self.shards + shards

        def done() -> bool:
            # The job takes a few seconds: no command in this loop.
            assert not list(self.logs.glob(f"{self.id}_*_result.pkl")), "it has ended already"
            return self.shards >= wanted

        try:
            wait_for(done, f"a shard of job {self.id}", pause_s=0.02)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.show('JobState')}\n{self.log}") from None
        for rank in self.ranks():
            os.kill(rank, signal.SIGSTOP)

    def kill(self, rank: int) -> None:
        """As the kernel does when memory is full."""
        for process in self.ranks():
            if f"SLURM_PROCID={rank}\0" in Path(f"/proc/{process}/environ").read_text():
                os.kill(process, signal.SIGKILL)

    def wake(self) -> None:
        """Those that were stalled."""
        for rank in self.ranks():
            os.kill(rank, signal.SIGCONT)


def beside(work: Callable[[], T]) -> Future[T]:
    """Does the work in a thread; nobody needs to wait for it."""
    result: Future[T] = Future()

    def do() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    return result


@contextlib.contextmanager
def start_cluster(state: Path) -> Iterator[Cluster]:
    """Up while the context lasts; skips the test where it cannot be had."""
    if os.getuid() != 0:
        pytest.skip("a SLURM of our own needs root")
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)} here: tests/slurm/cluster install")
    outside = subprocess.Popen([SCRIPT, state])
    try:
        wait_for(
            lambda: (state / "ready").exists() or outside.poll() is not None, "the cluster", 120
        )
        assert outside.poll() is None, (state / "slurmctld.log").read_text()
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
        yield Cluster(int(children[0]), state)
    finally:
        outside.kill()
        outside.wait()


def shards(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((run / "shards").iterdir())}

"""Kills the job again and again, at random, on changing numbers of processes; compares bytes.

    python tests/stress/crashes.py [--kills 100] [--seed 0] [--keep DIR]

One job of 46 shards is run over and over, each time on 1 to 4 processes, and killed by SIGKILL
at a random time, after its start or after its first new shard: one rank, all ranks, torchrun, or
everything at once. Once it has survived to its end it is begun anew, until the kills are used up.
Each end is compared with what one process wrote that was never disturbed, and no shard may have
been written twice. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import h5py

REPOSITORY = Path(__file__).parent.parent.parent
TARGETS = ("one rank", "all ranks", "torchrun", "everything")
SLOWER = """
import sys, time
from distreid.extract import main
from distreid.store.shards import ShardWriter

# So that the small job lasts long enough to be killed anywhere in it.
add = ShardWriter.add
ShardWriter.add = lambda *values: (add(*values), time.sleep(0.1))
sys.exit(main())
"""


@dataclass
class Crashes:
    """One job, and what has been done to it."""

    run: Path
    script: Path
    random: random.Random
    data: str = "sample"
    shard_rows: int = 15
    kills: int = 0
    attempts: int = 0
    published: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Inode and time of every shard: a shard that is written again has others."""

    def start(self, processes: int, *launcher: str) -> subprocess.Popen[bytes]:
        """The job, as a user starts it, in a session of its own; 0 processes: no torchrun."""
        self.attempts += 1
        torchrun = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", *launcher]
        options = ["--data", self.data, "--checkpoint", "sample", "--out", str(self.run)]
        options += ["--num-workers", "1", "--shard-rows", str(self.shard_rows)]
        options += ["--batch-size", "8"]
        # A log for each attempt, for whoever has to look.
        log = self.run.with_name(f"{self.run.name}.{self.attempts}.log")
        with log.open("wb") as stderr:
            return subprocess.Popen(
                [sys.executable, *(torchrun if processes else []), str(self.script), *options],
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    def disturb(
        self, job: subprocess.Popen[bytes], target: str, after_s: float, *, working: bool = False
    ) -> bool:
        """Waits, if wished first for a new shard, then kills; gives whether the job was still
        there to be killed."""
        before = self.shards()
        while working and job.poll() is None and self.shards() == before:
            time.sleep(0.02)
        try:
            job.wait(after_s)
        except subprocess.TimeoutExpired:
            pass
        else:
            return False
        ranks = children(job.pid)
        victims = {
            "one rank": self.random.sample(ranks, min(1, len(ranks))),
            "all ranks": ranks,
            "torchrun": [job.pid],
            "everything": [job.pid, *ranks],
        }[target] or [job.pid]
        for process in victims:
            os.kill(process, signal.SIGKILL)
        self.kills += 1
        job.wait()
        return True

    def shards(self) -> int:
        """How many are complete."""
        return len(list((self.run / "shards").glob("*.h5")))

    def check_published(self) -> None:
        """AssertionError if a complete shard was written again."""
        for file in (self.run / "shards").glob("*.h5"):
            status = file.stat()
            mark = (status.st_ino, status.st_mtime_ns)
            assert self.published.setdefault(file.name, mark) == mark, f"{file} written again"


def children(process: int) -> list[int]:
    """The processes that this one has started."""
    listed = Path(f"/proc/{process}/task/{process}/children")
    try:
        return [int(child) for child in listed.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def left_over(run: Path) -> list[int]:
    """Processes that still work on this run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(run) in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def wait_for_none(run: Path, limit_s: float = 180) -> None:
    """Orphans must end by themselves; AssertionError if they do not."""
    deadline = time.monotonic() + limit_s
    while left_over(run):
        assert time.monotonic() < deadline, f"still there: {left_over(run)}"
        time.sleep(0.1)


def differences(run: Path, reference: Path) -> list[str]:
    """What differs: any byte of a shard or of metrics.json; in store.h5 anything but the
    provenance, which tells when, where and how it was made."""
    names = sorted(path.name for path in (reference / "shards").iterdir())
    found = [] if names == sorted(p.name for p in (run / "shards").iterdir()) else ["the shards"]
    files = [Path("shards", name) for name in names] + [Path("metrics.json")]
    found += [str(f) for f in files if (run / f).read_bytes() != (reference / f).read_bytes()]
    with h5py.File(run / "store.h5") as ours, h5py.File(reference / "store.h5") as theirs:
        datasets: list[str] = []
        theirs.visititems(lambda n, o: datasets.append(n) if isinstance(o, h5py.Dataset) else None)
        for name in datasets:
            if ours[name][()].tobytes() != theirs[name][()].tobytes():
                found.append(f"store.h5: {name}")
        for name in theirs.attrs:
            if name != "provenance" and ours.attrs[name] != theirs.attrs[name]:
                found.append(f"store.h5: {name}")
    return found


def main() -> int:
    """Runs the kills, prints each, and gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="where the runs are kept")
    given = parser.parse_args()
    folder = given.keep or Path(tempfile.mkdtemp(prefix="crashes"))
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "slower.py"
    script.write_text(SLOWER)
    draw = random.Random(given.seed)
    started = time.monotonic()
    reference = Crashes(folder / "reference", script, draw)
    assert reference.start(1).wait() == 0, "the undisturbed run failed"
    kills = attempts = runs = 0
    while kills < given.kills:
        crashes = Crashes(folder / f"run{runs}", script, draw)
        finished = False
        while not finished:
            processes = draw.randint(1, 4)
            job = crashes.start(processes)
            target, working = draw.choice(TARGETS), draw.random() < 0.75
            after_s = draw.uniform(0, 5 if working else 10)
            wanted = kills + crashes.kills < given.kills
            killed = wanted and crashes.disturb(job, target, after_s, working=working)
            finished = job.wait() == 0
            assert killed or finished, f"failed by itself: see {folder}"
            wait_for_none(crashes.run)
            crashes.check_published()
            print(
                f"run {runs}, attempt {crashes.attempts}: {processes} processes, "
                f"{'finished' if finished else f'{target} killed after {after_s:.1f} s'}"
                f"{' of work' if working and not finished else ''}, "
                f"{len(crashes.published)} shards",
                flush=True,
            )
        assert not (found := differences(crashes.run, reference.run)), found
        kills, attempts, runs = kills + crashes.kills, attempts + crashes.attempts, runs + 1
    print(
        f"{kills} kills in {attempts} attempts at {runs} runs, {time.monotonic() - started:.0f} s: "
        "every run has the bytes of the undisturbed one, and no shard was written twice"
    )
    if not given.keep:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One job on an output folder at a time.

A job announces itself by a file of its own, `RUN/job-HOST-PID-NONCE.lock`, and then looks for
others: it has the folder if it finds none alive, otherwise it withdraws. Whoever comes second
sees the first, so two never have it; and as no name is used twice, a dead job's file can be
removed by anybody at any time. This needs of the file system only that a new name is seen by
the next listing, and works where hard links and locks do not.

A job on this machine is looked up by its process. Of another machine's job there is only its
sign of life, the time of its file, which a thread sets again every BEAT_S. It is watched for a
change rather than compared with a clock, since hosts' clocks differ: so a job that was requeued
elsewhere waits DEAD_AFTER_S at most for its own dead predecessor.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from distreid.errors import StoreError
from distreid.host.atomic_files import publish_text

BEAT_S = 5.0
DEAD_AFTER_S = 60.0
LOOK_S = 0.5  # between two looks at another's sign of life


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A job that has, or had, an output folder."""

    host: str
    pid: int
    pid_start: int
    """When its process started, in clock ticks since boot: a recycled number is not mistaken."""
    machine: str
    """The boot and the name space that `pid` counts in."""
    started: str
    """When the job took the folder, for people."""

    @classmethod
    def this_process(cls) -> Holder:
        """The holder that this process would be."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            pid_start=_start(os.getpid()),
            machine=_machine(),
            started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started}"

    def runs(self) -> bool | None:
        """Whether its process runs; None if it cannot be seen from here."""
        if self.machine != _machine():
            return None
        try:
            os.kill(self.pid, 0)
            return _start(self.pid) == self.pid_start
        except ProcessLookupError:
            return False
        except OSError:
            return True  # another user's, and hidden


class Busy(StoreError):
    """Another job has the folder."""

    def __init__(self, run: Path, holder: Holder) -> None:
        super().__init__(
            f"{run}: another job is at work there ({holder}); wait for it, or give another --out"
        )
        self.holder = holder


class Lock:
    """The folder is this process's; its sign of life is given from a thread of its own."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.holder = Holder.this_process()
        nonce = secrets.token_hex(4)
        self.file = run / f"job-{self.holder.host}-{self.holder.pid}-{nonce}.lock"
        self._stop = threading.Event()

    def announce(self) -> None:
        """From here on others see this job."""
        publish_text(self.file, json.dumps(asdict(self.holder)) + "\n")
        threading.Thread(target=self._beat, daemon=True).start()

    def withdraw(self) -> None:
        """Leaves the folder to others."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self.file.unlink(missing_ok=True)

    def check(self) -> None:
        """StoreError if another job took this one for dead, having seen no sign of life."""
        if not self.file.exists():
            others = "; ".join(str(other) for other in holders(self.run).values())
            raise StoreError(
                f"{self.run}: this job gave no sign of life for {DEAD_AFTER_S:.0f} s and lost the "
                f"folder to another ({others or 'which has ended'}); run the same command again"
            )

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            with contextlib.suppress(OSError):
                os.utime(self.file)


@contextlib.contextmanager
def hold(run: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The folder for this job alone while the context lasts; it is made if need be, as are those
    that it lies in, and of a job that fails before it has written anything, they go again.

    StoreError names the job that has it. `say` gets a line if another's death must be awaited.
    """
    rivals: dict[Path, Holder] = {}
    while True:
        new, lock = _make(run), Lock(run)
        try:
            try:
                lock.announce()
            except StoreError:
                if run.exists():
                    raise
                continue  # another job made it, failed, and removed it
            alive = _others_alive(lock, say)
            if not alive:
                yield
                lock.check()
                new = []
                return
        finally:
            lock.withdraw()
            with contextlib.suppress(OSError):  # not empty
                for folder in new:
                    folder.rmdir()
        if again := alive.keys() & rivals.keys():
            raise Busy(run, alive[again.pop()])
        # Two that start at once see each other, withdraw, and try again at different moments.
        rivals = alive
        time.sleep(random.uniform(0, 1))


def holders(run: Path) -> dict[Path, Holder]:
    """The jobs that have announced themselves, dead ones too, by their files."""
    found = {}
    for file in sorted(run.glob("job-*.lock")):
        with contextlib.suppress(FileNotFoundError):
            try:
                found[file] = Holder(**json.loads(file.read_bytes()))
            except (ValueError, TypeError) as error:
                raise StoreError(f"{file}: damaged; delete it if no job is at work") from error
    return found


def last_sign(file: Path) -> float:
    """The time of a job's last sign of life, in seconds, by the file system's clock."""
    # An opened file's time is asked of the server; a name's may be remembered.
    with file.open("rb") as stream:
        return os.fstat(stream.fileno()).st_mtime


def _make(run: Path) -> list[Path]:
    """The folders that were not there and are now, the innermost first."""
    try:
        new = [folder for folder in (run, *run.parents) if not folder.exists()]
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{run}: {error.strerror}; check the path") from error
    return new


def _others_alive(lock: Lock, say: Callable[[str], None]) -> dict[Path, Holder]:
    """Other jobs of the folder that are alive. Those that are dead lose their files."""
    alive, unseen = {}, {}
    for file, holder in holders(lock.run).items():
        if file == lock.file:
            continue
        if (runs := holder.runs()) is None:
            unseen[file] = holder
        elif runs:
            alive[file] = holder
        else:
            file.unlink(missing_ok=True)
    if unseen and not alive:  # else there is no need to wait
        who = " or ".join(map(str, unseen.values()))
        say(f"is {who} alive? waiting up to {DEAD_AFTER_S:.0f} s for a sign of it")
        if living := _first_sign(unseen):
            return {living: unseen[living]}
        for file in unseen:
            file.unlink(missing_ok=True)
    return alive


def _first_sign(files: Iterable[Path]) -> Path | None:
    """The first whose time changes; all are watched at once, however many jobs have died."""
    deadline = time.monotonic() + DEAD_AFTER_S
    watched, before = set(files), dict[Path, float]()
    while watched and time.monotonic() < deadline:
        for file in sorted(watched):
            try:
                sign = last_sign(file)
            except FileNotFoundError:  # it has ended meanwhile
                watched.remove(file)
                continue
            if before.setdefault(file, sign) != sign:
                return file
        time.sleep(LOOK_S)
    return None


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"


def _start(pid: int) -> int:
    """A process's start in clock ticks, by proc(5); -1 if it has ended and is not yet reaped."""
    # The name, in parentheses, may hold anything.
    state, *fields = (
        Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    )
    return -1 if state in "ZX" else int(fields[18])

"""The only reader of the rank's environment; the ranks as a group; small messages.

Features never travel between processes: they meet as files. What is exchanged is the plan at
the start and a summary at the end, a few kilobytes, through the key-value store that torchrun
has already. No collective: it would wait for a dead rank, deaf to signals, and under gloo
torchrun could not restart the ranks (torch 2.14 finds the addresses of the dead ones again).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from torch import distributed as dist

from distreid.errors import LaunchError, Stopped
from distreid.ranks.heartbeat import DONE, FAILED, ROLL_CALL_S, STOPPED, Connection
from distreid.ranks.slurm_step import Meeting, open_store, step_task

T = TypeVar("T")

# torchrun sets all of them; RANK and the others without an address mean nothing.
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

STORE_ANSWERS_S = 30.0


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those of the job."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    has_group: bool = False
    """Whether torchrun or srun started it; then there is a group, be it of one process."""
    meeting: Meeting | None = None
    """Where the ranks meet that torchrun did not start."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> World:
        """What torchrun set, else what srun set, else one process alone.

        LaunchError if only some of its variables are there, or one is no number.
        """
        given = [name for name in TORCHRUN if name in environment]
        missing = [name for name in TORCHRUN if name not in environment]
        # MASTER_ADDR and MASTER_PORT alone are a habit of some login scripts.
        if not given or set(given) <= {"MASTER_ADDR", "MASTER_PORT"}:
            task = step_task(environment)
            return cls() if task is None else cls(**vars(task), has_group=True)
        if missing:
            raise LaunchError(
                f"the environment has {', '.join(given)} but not {', '.join(missing)}; "
                "start with torchrun, or unset them to run one process"
            )
        try:
            rank, world_size, local_rank, local_size = (int(environment[n]) for n in TORCHRUN[:4])
        except ValueError as error:
            values = ", ".join(f"{name}={environment[name]}" for name in TORCHRUN[:4])
            raise LaunchError(
                f"not all are whole numbers: {values}; start with torchrun"
            ) from error
        if not (0 <= rank < world_size and 0 <= local_rank < local_size):
            raise LaunchError(
                f"RANK={rank} of WORLD_SIZE={world_size}, LOCAL_RANK={local_rank} of "
                f"LOCAL_WORLD_SIZE={local_size}: no such rank; start with torchrun"
            )
        return cls(
            rank=rank,
            world_size=world_size,
            local_rank=local_rank,
            local_world_size=local_size,
            has_group=True,
        )

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which plans, gathers, evaluates and talks."""
        return self.rank == 0

    def __str__(self) -> str:
        """For a message: `rank 1 on h2`."""
        return f"rank {self.rank} on {socket.gethostname()}"


class Group:
    """The ranks of the job together; of one process without a launcher."""

    def __init__(self, world: World, connection: Connection | None) -> None:
        self.world = world
        self._connection = connection
        self._calls = 0

    def check(self) -> None:
        """Raises if another rank has ended; cheap enough for every batch."""
        if self._connection:
            self._connection.check()

    def reached(self, row: int) -> None:
        """Lets the others know the last row that this rank has computed."""
        if self._connection:
            self._connection.row = row

    def on_main(self, work: Callable[[], T]) -> T:
        """Does the work on rank 0 and gives its result to every rank.

        If it raises, rank 0 raises that, and the others FailedElsewhere.
        """
        if not self._connection:
            return work()
        key = self._next("main")
        if self.world.is_main:
            result = work()
            self._connection.send(key, result)
            return result
        return self._connection.receive([key])[0]  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank, on every rank; waits until all have come here."""
        if not self._connection:
            return [value]
        connection, key = self._connection, self._next("gather")
        keys = [f"{key}/{rank}" for rank in range(self.world.world_size)]
        connection.send(keys[self.world.rank], value)
        return self.on_main(lambda: connection.receive(keys))

    def main_first(self, work: Callable[[], T]) -> T:
        """Does the work on rank 0, and if it succeeds there, on every other rank for itself.

        So a mistake that every rank would find is reported once.
        """
        results: list[T] = []
        self.on_main(lambda: results.append(work()))
        return results[0] if results else work()

    def _next(self, name: str) -> str:
        """A key that is the same on every rank: all make the same calls in the same order."""
        self._calls += 1
        return f"{name}/{self._calls}"


@contextlib.contextmanager
def process_group(world: World) -> Iterator[Group]:
    """The other ranks while the job runs, which learn how this one ends."""
    if not world.has_group:
        yield Group(world, None)
        return
    # Of a rank that a shell or srun started nothing is known about its parent.
    torchrun = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
    connection = Connection(world.rank, world.world_size, torchrun)
    try:
        connection.join(lambda: _connect(world))
        yield Group(world, connection)
    except Stopped as stopped:
        connection.part(STOPPED, wait=True)
        raise Stopped(
            stopped.signal_number, connection.lost(), tells_user=connection.speaks()
        ) from None
    except BaseException:
        connection.part(FAILED, wait=world.is_main)
        raise
    connection.part(DONE, wait=world.is_main)


def _connect(world: World) -> dist.Store:
    """torchrun's own store, or else one that rank 0 opens."""
    if world.meeting:
        return open_store(world.meeting, world.rank)
    torchruns = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return dist.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=world.is_main and not torchruns,
        wait_for_workers=False,
        # torchrun's is there before the ranks are: if not, torchrun was killed meanwhile.
        timeout=timedelta(seconds=STORE_ANSWERS_S if torchruns else ROLL_CALL_S),
    )

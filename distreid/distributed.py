"""The only reader of the rank's environment; the process group; small messages.

Features never travel between processes: they meet as files. What is exchanged is the
plan at the start and a summary at the end, a few kilobytes, over gloo, on GPUs too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from distreid.errors import FailedElsewhere, LaunchError
from distreid.slurm import Meeting, open_store, step_task

T = TypeVar("T")

# torchrun sets all of them; RANK and the others without an address mean nothing.
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# The ranks meet at the end when the slowest has written its last shard. gloo notices a dead
# process at once by its closed connection; this bounds the wait for one that is cut off.
TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those of the job."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    has_group: bool = False
    """Whether torchrun or srun started it; then there is a process group."""
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


@contextlib.contextmanager
def process_group(world: World) -> Iterator[None]:
    """The process group while the job runs; none without torchrun or srun."""
    if not world.has_group:
        yield
        return
    dist.init_process_group(
        "gloo",
        store=open_store(world.meeting, world.rank) if world.meeting else None,
        rank=world.rank,
        world_size=world.world_size,
        timeout=TIMEOUT,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _peers_alive() -> Iterator[None]:
    """gloo reports a process that died as a RuntimeError of several lines."""
    try:
        yield
    except RuntimeError as error:
        raise LaunchError(
            f"another process of the job has ended ({str(error).splitlines()[0][:120]}); "
            "see its message, then run the same command again to continue"
        ) from error


def on_main(world: World, work: Callable[[], T]) -> T:
    """Does the work on rank 0 and gives its result to every rank.

    If it raises, rank 0 raises that, and the others FailedElsewhere.
    """
    if not world.has_group:
        return work()
    if not world.is_main:
        message: list[Any] = [None]
        with _peers_alive():
            dist.broadcast_object_list(message, src=0)
        if message[0] is None:
            raise FailedElsewhere("rank 0 failed")
        return message[0][0]  # type: ignore[no-any-return]
    try:
        result = work()
    except BaseException:
        dist.broadcast_object_list([None], src=0)
        raise
    with _peers_alive():
        dist.broadcast_object_list([(result,)], src=0)
    return result


def gather(world: World, value: T) -> list[T]:
    """Every rank's value, by rank, on every rank; waits until all have come here."""
    if not world.has_group:
        return [value]
    values: list[Any] = [None] * world.world_size
    with _peers_alive():
        dist.all_gather_object(values, value)
    return values


def main_first(world: World, work: Callable[[], T]) -> T:
    """Does the work on rank 0, and if it succeeds there, on every other rank for itself.

    So a mistake that every rank would find is reported once.
    """
    if not world.is_main:
        on_main(world, work)
        return work()
    results: list[T] = []
    on_main(world, lambda: results.append(work()))
    return results[0]

"""What `srun` tells each task of a step, and where the tasks meet without torchrun.

A step's task is known by SLURM_STEP_NUM_TASKS. A batch script and salloc's shell have
SLURM_NTASKS and SLURM_PROCID too, and are one process each; they have no such variable.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch._C._distributed_c10d import Store, TCPStore

from distreid.errors import LaunchError

TASK = (
    "SLURM_STEP_NUM_TASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_STEP_NODELIST",
    "SLURM_JOB_ID",
)
# Below 32768, where Linux begins to give ports to outgoing connections.
FIRST_PORT, LAST_PORT = 20000, 32767
PORTS_TRIED = 8
MEETING_LIMIT_S = 600.0  # nodes that import torch from a slow disk at the same time
ANSWER_LIMIT_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where the ranks of a job find rank 0."""

    host: str
    """Of rank 0, a name that every host resolves."""
    job: str
    """What rank 0 answers with: the job, the step and the attempt."""
    ports: tuple[int, ...]
    """Rank 0 takes the first free one; the others look for its answer at each."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of a step with several."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    meeting: Meeting


def step_task(environment: Mapping[str, str]) -> Task | None:
    """The task that srun started this process as; None if it is no step, or one of one task.

    LaunchError if some of its variables are missing, or one is no number.
    """
    if environment.get(TASK[0], "1") == "1":
        return None
    if missing := [name for name in TASK if name not in environment]:
        raise LaunchError(
            f"the environment has {TASK[0]} but not {', '.join(missing)}; start with srun, or "
            f"unset {TASK[0]} to run one process"
        )
    try:
        world_size, rank, local_rank, node = (int(environment[name]) for name in TASK[:4])
        sizes = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
        job = int(environment["SLURM_JOB_ID"])
        if not (0 <= rank < world_size == sum(sizes) and 0 <= local_rank < sizes[node]):
            raise ValueError
    except (ValueError, IndexError) as error:
        values = ", ".join(f"{name}={environment[name]}" for name in TASK)
        raise LaunchError(f"no step has such a task: {values}; start with srun") from error
    # A job that was requeued keeps its number, and what is left of it may still answer.
    attempt = (environment.get("SLURM_STEP_ID", "0"), environment.get("SLURM_RESTART_COUNT", "0"))
    return Task(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=sizes[node],
        meeting=Meeting(
            host=first_host(environment["SLURM_STEP_NODELIST"]),
            job="/".join(map(str, (job, *attempt))),
            ports=ports_for(job),
        ),
    )


def tasks_per_node(text: str) -> list[int]:
    """`2(x3),1`, as SLURM writes it, to [2, 2, 2, 1]."""
    sizes = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is None:
            raise ValueError(f"no list of tasks per node: {text}")
        sizes += [int(match[1])] * int(match[2] or 1)
    return sizes


def first_host(nodes: str) -> str:
    """The first of `node[03-05,9],other`: node03."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if first is None:
        raise LaunchError(f"SLURM_STEP_NODELIST={nodes}: no host; start with srun")
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", first[0])


def ports_for(job: int) -> tuple[int, ...]:
    """The ports of a job: neighbouring jobs on one host have none in common."""
    groups = (LAST_PORT + 1 - FIRST_PORT) // PORTS_TRIED
    first = FIRST_PORT + job % groups * PORTS_TRIED
    return tuple(range(first, first + PORTS_TRIED))


def open_store(meeting: Meeting, rank: int, limit_s: float = MEETING_LIMIT_S) -> Store:
    """The store through which the process group forms, on whatever port is free.

    A port of the meeting may be taken by anybody, another job's rank 0 too. So all that rank 0
    does there is to say which job it is of, and where its store is.
    LaunchError if it finds no free port, or another rank no answer within the limit.
    """
    if rank != 0:
        return TCPStore(meeting.host, _find(meeting, rank, limit_s), is_master=False)
    listener = _listen(meeting)
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    answer = f"{_greeting(meeting)}{store.port}\n".encode()
    threading.Thread(target=_answer, args=(listener, answer), daemon=True).start()
    return store


def _listen(meeting: Meeting) -> socket.socket:
    for port in meeting.ports:
        with contextlib.suppress(OSError):
            return socket.create_server(("", port))
    raise LaunchError(
        f"{socket.gethostname()}: ports {_range(meeting)} are all taken; submit again for another "
        "job number, or exclude this host"
    )


def _answer(listener: socket.socket, answer: bytes) -> None:
    """To everybody who calls, as long as the process runs."""
    while True:
        with contextlib.suppress(OSError), listener.accept()[0] as caller:
            caller.sendall(answer)


def _find(meeting: Meeting, rank: int, limit_s: float) -> int:
    """The port of rank 0's store."""
    deadline = time.monotonic() + limit_s
    while True:
        why = "others answer there"
        for port in meeting.ports:
            try:
                with socket.create_connection((meeting.host, port), ANSWER_LIMIT_S) as call:
                    said = call.makefile("rb").readline(200).decode("utf-8", "replace")
            except OSError as error:
                why = str(error)
                continue
            if said.startswith(_greeting(meeting)):
                return int(said.removeprefix(_greeting(meeting)))
        if time.monotonic() > deadline:
            raise LaunchError(
                f"rank {rank} on {socket.gethostname()} finds no rank 0 on {meeting.host}, ports "
                f"{_range(meeting)} ({why}); see its log, and whether the hosts reach each other"
            )
        time.sleep(0.2)


def _greeting(meeting: Meeting) -> str:
    return f"distreid {meeting.job} "


def _range(meeting: Meeting) -> str:
    return f"{meeting.ports[0]} to {meeting.ports[-1]}"

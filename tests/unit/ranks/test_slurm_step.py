import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from torch._C._distributed_c10d import TCPStore

from distreid.errors import LaunchError
from distreid.ranks import slurm_step as slurm
from distreid.ranks.group import World
from distreid.ranks.slurm_step import Meeting, first_host, open_store, ports_for, tasks_per_node

# What slurm 22.05 sets for the last task of `srun --nodes 2 --ntasks 3`.
STEP = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "3",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
}
# And for a batch script, which is one process however many tasks were asked for.
BATCH = {"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "3", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


def test_a_task_of_a_step_is_a_rank() -> None:
    world = World.from_environment(STEP)
    assert (world.rank, world.world_size) == (2, 3)
    assert (world.local_rank, world.local_world_size) == (0, 1)
    assert world.has_group
    assert world.meeting == Meeting(host="n1", job="1234/0/0", ports=ports_for(1234))


def test_a_requeued_job_is_another_meeting() -> None:
    again = World.from_environment(STEP | {"SLURM_RESTART_COUNT": "1"})
    assert again.meeting != World.from_environment(STEP).meeting


def test_a_batch_script_a_shell_and_a_step_of_one_task_are_one_process() -> None:
    assert World.from_environment(BATCH) == World()
    assert World.from_environment({"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "3"}) == World()
    assert World.from_environment(STEP | {"SLURM_STEP_NUM_TASKS": "1"}) == World()


def test_torchrun_inside_a_step_comes_first() -> None:
    torchrun = {
        "RANK": "5",
        "WORLD_SIZE": "6",
        "LOCAL_RANK": "2",
        "LOCAL_WORLD_SIZE": "3",
        "MASTER_ADDR": "n1",
        "MASTER_PORT": "29500",
    }
    world = World.from_environment(STEP | torchrun)
    assert (world.rank, world.world_size, world.meeting) == (5, 6, None)


@pytest.mark.parametrize("missing", ["SLURM_PROCID", "SLURM_STEP_NODELIST", "SLURM_JOB_ID"])
def test_a_step_set_in_part_names_what_is_missing(missing: str) -> None:
    environment = {name: value for name, value in STEP.items() if name != missing}
    with pytest.raises(LaunchError, match=f"but not {missing}; start with srun"):
        World.from_environment(environment)


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_PROCID": "3"},
        {"SLURM_PROCID": "two"},
        {"SLURM_LOCALID": "1"},
        {"SLURM_NODEID": "2"},
        {"SLURM_STEP_TASKS_PER_NODE": "2(x2)"},
        {"SLURM_STEP_TASKS_PER_NODE": "many"},
    ],
)
def test_a_step_that_makes_no_sense_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(LaunchError, match="no step has such a task: SLURM_STEP_NUM_TASKS=3"):
        World.from_environment(STEP | change)


@pytest.mark.parametrize(
    ("text", "sizes"), [("2(x2)", [2, 2]), ("8", [8]), ("2(x3),1", [2, 2, 2, 1]), ("1,4", [1, 4])]
)
def test_tasks_per_node_are_counted_out(text: str, sizes: list[int]) -> None:
    assert tasks_per_node(text) == sizes


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("gpu-a[03-05,9],other", "gpu-a03"),
        ("login,n[1-2]", "login"),
        ("r[1-2]n[3-4]-ib", "r1n3-ib"),
        ("n[7,9]", "n7"),
    ],
)
def test_rank_0_is_on_the_first_host(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_neighbouring_jobs_have_no_port_in_common() -> None:
    ports = [port for job in range(1000) for port in ports_for(job)]
    assert len(set(ports)) == len(ports)
    assert min(ports) >= 20000
    assert max(max(ports_for(job)) for job in (10**6, 10**7, 1595)) < 32768


@pytest.fixture
def busy() -> Iterator[Meeting]:
    """A meeting with all but its last port taken: by one who is silent, one who speaks HTTP,
    a TCPStore, and rank 0 of another job."""
    meeting = Meeting(host="localhost", job="1234/0/1", ports=tuple(_free_ports(5)))
    with ExitStack() as stack:
        stack.enter_context(socket.create_server(("", meeting.ports[0])))
        web = stack.enter_context(
            ThreadingHTTPServer(("", meeting.ports[1]), SimpleHTTPRequestHandler)
        )
        threading.Thread(target=web.serve_forever, daemon=True).start()
        stack.callback(web.shutdown)
        store = TCPStore("localhost", meeting.ports[2], is_master=True, wait_for_workers=False)
        other = open_store(replace(meeting, job="1234/0/0"), rank=0)
        yield meeting
        del store, other


def test_ranks_meet_though_ports_are_taken(busy: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "ANSWER_LIMIT_S", 0.5)
    ours, theirs = open_store(busy, rank=0), open_store(busy, rank=1)
    ours.set("plan", "from rank 0")
    assert theirs.get("plan") == b"from rank 0"


def test_no_free_port_and_no_rank_0_are_said(
    busy: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "ANSWER_LIMIT_S", 0.2)
    taken = replace(busy, ports=busy.ports[:4])
    with pytest.raises(LaunchError, match=r"ports \d+ to \d+ are all taken"):
        open_store(taken, rank=0)
    with pytest.raises(LaunchError, match=r"rank 2 on .* finds no rank 0 on localhost"):
        open_store(taken, rank=2, limit_s=0.1)
    nowhere = replace(taken, host="no-such-host.invalid")
    with pytest.raises(LaunchError, match="finds no rank 0 on no-such-host"):
        open_store(nowhere, rank=1, limit_s=0.1)


def _free_ports(count: int) -> list[int]:
    """All found before any is given back, so that they differ."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in found]

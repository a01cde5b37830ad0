import threading
import warnings
from collections.abc import Iterator

import pytest
from torch import multiprocessing as mp

from distreid.errors import DataError, FailedElsewhere, LaunchError
from distreid.ranks.group import Group, World, process_group

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


def test_without_torchrun_it_is_one_process_alone() -> None:
    assert World.from_environment({}) == World()
    assert World.from_environment({"MASTER_ADDR": "x", "PATH": "/bin"}) == World()


def test_torchruns_environment_is_read() -> None:
    world = World.from_environment(TORCHRUN)
    assert world == World(rank=1, world_size=4, local_rank=1, local_world_size=2, has_group=True)
    assert not world.is_main


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"])
def test_an_environment_set_in_part_names_what_is_missing(missing: str) -> None:
    environment = {name: value for name, value in TORCHRUN.items() if name != missing}
    with pytest.raises(LaunchError, match=f"but not {missing}; start with torchrun"):
        World.from_environment(environment)


@pytest.mark.parametrize(
    "change", [{"RANK": "one"}, {"RANK": "4"}, {"LOCAL_RANK": "2"}, {"WORLD_SIZE": "0"}]
)
def test_an_environment_that_makes_no_sense_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(LaunchError, match="start with torchrun"):
        World.from_environment(TORCHRUN | change)


@pytest.fixture
def world_of_one(monkeypatch: pytest.MonkeyPatch) -> World:
    """As torchrun starts a single process."""
    for name, value in (TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "0")
    return World.from_environment()


@pytest.fixture
def group_of_one(world_of_one: World) -> Iterator[Group]:
    """A real group of a single process."""
    with process_group(world_of_one) as group:
        yield group


def test_a_group_leaves_no_thread(world_of_one: World) -> None:
    # One that comes back from torch while Python ends would abort the process.
    before = threading.enumerate()
    with process_group(world_of_one):
        assert threading.enumerate() != before
    assert threading.enumerate() == before


def test_a_group_of_one_process_gives_what_it_gets(group_of_one: Group) -> None:
    assert group_of_one.on_main(lambda: "plan") == "plan"
    assert group_of_one.main_first(lambda: "model") == "model"
    assert group_of_one.gather(7) == [7]


def test_an_error_on_rank_0_stays_itself(group_of_one: Group) -> None:
    def fail() -> None:
        raise DataError("no such folder")

    with pytest.raises(DataError, match="no such folder"):
        group_of_one.on_main(fail)


def _two_ranks(rank: int, port: int, results: "mp.SimpleQueue[tuple[int, object]]") -> None:
    """What each of two processes sees."""
    import os

    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    world = World(rank=rank, world_size=2, has_group=True)

    def fail() -> None:
        raise DataError("no such folder")

    seen: list[object] = []
    try:
        with process_group(world) as group:
            seen.append(group.on_main(lambda: f"from rank {rank}"))
            seen.append(group.main_first(lambda: rank))
            seen.append(group.gather(rank * 10))
            # Larger than what the store takes at once.
            seen.append(len(group.on_main(lambda: bytes(20_000_000))))
            group.main_first(fail)
    except (DataError, FailedElsewhere) as error:
        seen.append(type(error).__name__)
    results.put((rank, seen))


def test_two_processes_agree_and_a_mistake_is_reported_once() -> None:
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        port = _free_port()
        mp.spawn(_two_ranks, (port, results), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    seen = dict(results.get() for _ in range(2))
    assert seen[0] == ["from rank 0", 0, [0, 10], 20_000_000, "DataError"]
    assert seen[1] == ["from rank 0", 1, [0, 10], 20_000_000, "FailedElsewhere"]


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])

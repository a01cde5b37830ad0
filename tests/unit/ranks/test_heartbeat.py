import json
import threading
from collections.abc import Iterator

import pytest
from conftest import wait_until
from torch import distributed as dist

from distreid.errors import FailedElsewhere, LaunchError, UserError
from distreid.ranks import heartbeat
from distreid.ranks.heartbeat import DONE, FAILED, STOPPED, Connection


@pytest.fixture
def line() -> Iterator[Connection]:
    """Of rank 1 of 3, which has met nobody."""
    line = Connection(1, 3)
    yield line
    line.part(DONE, wait=False)


@pytest.mark.parametrize(
    ("rank_0", "rank_2", "speaks"),
    [
        ("", "", True),
        ("", STOPPED, True),
        ("", DONE, True),
        (STOPPED, STOPPED, False),
        (DONE, "", False),
        ("", FAILED, False),
        (FAILED, "", False),
    ],
)
def test_the_first_rank_that_has_ended_tells_the_user_unless_one_has_failed_and_told(
    line: Connection, rank_0: str, rank_2: str, speaks: bool
) -> None:
    line.peers[0].ended, line.peers[2].ended = rank_0, rank_2
    line.peers[1].ended = STOPPED  # its own end keeps nobody from speaking
    assert line.speaks() is speaks


def test_a_rank_that_is_silent_is_told_with_its_last_row_and_one_that_said_farewell_is_not(
    line: Connection,
) -> None:
    for peer in line.peers:
        peer.hear(b'["node%d", 41, "", 1]' % peer.rank, 1)
    assert line.lost() is None
    line._beats = 6
    assert line.lost() == "rank 0 on node0 has not been heard for 5 s; its last row was 41"
    line.peers[0].hear(b'["node0", 41, "done", 2]', 6)
    line.peers[2].row = -1
    assert line.lost() == "rank 2 on node2 has not been heard for 5 s; it had computed no row"


@pytest.fixture
def store() -> dist.Store:
    """What torchrun has for its ranks."""
    return dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def ranks(store: dist.Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Connection]]:
    """Three that have met, and speak often."""
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.02)
    monkeypatch.setattr(heartbeat, "SILENCE_BEATS", 5000)
    met = [Connection(rank, 3) for rank in range(3)]
    joining = [threading.Thread(target=each.join, args=(lambda: store,)) for each in met]
    for thread in joining:
        thread.start()
    for thread in joining:
        thread.join()
    yield met
    for each in met:
        each.part(DONE, wait=False)


def end_of(rank: Connection) -> UserError:
    """Why the rank has to end."""
    caught: list[UserError] = []

    def has_to_end() -> bool:
        try:
            rank.check()
        except UserError as error:
            caught.append(error)
        return bool(caught)

    wait_until(has_to_end)
    return caught[0]


@pytest.mark.parametrize("how", [FAILED, STOPPED])
def test_when_a_rank_ends_rank_0_ends_and_then_all(ranks: list[Connection], how: str) -> None:
    ranks[2].part(how, wait=False)
    assert isinstance(end_of(ranks[0]), FailedElsewhere)
    ranks[1].check()
    ranks[0].part(FAILED, wait=False)
    assert isinstance(end_of(ranks[1]), FailedElsewhere)


@pytest.mark.parametrize(("silent", "listener", "done"), [(2, 0, 1), (0, 1, 2)])
def test_a_rank_that_falls_silent_is_named_by_whoever_listens_to_it_and_not_one_that_is_done(
    ranks: list[Connection],
    silent: int,
    listener: int,
    done: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "SILENCE_BEATS", 150)
    ranks[silent].row = 7
    wait_until(lambda: ranks[listener].peers[silent].row == 7)
    ranks[done].part(DONE, wait=False)
    wait_until(lambda: ranks[0].peers[done].ended == DONE)
    ranks[silent]._calls.put(None)  # its thread ends without a word
    error = end_of(ranks[listener])
    assert isinstance(error, LaunchError)
    assert f"rank {silent} on " in str(error) and "its last row was 7; run the" in str(error)


def test_ranks_that_are_started_again_do_not_meet_in_the_name_of_a_former_start(
    store: dist.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun keeps its store when it restarts them."""
    monkeypatch.setattr(heartbeat, "ROLL_CALL_S", 20.0)
    store.set("distreid/roll", json.dumps(["former", {"0": "its word", "1": "its word"}]))
    former = dist.PrefixStore("former", store)
    former.set("sign/0", json.dumps(["node", 3, "", 9]))
    former.set("complete", "")
    first, second = Connection(0, 2), Connection(1, 2)
    early = threading.Thread(target=second.join, args=(lambda: store,))
    early.start()
    wait_until(lambda: store.check(["distreid/here/1"]))
    early.join(0.5)
    first.join(lambda: store)
    early.join()
    first.send("plan", "of this start")
    assert second.receive(["plan"]) == ["of this start"]
    for each in (second, first):
        each.part(DONE, wait=False)

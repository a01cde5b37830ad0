from collections.abc import Iterator

import pytest

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

import pytest

from distreid.images.worker_count import WATCHED_S, ImageSeconds, WatchedInput


@pytest.mark.parametrize(
    ("input_s", "model_s", "cores", "workers"),
    [
        (0.0002, 0.03, 2, 1),  # a network on a CPU: one process is more than enough
        (0.0002, 0.0001, 16, 4),  # twice what is needed on average
        (0.002, 0.0001, 16, 16),  # more than there are cores would not help
        (0.002, 0.0001, 64, 40),
    ],
)
def test_as_many_processes_decode_as_keep_the_model_at_work(
    input_s: float, model_s: float, cores: int, workers: int
) -> None:
    assert ImageSeconds(input=input_s, model=model_s).workers(cores) == workers


@pytest.mark.parametrize(
    ("workers", "cores", "waiting", "better"),
    [
        (4, 16, 0.04, None),  # of the time: hardly any
        (4, 16, 0.5, 16),  # an image keeps a process for 8 times as long as the model
        (4, 10, 0.5, 10),  # as many as there are cores
        (4, 4, 0.5, None),
    ],
)
def test_more_processes_decode_where_the_model_is_seen_to_wait(
    workers: int, cores: int, waiting: float, better: int | None
) -> None:
    watched = WatchedInput(workers, cores)
    watched.add(1000, WATCHED_S / 2, waiting * WATCHED_S / 2)
    assert watched.better() is None  # not for long enough
    watched.add(1000, WATCHED_S / 2, waiting * WATCHED_S / 2)
    assert watched.better() == better

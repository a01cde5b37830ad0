import pytest

from distreid.images.worker_count import ImageSeconds


@pytest.mark.parametrize(
    ("input_s", "model_s", "cores", "workers"),
    [
        (0.0002, 0.03, 2, 1),  # a network on a CPU: one process is more than enough
        (0.0002, 0.0001, 16, 4),  # twice what is needed on average
        (0.002, 0.0001, 16, 16),  # more than there are cores would not help
        (0.002, 0.0001, 64, 16),  # nor would more processes than a host can feed
    ],
)
def test_as_many_processes_decode_as_keep_the_model_at_work(
    input_s: float, model_s: float, cores: int, workers: int
) -> None:
    assert ImageSeconds(input=input_s, model=model_s).workers(cores) == workers

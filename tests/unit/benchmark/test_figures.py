import json
import math
from dataclasses import replace

import pytest
from rich.console import Console

from distreid.benchmark.figures import Bench, BesideThePeer, Trial, bench_table
from distreid.benchmark.load import Load

FIGURES = Bench(
    device="cpu",
    workers=1,
    cores=2,
    compiled="off",
    steps={"read": 9e4, "decode": 2e4, "resize": 9e3, "forward": 100.0, "write": 1e6},
    input=6e3,
    together=97.0,
    exact="torch in fp32",
    trials=(
        Trial(engine="openvino", precision="fp32", batch_size=64, rate=100.0, cosine=1.0),
        Trial(engine="openvino", precision="bf16", batch_size=64, rate=180.0, cosine=0.9999),
        Trial(engine="torch", precision="fp32", batch_size=128, rate=120.0, cosine=1.0),
    ),
    peer=None,
    load=Load(cores=2, before=0.1, after=2.0, ours=2.0, seconds=60),
)


def test_the_bottleneck_is_named() -> None:
    steps = FIGURES.steps
    assert FIGURES.bottleneck().startswith("the model")
    assert replace(FIGURES, together=80.0).bottleneck().startswith("the cores")
    slow = replace(FIGURES, together=45.0, input=50.0)
    assert slow.bottleneck() == "the input: take more --num-workers"
    assert replace(slow, workers=2).bottleneck().endswith("resize is slowest")
    assert replace(FIGURES, steps=steps | {"write": 10.0}).bottleneck().startswith("the disk")


def test_the_fastest_setting_is_advised() -> None:
    assert FIGURES.advice() == (
        "fastest with the peers' features: --engine torch --precision fp32 --batch-size 128, "
        "1.20 times the forward rate of openvino in fp32 with 64, cosine to torch in fp32 "
        "1.000000\n"
        "fastest tried: --engine openvino --precision bf16 --batch-size 64, 1.80 times the forward "
        "rate of openvino in fp32 with 64, cosine to torch in fp32 0.999900"
    )


# Of three rounds, in one of which something else took the machine from the other side.
BESIDE = BesideThePeer(ours=(90.0, 100.0, 110.0), theirs=(45.0, 4.0, 50.0), cosine=0.9999999)


def test_the_ratio_to_the_plain_loop_is_the_median_over_the_rounds_with_its_spread() -> None:
    assert BESIDE.ratios == (2.0, 25.0, 2.2)
    assert BESIDE.to_json() == {
        "rate": 45.0,
        "ours": 100.0,
        "ratio": 2.2,
        "ratio_min": 2.0,
        "ratio_max": 25.0,
        "rounds": 3,
        "cosine": 0.9999999,
    }
    assert BESIDE.describe() == (
        "beside the plain PyTorch loop: 100.0 against 45.0 images/s, 2.20 times (2.00 to 25.00 in "
        "3 rounds); cosine of the features 1.000000"
    )


@pytest.mark.parametrize(
    ("before", "after", "ours", "seconds", "others"),
    [
        (0.0, 2.0, 2.0, 600, 0.0),  # ours alone
        (0.5, 2.2, 2.0, 600, 0.5),  # more at the start than at the end
        (0.0, 5.0, 2.0, 600, 3.0),  # another came meanwhile
        (4.0, 3.0, 2.0, 60, 4.0),  # another that has ended
        (0.0, 2.0, 2.0, 1, 2 - 2 * (1 - math.exp(-1 / 60))),  # too short to be ours
        (0.0, 1.0, 8.0, 600, 0.0),
    ],
)
def test_what_others_did_is_the_load_less_our_share_of_it(
    before: float, after: float, ours: float, seconds: float, others: float
) -> None:
    load = Load(cores=2, before=before, after=after, ours=ours, seconds=seconds)
    assert load.others == pytest.approx(others, abs=1e-3)
    assert load.busy is (others > 2)


def test_a_busy_machine_is_told_in_the_table_and_to_programs() -> None:
    busy = replace(FIGURES, peer=BESIDE, load=replace(FIGURES.load, before=5.25))
    warning = (
        "the machine was busy with other work (a load of 5.2 without ours, on 2 cores): these "
        "figures are worth little"
    )
    assert busy.load.warning() == warning
    assert text_of(busy).splitlines()[-2:] == [BESIDE.describe(), warning]
    found = json.loads(json.dumps(busy.to_json()))
    assert found["peer"] == BESIDE.to_json()
    assert (found["load"]["others"], found["load"]["busy"]) == (5.25, True)


def test_nothing_is_said_of_a_quiet_machine() -> None:
    assert FIGURES.load.warning() == ""
    assert text_of(FIGURES).splitlines()[-1] == "compiled: off"
    found = FIGURES.to_json()
    assert found["peer"] is None
    assert found["load"]["busy"] is False


def text_of(found: Bench) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(bench_table(found))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())

"""The job on two hosts, made of Linux namespaces: what differs between them, and what fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY, Run

TWO_HOSTS = REPOSITORY / "tests/hosts/two_hosts.sh"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("ip") is None
    or subprocess.run(["unshare", "--net", "--mount", "true"], check=False).returncode != 0,
    reason="needs root, iproute2's ip, and to be allowed namespaces",
)

# The job with a pause after each batch, and less patience than the two minutes of a real one.
SLOW = """
import sys, time
from distreid import line
from distreid.extract import main
from distreid.shards import ShardWriter

line.SILENCE_BEATS = 8
add = ShardWriter.add
ShardWriter.add = lambda *values: (add(*values), time.sleep(1))
sys.exit(main())
"""
START = """
start() {
    host=$1; shift
    on $host "$@" torchrun --nnodes=2 --nproc_per_node=1 --rdzv-backend=c10d \
        --rdzv-endpoint=h1:29400 --local-addr=$host $JOB >$LOGS/$host 2>&1 &
}
"""


TwoHosts = Callable[..., tuple[str, str]]


@pytest.fixture
def on_two_hosts(run_command: Run, tmp_path: Path, market: Path, osnet_file: Path) -> TwoHosts:
    """Runs a script in which `start h1` and `start h2` start the job; gives what they said."""

    def run(script: str, job: str = "-m distreid.extract") -> tuple[str, str]:
        (tmp_path / "slow.py").write_text(SLOW)
        job = job.replace("slow.py", str(tmp_path / "slow.py"))
        done = run_command(
            "sh", TWO_HOSTS, "sh", "-ec", START + script,
            JOB=f"{job} --data {market} --checkpoint {osnet_file} --out {tmp_path}/shared/run "
            "--num-workers 1 --batch-size 4 --shard-rows 8",
            LOGS=str(tmp_path), SHARED=f"{tmp_path}/shared", DATA=str(market),
            PYTHONPATH=str(REPOSITORY), timeout=300,
        )  # fmt: skip
        logs = [(tmp_path / host).read_text() for host in ("h1", "h2")]
        assert done.returncode == 0, (done.stderr, *logs)
        return logs[0], logs[1]

    (tmp_path / "shared").mkdir()
    return run


WORKING = """
start h1; h1=$!; start h2
# The second shard is rank 1's; within a second or two it has said so.
while [ ! -e "$SHARED/run/shards/000001.h5" ]; do sleep 0.1; done
sleep 3
"""


def errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("distreid: ")]


def test_images_that_differ_between_hosts_are_found_before_the_work(on_two_hosts: TwoHosts) -> None:
    logs = on_two_hosts('start h1; start h2 --private "$DATA/query"; wait')
    said = errors(logs[0]) + errors(logs[1])
    assert len(said) == 1, logs
    # torchrun may make h2 rank 0, which then takes the folder for another layout.
    why = ("(60 of 150 compared differ); all must see", "no images in query/", "holds another run")
    assert any(reason in said[0] for reason in why), said


def test_an_output_folder_that_is_not_shared_is_found_before_the_work(
    on_two_hosts: TwoHosts,
) -> None:
    logs = on_two_hosts('start h1; start h2 --private "$SHARED"; wait')
    said = errors(logs[0]) + errors(logs[1])
    assert len(said) == 1, logs
    assert "does not see what rank 0 writes there; --out must be a folder" in said[0]


def test_a_host_that_dies_is_named_and_ends_the_job(on_two_hosts: TwoHosts) -> None:
    # The second host joins last, so its rank is 1.
    logs = on_two_hosts(WORKING + "kill -9 $(ip netns pids h2); wait $h1 || true", "slow.py")
    (said,) = errors(logs[0])
    assert "rank 1 on h2 has not been heard for 8 s; its last row was " in said
    assert said.endswith("run the same command again to continue")


def test_a_link_that_is_cut_ends_the_ranks_on_both_sides(on_two_hosts: TwoHosts) -> None:
    ended = 'grep -q "^distreid: " $LOGS/h1 && grep -q "^distreid: " $LOGS/h2'
    # torchrun itself waits longer; the namespaces end with the script.
    logs = on_two_hosts(
        WORKING + f"ip link set v2 down; until {ended}; do sleep 1; done", "slow.py"
    )
    assert "rank 1 on h2 has not been heard for 8 s" in errors(logs[0])[0]
    assert errors(logs[1]) == [
        "distreid: error: rank 0's host does not answer any more; "
        "run the same command again to continue"
    ]

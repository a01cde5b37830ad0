"""The job on two hosts, made of Linux namespaces: what differs between them, and what fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, Run

TWO_HOSTS = REPOSITORY / "tests/hosts/two_hosts.sh"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0
    or shutil.which("ip") is None
    or subprocess.run(["unshare", "--net", "--mount", "true"], check=False).returncode != 0,
    reason="needs root, iproute2's ip, and to be allowed namespaces",
)

# The job with a pause after each batch, and less patience than the two minutes of a real one. The
# file `heard` is there once rank 0 has heard which row each rank has reached.
SLOW = """
import sys, time
from pathlib import Path
from distreid.ranks import heartbeat
from distreid.extract import main
from distreid.store.shards import ShardWriter

heartbeat.SILENCE_BEATS = 8
listen = heartbeat.Connection._listen

def listening(self, watched):
    listen(self, watched)
    if self.rank == 0 and all(peer.row >= 0 for peer in watched):
        Path(__file__).with_name("heard").touch()

heartbeat.Connection._listen = listening
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
# Without torchrun, which makes either host the first.
rank() {
    rank=$1; host=$2; shift 2
    on $host "$@" env RANK=$rank WORLD_SIZE=2 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 \
        MASTER_ADDR=h1 MASTER_PORT=29400 python $JOB >$LOGS/$host 2>&1 &
}
"""


TwoHosts = Callable[..., tuple[str, str]]


@pytest.fixture
def on_two_hosts(run_command: Run, tmp_path: Path, market: Path, osnet_file: Path) -> TwoHosts:
    """Runs a script in which `start h1` and `start h2`, or `rank 0 h1` and `rank 1 h2`, start
    the job; gives what they said."""

    def run(script: str, job: str = "-m distreid.extract") -> tuple[str, str]:
        (tmp_path / "slow.py").write_text(SLOW)
        job = job.replace("slow.py", str(tmp_path / "slow.py"))
        done = run_command(
            "sh", TWO_HOSTS, "sh", "-ec", START + script,
            JOB=f"{job} --data {market} --checkpoint {osnet_file} --out {tmp_path}/shared/run "
            "--num-workers 1 --batch-size 4 --shard-rows 8",
            LOGS=str(tmp_path), SHARED=f"{tmp_path}/shared", DATA=str(market),
            PYTHONPATH=str(REPOSITORY),
        )  # fmt: skip
        logs = [(tmp_path / host).read_text() for host in ("h1", "h2")]
        assert done.returncode == 0, (done.stderr, *logs)
        return logs[0], logs[1]

    (tmp_path / "shared").mkdir()
    return run


WORKING = """
start h1; h1=$!; start h2
# The second shard is rank 1's.
while [ ! -e "$SHARED/run/shards/000001.h5" ]; do sleep 0.1; done
while [ ! -e "$LOGS/heard" ]; do sleep 0.1; done
"""


def errors(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("distreid: ")]


def test_images_that_differ_between_hosts_are_found_before_the_work(on_two_hosts: TwoHosts) -> None:
    logs = on_two_hosts('rank 0 h1; rank 1 h2 --private "$DATA/query"; wait')
    assert errors(logs[0]) == []
    (said,) = errors(logs[1])
    assert "/query/0001_c1s1_000001_00.jpg: no such file on h2, " in said
    assert said.endswith(
        "on h1, rank 0's host (60 of 150 compared differ); all must see one --data"
    )


def test_another_checkpoint_under_the_same_name_is_found_before_the_work(
    on_two_hosts: TwoHosts, osnet_file: Path, tmp_path: Path
) -> None:
    content = torch.load(osnet_file, weights_only=False)
    content["state_dict"]["fc.0.bias"][0] += 1
    torch.save(content, tmp_path / "other.pth")
    other = f'JOB=$(echo "$JOB" | sed "s#{osnet_file}#{tmp_path}/other.pth#")'
    logs = on_two_hosts(f"rank 0 h1; {other}; rank 1 h2; wait")
    assert errors(logs[0]) == []
    assert errors(logs[1]) == [
        f"distreid: error: {tmp_path}/other.pth: rank 1 on h2 sees another file than rank 0 under "
        "this name"
    ]


def test_an_output_folder_that_is_not_shared_is_found_before_the_work(
    on_two_hosts: TwoHosts,
) -> None:
    logs = on_two_hosts('rank 0 h1; rank 1 h2 --private "$SHARED"; wait')
    assert errors(logs[0]) == []
    (said,) = errors(logs[1])
    assert "rank 1 on h2 does not see what rank 0 writes there; --out must be a folder" in said


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

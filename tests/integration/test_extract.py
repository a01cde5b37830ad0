"""The main job by its real command line: torchrun, gloo, files on a disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from conftest import LIMIT_S, Run, draw, needs_mounts, start_halting, wait_until

from distreid.store import FeatureStore
from distreid.store.shards import shard_file

EXTRACT = ("-m", "distreid.extract")


def contents(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((run / "shards").iterdir())}


@pytest.fixture(scope="module")
def reference(market: Path, osnet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process without torchrun writes for `market`."""
    out = tmp_path_factory.mktemp("reference") / "run"
    options = ("--data", market, "--checkpoint", osnet_file, "--out", out, "--batch-size", "48")
    done = subprocess.run(
        [sys.executable, *EXTRACT, *map(str, options)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_any_number_of_processes_writes_the_same_bytes(
    reference: Path,
    market: Path,
    osnet_file: Path,
    tmp_path: Path,
    run_command: Run,
    processes: int,
) -> None:
    done = run_command(
        "torchrun", f"--nproc_per_node={processes}", *EXTRACT, "--data", market,
        "--checkpoint", osnet_file, "--out", tmp_path / "run", "--num-workers", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "run") == contents(reference)
    assert "150 rows, each exactly once" in done.stderr
    figures = [
        json.loads((run / "metrics.json").read_text()) for run in (reference, tmp_path / "run")
    ]
    assert figures[0] == figures[1]


def test_a_job_that_takes_more_decoding_processes_on_its_way_writes_the_same_bytes(
    reference: Path, market: Path, osnet_file: Path, tmp_path: Path, run_command: Run
) -> None:
    # As it would on a GPU that waits: with more than two batches done, two are found better.
    decided = (
        "import sys; from distreid.images.worker_count import WatchedInput; "
        "WatchedInput.better = lambda self: 2 if self.images > 32 else None; "
        "from distreid.extract import main; sys.exit(main())"
    )
    done = run_command(
        sys.executable, "-c", decided, "--data", market, "--checkpoint", osnet_file,
        "--out", tmp_path / "run", "--batch-size", "16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(": 2 decoding processes from here on") == 1
    assert contents(tmp_path / "run") == contents(reference)


@needs_mounts
def test_a_container_with_little_shared_memory_is_enough(
    reference: Path, market: Path, osnet_file: Path, tmp_path: Path, run_command: Run
) -> None:
    # A batch is 4.7 MB. Of 64 MB, as Docker gives, a larger batch and more workers have as little.
    small = 'mount -t tmpfs -o size=1m tmpfs /dev/shm; exec "$@"'
    done = run_command(
        "unshare", "--mount", "bash", "-c", small, "bash", sys.executable, *EXTRACT,
        "--data", market, "--checkpoint", osnet_file, "--out", tmp_path / "run",
        "--batch-size", "48", "--num-workers", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "run") == contents(reference)


def test_the_store_holds_the_images_in_the_order_of_the_manifest(
    reference: Path, market: Path, osnet_file: Path
) -> None:
    import torch

    from distreid.models.checkpoint import load_model

    model = load_model(str(osnet_file))
    preprocess = model.architecture.preprocess
    store = FeatureStore.open(reference)
    assert store.manifest.path[0] == b"query/0001_c1s1_000001_00.jpg"
    rows = np.array([0, 61, 89, 149])
    files = [market / os.fsdecode(store.manifest.path[row]) for row in rows]
    with torch.inference_mode():
        batch = preprocess.normalise(preprocess.resize(map(preprocess.load, files)))
        expected = torch.nn.functional.normalize(model.network(batch)).numpy()
    np.testing.assert_allclose(store.features(rows), expected, atol=1e-4)
    with h5py.File(reference / "store.h5") as file:
        assert np.array_equal(file["features"][()], store.features(np.arange(150)))


def test_more_processes_than_shards_and_a_single_image_work(
    osnet_file: Path, tmp_path: Path, run_command: Run
) -> None:
    draw(tmp_path / "data" / "only.jpg", 1)
    done = run_command(
        "torchrun", "--nproc_per_node=2", *EXTRACT, "--data", tmp_path / "data",
        "--checkpoint", osnet_file, "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 shards to do: some processes have no work" in done.stderr
    assert "scores none: no row is marked as query" in done.stderr
    assert FeatureStore.open(tmp_path / "run").features(np.arange(1)).shape == (1, 512)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_mistake_ends_every_process_and_is_said_once(
    osnet_file: Path, tmp_path: Path, run_command: Run
) -> None:
    (tmp_path / "data").mkdir()
    done = run_command(
        "torchrun", "--nproc_per_node=2", *EXTRACT, "--data", tmp_path / "data",
        "--checkpoint", osnet_file, "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("distreid: error:")]
    assert said == [f"distreid: error: {tmp_path}/data: no image in this folder; check --data"]
    # torchrun's own report names the workers' exit status.
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_signal_ends_the_job_with_a_word_on_how_to_continue(
    market: Path, osnet_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ["--data", str(market), "--checkpoint", str(osnet_file), "--out", str(out)]
    job = start_halting(tmp_path, options, after=1)
    wait_until((out / "plan.h5").exists, job)
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=LIMIT_S)
    assert job.returncode == 128 + signal.SIGTERM
    assert said.splitlines()[-1] == (
        "distreid: stopped by SIGTERM; run the same command again to continue"
    )
    assert "Traceback" not in said


def test_a_complete_run_is_scored_again_without_computing(
    reference: Path, market: Path, osnet_file: Path, tmp_path: Path, run_here: Run
) -> None:
    shutil.copytree(reference, tmp_path / "run")
    before = contents(tmp_path / "run")
    done = run_here(
        "distreid", "extract", "--data", market, "--checkpoint", osnet_file,
        "--out", tmp_path / "run", "--mat",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 of 3 shards are done already" in done.stderr
    assert "images/s" not in done.stderr
    assert contents(tmp_path / "run") == before
    result = scipy.io.loadmat(tmp_path / "run" / "pytorch_result.mat")
    assert result["query_f"].shape == (60, 512)
    assert result["gallery_label"].shape == (1, 90)


def test_the_commands_on_a_run(reference: Path, tmp_path: Path, run_here: Run) -> None:
    shutil.copytree(reference, tmp_path / "run")
    verified = run_here("distreid", "verify", tmp_path / "run")
    assert verified.returncode == 0
    assert "150 rows in 3 shards, each exactly once" in verified.stdout
    scored = run_here("distreid", "evaluate", tmp_path / "run", "--json")
    figures = json.loads(scored.stdout)
    assert figures["counts"] == {
        "queries": 60,
        "valid_queries": 60,
        "queries_without_match": 0,
        "gallery": 90,
        "junk": 10,
        "distractors": 20,
        "bad_queries": 0,
        "bad_gallery": 0,
        "unlabelled_queries": 0,
    }
    changed = run_here(
        "distreid", "evaluate", tmp_path / "run", "--protocol", "layumi", "--ap", "standard",
        "--depth", "3", "--csv", tmp_path / "queries.csv", "--json",
    )  # fmt: skip
    (score,) = json.loads(changed.stdout)["scores"]
    assert score["protocol"]["name"] == "layumi, changed"
    assert (score["protocol"]["ap"], score["protocol"]["denominator"]) == ("standard", "all")
    assert len(score["cmc"]) == 3
    lines = (tmp_path / "queries.csv").read_text().splitlines()
    assert len(lines) == 61
    assert lines[1].startswith('"layumi, changed",0,query/0001_c1s1_000001_00.jpg,1,1,2,')
    assert f"wrote  {tmp_path}/queries.csv" in changed.stderr
    unknown = run_here("distreid", "evaluate", tmp_path / "run", "--protocol", "mine")
    assert unknown.returncode == 2
    assert "--protocol mine: no such name; torchreid, fastreid" in unknown.stderr
    status = run_here("distreid", "status", tmp_path / "run")
    assert "complete; 150 of 150 images, 3 of 3 shards" in status.stdout
    shard_file(tmp_path / "run", 2).unlink()
    verified = run_here("distreid", "verify", tmp_path / "run")
    assert verified.returncode == 2
    assert "000002.h5: missing; run the extraction again" in verified.stderr

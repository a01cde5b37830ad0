"""Runs in an object store: a local run's bytes, whatever happens on the way, and read again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, draw, error_line, wait_until
from object_servers import Faults, forget_s3, s3_by_moto

import distreid
from distreid import cli
from distreid.data import objects
from distreid.errors import OptionError, StoreError
from distreid.host.folder_lock import hold
from distreid.search.gallery import Gallery
from distreid.store import FeatureStore
from distreid.store.run_copy import copy_of

pytest.importorskip("s3fs")
IMAGES, SHARD_ROWS = 40, 8
SHARDS = [f"shards/{index:06d}.h5" for index in range(IMAGES // SHARD_ROWS)]
BUCKET = "results"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 images of 5 persons in 2 cameras, the first 10 are queries."""
    root = tmp_path_factory.mktemp("images")
    for number in range(IMAGES):
        part = "query" if number < 10 else "bounding_box_test"
        name = f"{number % 5 + 1:04d}_c{number % 2 + 1}s1_{number:06d}_00.jpg"
        draw(root / part / name, number)
    return root


@pytest.fixture(scope="module")
def local(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others must be like."""
    run = tmp_path_factory.mktemp("local") / "run"
    assert cli.main(["extract", *command(images, run)]) == 0
    return run


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Any, Faults]]:
    with s3_by_moto() as served:
        served[0].create_bucket(Bucket=BUCKET)
        yield served


@pytest.fixture
def out(
    server: tuple[Any, Faults], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """An address where nothing lies, and neither does a copy."""
    monkeypatch.setattr(objects, "PAUSE_S", 0.01)
    # The tests of several workers have one cache.
    address = f"s3://{BUCKET}/{os.getpid()}/{request.node.name}"
    forget_copy(address)
    yield address
    faults = server[1]
    faults.status.clear()
    faults.silent_s.clear()
    faults.method, faults.delay_s = "GET", 0
    forget_copy(address)


def forget_copy(address: str) -> None:
    shutil.rmtree(copy_of(Path(address)).folder, ignore_errors=True)


def command(images: Path, out: Path | str, *options: str) -> list[str]:
    line = ["--data", str(images), "--checkpoint", "sample", "--out", str(out)]
    return [*line, "--num-workers", "0", "--shard-rows", str(SHARD_ROWS), *options]


def stored(server: tuple[Any, Faults], out: str) -> dict[str, bytes]:
    """Key below the prefix → bytes; what a job removes meanwhile is not there."""
    client, prefix = server[0], out.removeprefix(f"s3://{BUCKET}/") + "/"
    found = {}
    for each in client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", []):
        with contextlib.suppress(client.exceptions.NoSuchKey):
            body = client.get_object(Bucket=BUCKET, Key=each["Key"])["Body"]
            found[each["Key"].removeprefix(prefix)] = body.read()
    return found


def key(out: str, name: str) -> str:
    return f"{out.removeprefix(f's3://{BUCKET}/')}/{name}"


def change(server: tuple[Any, Faults], out: str, name: str, content: bytes) -> None:
    server[0].put_object(Bucket=BUCKET, Key=key(out, name), Body=content)


def delete(server: tuple[Any, Faults], out: str, name: str) -> None:
    server[0].delete_object(Bucket=BUCKET, Key=key(out, name))


def sent(server: tuple[Any, Faults], out: str) -> dict[str, int]:
    """Name → how often it was written, but for the probe."""
    path = f"/{BUCKET}/{key(out, '')}"
    return {
        asked.removeprefix(path): times
        for (method, asked), times in server[1].asked.items()
        if method == "PUT" and asked.startswith(path) and not asked.endswith("probe.tmp")
    }


def assert_like(found: dict[str, bytes], local: Path) -> None:
    assert sorted(found) == sorted(["metrics.json", "store.h5", *SHARDS])
    for name in SHARDS:
        assert found[name] == (local / name).read_bytes(), name
    ours, theirs = (json.loads(text) for text in (found["metrics.json"], scores_of(local)))
    assert ours["scores"] == theirs["scores"]


def scores_of(run: Path) -> bytes:
    return (run / "metrics.json").read_bytes()


def test_a_run_in_a_bucket_has_the_bytes_of_a_local_one(
    out: str, images: Path, local: Path, server: tuple[Any, Faults], capsys: Any
) -> None:
    server[1].asked.clear()
    assert cli.main(["extract", *command(images, out)]) == 0
    said = capsys.readouterr().err
    assert f"wrote  {out}/store.h5" in said and f"wrote  {out}/metrics.json" in said
    assert f"copy on this machine is {copy_of(Path(out)).folder}" in said
    assert_like(stored(server, out), local)
    assert sent(server, out) == dict.fromkeys(["plan.h5", *SHARDS, "store.h5", "metrics.json"], 1)
    # The copy is the bucket's: nothing is fetched, and no shard is sent again.
    server[1].asked.clear()
    assert cli.main(["extract", *command(images, out)]) == 0
    assert not {*SHARDS} & sent(server, out).keys()
    assert not any(method == "GET" and ".h5" in path for method, path in server[1].asked)


def test_two_processes_write_the_same(
    out: str, images: Path, local: Path, server: tuple[Any, Faults], run_command: Any
) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    line = [*launch, "-m", "distreid.extract", *command(images, out), "--num-workers", "1"]
    done = run_command(*line, PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert_like(stored(server, out), local)


def test_hosts_without_a_shared_folder_write_one_run(
    out: str,
    images: Path,
    local: Path,
    server: tuple[Any, Faults],
    tmp_path: Path,
) -> None:
    jobs = []
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank in range(2):
        environment = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "XDG_CACHE_HOME": str(tmp_path / f"cache of host {rank}"),
            "OMP_NUM_THREADS": "1",
        }
        line = [sys.executable, "-m", "distreid.extract", *command(images, out)]
        jobs.append(subprocess.Popen(line, cwd=REPOSITORY, env=environment))
    assert [job.wait(timeout=300) for job in jobs] == [0, 0]
    assert_like(stored(server, out), local)
    folders = [tmp_path / f"cache of host {rank}/distreid/runs" for rank in range(2)]
    of_host = [{file.name for file in folder.rglob("0*.h5")} for folder in folders]
    assert len(of_host[0]) == len(SHARDS) and 0 < len(of_host[1]) < len(SHARDS)


def test_after_a_kill_another_machine_computes_what_the_bucket_lacks(
    out: str, images: Path, local: Path, server: tuple[Any, Faults]
) -> None:
    line = [sys.executable, "-m", "distreid.extract", *command(images, out)]
    server[1].method, server[1].silent_s = "PUT", {key(out, SHARDS[3]): (120, 99)}
    job = subprocess.Popen(line, cwd=REPOSITORY, start_new_session=True)
    try:
        wait_until(lambda: SHARDS[2] in stored(server, out), job)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    found = stored(server, out)
    assert "plan.h5" in found and "store.h5" not in found
    missing = [name for name in SHARDS if name not in found]
    assert missing
    assert cli.main(["status", out]) == 0
    forget_copy(out)
    server[1].silent_s.clear()
    server[1].asked.clear()
    assert cli.main(["extract", *command(images, out)]) == 0
    assert_like(stored(server, out), local)
    assert sorted({*SHARDS} & sent(server, out).keys()) == missing


@pytest.mark.parametrize("fault", ["status", "silent"])
def test_an_upload_that_fails_is_tried_again(
    fault: str,
    out: str,
    images: Path,
    local: Path,
    server: tuple[Any, Faults],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults = server[1]
    faults.method = "PUT"
    if fault == "status":
        faults.status[key(out, SHARDS[1])] = 503, 3
    else:
        monkeypatch.setattr(objects, "TIMEOUT_S", 3.0)
        forget_s3()
        faults.silent_s[key(out, SHARDS[1])] = 20.0, 1
    faults.asked.clear()
    assert cli.main(["extract", *command(images, out)]) == 0
    assert_like(stored(server, out), local)
    assert sent(server, out)[SHARDS[1]] >= (4 if fault == "status" else 2)
    forget_s3()


def test_a_run_whose_upload_fails_for_good_goes_on_from_its_copy(
    out: str,
    images: Path,
    local: Path,
    server: tuple[Any, Faults],
    capsys: pytest.CaptureFixture[str],
) -> None:
    faults = server[1]
    faults.method = "PUT"
    faults.status[key(out, SHARDS[4])] = 503, 99
    assert cli.main(["extract", *command(images, out)]) == 2
    line = error_line(capsys)
    file = copy_of(Path(out)).folder / SHARDS[4]
    assert line.startswith(f"{out}/{SHARDS[4]}: ") and "the same command continues" in line
    assert file.read_bytes() == (local / SHARDS[4]).read_bytes()
    found = stored(server, out)
    assert "plan.h5" in found and "store.h5" not in found and SHARDS[4] not in found
    faults.status.clear()
    time = file.stat().st_mtime_ns
    assert cli.main(["extract", *command(images, out)]) == 0
    assert_like(stored(server, out), local)
    assert file.stat().st_mtime_ns == time  # sent, not computed again


def test_a_store_that_refuses_ends_the_job_before_it_begins(
    out: str,
    images: Path,
    server: tuple[Any, Faults],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["extract", *command(images, "s3://nosuchbucket/run")]) == 2
    assert error_line(capsys) == (
        "s3://nosuchbucket/run: no such bucket or object; check the address of the run"
    )
    server[1].method = "PUT"
    server[1].status["/probe.tmp"] = 403, 99
    assert cli.main(["extract", *command(images, out)]) == 2
    line = error_line(capsys)
    assert line.startswith(f"{out}: access is refused") and "allowed to write it" in line
    assert not stored(server, out)
    for other in ("https://host/run", "hf://me/run"):
        assert cli.main(["extract", *command(images, other)]) == 2
        assert error_line(capsys).startswith(f"{other}: a run lies in a folder, or at an address")
    assert cli.main(["submit", "--cluster", "local", "--", *command(images, out)]) == 2
    assert f"--out {out}: a submitted job writes to a folder" in error_line(capsys)
    features = tmp_path / "features.npz"
    np.savez(features, features=np.eye(3, dtype=np.float32))
    assert cli.main(["import", str(features), "--out", out]) == 2
    assert f"--out {out}: features are imported to a folder" in error_line(capsys)


def test_another_run_in_the_bucket_is_refused_as_in_a_folder(
    out: str,
    images: Path,
    server: tuple[Any, Faults],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["extract", *command(images, out)]) == 0
    before = stored(server, out)
    for copy in ("there", "gone"):
        if copy == "gone":
            forget_copy(out)
        capsys.readouterr()
        assert cli.main(["extract", *command(images, out, "--flip")]) == 2
        line = error_line(capsys)
        assert line.startswith(f"{out} holds another run (augmentation.flip: it has False")
        assert stored(server, out) == before


def test_a_copy_of_a_run_that_was_deleted_is_not_taken_for_it(
    out: str, images: Path, local: Path, server: tuple[Any, Faults]
) -> None:
    assert cli.main(["extract", *command(images, out)]) == 0
    for name in stored(server, out):
        delete(server, out, name)
    assert cli.main(["extract", *command(images, out, "--flip")]) == 0
    found = stored(server, out)
    assert all(found[name] != (local / name).read_bytes() for name in SHARDS)
    assert FeatureStore.open(Path(out)).plan.identity["augmentation"]["flip"] is True


def test_a_shard_that_the_bucket_lost_is_sent_again_and_meanwhile_nothing_looks_complete(
    out: str, images: Path, local: Path, server: tuple[Any, Faults], capsys: Any
) -> None:
    assert cli.main(["extract", *command(images, out)]) == 0
    delete(server, out, SHARDS[2])
    capsys.readouterr()
    assert cli.main(["verify", out]) == 2
    assert error_line(capsys) == f"{out}/{SHARDS[2]}: missing; run the extraction again"
    forget_copy(out)
    server[1].method = "PUT"
    server[1].status[key(out, SHARDS[2])] = 503, 99
    assert cli.main(["extract", *command(images, out)]) == 2
    found = stored(server, out)
    assert "plan.h5" in found and "store.h5" not in found
    server[1].status.clear()
    assert cli.main(["extract", *command(images, out)]) == 0
    assert_like(stored(server, out), local)


def test_a_damaged_object_is_refused_and_a_changed_one_fetched(
    out: str, images: Path, local: Path, server: tuple[Any, Faults], capsys: Any
) -> None:
    assert cli.main(["extract", *command(images, out)]) == 0
    good = (local / SHARDS[1]).read_bytes()
    for content in (good[:-100], good[:5000] + b"\0\1" + good[5002:]):
        change(server, out, SHARDS[1], content)
        capsys.readouterr()
        for line in (["verify", out], ["extract", *command(images, out)]):
            assert cli.main(line) == 2
            assert error_line(capsys).startswith(f"{out}/{SHARDS[1]}: its bytes do not fit")
    change(server, out, SHARDS[1], good)
    assert cli.main(["verify", out]) == 0
    assert cli.main(["verify", "--repair", out]) == 2


def test_a_run_in_a_bucket_is_read_on_another_machine(
    out: str,
    images: Path,
    local: Path,
    tmp_path: Path,
    server: tuple[Any, Faults],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["extract", *command(images, out)]) == 0
    forget_copy(out)
    capsys.readouterr()
    assert cli.main(["status", "--json", out]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["complete"], status["rows_done"], status["bad_images"]) == (True, IMAGES, 0)
    assert not copy_of(Path(out)).folder.exists()
    assert cli.main(["evaluate", "--json", out]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["scores"] == json.loads(scores_of(local))["scores"]
    assert f"copying {len(SHARDS)} shards" in told.err
    server[1].asked.clear()
    store = distreid.open_store(out)
    assert store.features[:].tobytes() == distreid.open_store(local).features[:].tobytes()
    assert not any(method == "GET" and ".h5" in path for method, path in server[1].asked)
    for line in (
        ["compare", out, str(local)],
        ["show", out, "--row", "3", "--out", str(tmp_path / "3.jpg")],
        ["rank", out, "--out", str(tmp_path / "ranks.csv")],
        ["calibrate", out],
        ["report", out],
        ["link", out, "--threshold", "0.5"],
    ):
        assert cli.main(line) == 0, line
    assert (copy_of(Path(out)).folder / "report.html").exists()
    # What was calibrated is sent by the next extraction, and fetched wherever the run is read.
    calibrated = copy_of(Path(out)).folder / "calibration.json"
    found = calibrated.read_bytes()
    assert cli.main(["extract", *command(images, out)]) == 0
    forget_copy(out)
    gallery = tmp_path / "gallery"
    assert cli.main(["gallery", "create", str(gallery), "--run", out]) == 0
    assert calibrated.read_bytes() == found
    assert (gallery / "runs/000000/calibration.json").read_bytes() == found
    forget_copy(out)
    assert Gallery(gallery).count == IMAGES  # it has a copy of its own
    again = distreid.extract_features(images, "sample", out, num_workers=0, shard_rows=SHARD_ROWS)
    assert isinstance(again, distreid.Store)
    assert again.features[:].tobytes() == store.features[:].tobytes()


def test_what_is_not_complete_or_at_work_is_not_read(
    out: str,
    images: Path,
    server: tuple[Any, Faults],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(StoreError, match=rf"^{out}: no run; "):
        distreid.open_store(out)
    with pytest.raises(OptionError, match=r"^http://host/run: a run lies in a folder"):
        FeatureStore.open(Path("http://host/run"))
    server[1].method = "PUT"
    server[1].status[key(out, SHARDS[4])] = 503, 99
    assert cli.main(["extract", *command(images, out)]) == 2
    forget_copy(out)
    capsys.readouterr()
    assert cli.main(["evaluate", out]) == 2
    assert error_line(capsys).startswith(f"{out}: 4 of 5 shards are done; run the same extraction")
    assert cli.main(["status", out]) == 0
    said = capsys.readouterr().out
    assert said == f"{out}: not complete; 32 of 40 images, 4 of 5 shards\n"
    assert cli.main(["verify", out]) == 2
    assert "4 of 5 shards there and good" in capsys.readouterr().out
    with hold(copy_of(Path(out)).folder, print):
        assert cli.main(["verify", out]) == 2
        assert error_line(capsys).startswith(f"{out}: another job is at work there")
        assert cli.main(["extract", *command(images, out)]) == 2
        assert error_line(capsys).startswith(f"{out}: another job is at work there")


def test_several_checkpoints_lie_below_the_prefix(
    out: str, images: Path, server: tuple[Any, Faults], tmp_path: Path, capsys: Any
) -> None:
    for name in ("net_10", "net_20"):
        shutil.copy(REPOSITORY / "distreid/sample/osnet_x0_25.pth.tar", tmp_path / f"{name}.pth")
    line = command(images, out)
    line[line.index("sample") : line.index("sample") + 1] = [
        str(tmp_path / "net_10.pth"),
        str(tmp_path / "net_20.pth"),
    ]
    assert cli.main(["extract", *line]) == 0
    found = stored(server, out)
    assert {"comparison.json", "net_10/store.h5", "net_20/store.h5"} <= found.keys()
    assert found[f"net_10/{SHARDS[0]}"] != b""
    forget_copy(out)
    assert len(distreid.open_store(f"{out}/net_20")) == IMAGES
    forget_copy(out)
    capsys.readouterr()
    assert cli.main(["extract", *line]) == 0
    assert "5 of 5 shards are done already" in capsys.readouterr().err


def test_a_run_above_others_leaves_them_and_several_checkpoints_leave_it(
    out: str,
    images: Path,
    server: tuple[Any, Faults],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """Its copy holds the folder of a copy that is older than what the bucket has meanwhile."""
    below = f"{out}/market"
    assert cli.main(["extract", *command(images, below)]) == 0
    for name in stored(server, below):
        delete(server, below, name)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
        assert cli.main(["extract", *command(images, below, "--flip")]) == 0
    before = stored(server, below)
    assert cli.main(["extract", *command(images, out)]) == 0
    assert stored(server, below) == before
    assert cli.main(["verify", below]) == 0
    whole = stored(server, out)
    capsys.readouterr()
    shutil.copy(REPOSITORY / "distreid/sample/osnet_x0_25.pth.tar", tmp_path / "other.pth")
    line = command(images, out, "--checkpoint", str(tmp_path / "other.pth"))
    assert cli.main(["extract", *line]) == 2
    assert error_line(capsys).startswith(f"{out}: itself a run, and several checkpoints need")
    assert stored(server, out) == whole


def test_a_run_of_tracklets_is_one_of_its_own(
    out: str, server: tuple[Any, Faults], images: Path, tmp_path: Path, capsys: Any
) -> None:
    files = sorted(images.rglob("*.jpg"))
    rows = [f"{file},{file.name[:4]},1,{file.name[:4]}" for file in files]
    table = tmp_path / "tracklets.csv"
    table.write_text("\n".join(["path,person_id,camera_id,tracklet", *rows]))
    line = command(table, out, "--merge", "tracklet", "--no-evaluate")
    assert cli.main(["extract", *line]) == 0
    first = stored(server, out)
    assert {"store.h5", "tracklets/store.h5", "tracklets/shards/000000.h5"} <= first.keys()
    assert "tracklets/plan.h5" not in first
    # The prefix was emptied: the same run has all of it again, and so has another one.
    for options in ([], ["--flip"]):
        for name in stored(server, out):
            delete(server, out, name)
        for _ in range(2):
            assert cli.main(["extract", *line, *options]) == 0
            assert stored(server, out).keys() == first.keys()
        assert len(distreid.open_store(f"{out}/tracklets")) == 5
    # What is left of another run's is named where it lies.
    for name in ("store.h5", *SHARDS):
        delete(server, out, name)
    capsys.readouterr()
    assert cli.main(["extract", *line]) == 2
    assert error_line(capsys).startswith(f"{out}/tracklets holds another run (augmentation.flip")


def test_scores_of_a_run_that_was_deleted_are_not_sent_with_the_next(
    out: str, images: Path, server: tuple[Any, Faults]
) -> None:
    assert cli.main(["extract", *command(images, out)]) == 0
    for name in stored(server, out):
        delete(server, out, name)
    assert cli.main(["extract", *command(images, out, "--flip", "--no-evaluate")]) == 0
    assert sorted(stored(server, out)) == sorted(["store.h5", *SHARDS])


def test_an_int8_run_is_continued_on_another_machine_by_its_own_network(
    out: str, images: Path, server: tuple[Any, Faults], run_command: Any, tmp_path: Path
) -> None:
    pytest.importorskip("nncf")
    pytest.importorskip("openvino")
    for number in range(64):
        draw(tmp_path / f"more/{number:02d}.jpg", number)
    line = ["extract", *command(images, out, "--no-evaluate")]
    begin = [*line, "--precision", "int8", "--calibrate-on", str(tmp_path / "more")]
    faults = server[1]
    faults.method, faults.status = "PUT", {key(out, SHARDS[3]): (400, 99)}
    done = run_command("distreid", *begin, XDG_CACHE_HOME=str(tmp_path / "a"))
    assert done.returncode == 2, done.stderr
    found = stored(server, out)
    assert {"plan.h5", "int8.xml", "int8.bin", SHARDS[2]} <= found.keys()
    faults.status.clear()
    done = run_command("distreid", *line, XDG_CACHE_HOME=str(tmp_path / "b"))
    assert done.returncode == 0, done.stderr
    after = stored(server, out)
    assert "store.h5" in after and "plan.h5" not in after
    assert {name: after[name] for name in found if name != "plan.h5"} == {
        name: content for name, content in found.items() if name != "plan.h5"
    }
    # Without its network, it is said where that is missing.
    delete(server, out, "int8.bin")
    delete(server, out, SHARDS[3])
    done = run_command("distreid", *line, XDG_CACHE_HOME=str(tmp_path / "c"))
    assert done.returncode == 2
    assert f"error: {out}/int8.bin: No such file" in done.stderr

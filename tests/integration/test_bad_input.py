"""Every mistake of a user's: one line on stderr, exit status 2, nothing that looks complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Run, draw, error_line

from distreid import cli, extract
from distreid.data.manifest import Status
from distreid.store import FeatureStore


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, as `python -m distreid.extract` runs it."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


Extract = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, osnet_file: Path) -> Extract:
    """Extracts `data/` into `run/` with what a test changes."""

    def go(*changes: str | Path) -> int:
        options = {
            "--data": tmp_path / "data",
            "--checkpoint": osnet_file,
            "--out": tmp_path / "run",
            "--num-workers": 0,
        }
        rest = list(map(str, changes))
        while rest and rest[0] in options:
            options[rest[0]] = Path(rest[1])
            rest = rest[2:]
        line = [str(part) for pair in options.items() for part in pair]
        return extract.main(line + rest)

    return go


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(3):
        draw(tmp_path / "data" / f"{number}.jpg", number)
    return tmp_path / "data"


def test_no_such_data(run: Extract, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run() == 2
    # Nothing else, before it or after it.
    said = f"distreid: error: {tmp_path}/data: no such file or folder; check --data\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "run").exists()


def test_a_broken_csv(run: Extract, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,person_id\na.jpg,1.5\n")
    assert run("--data", tmp_path / "a.csv") == 2
    assert "a.csv, line 2: person_id is '1.5'" in error_line(capsys)


@pytest.mark.usefixtures("images")
def test_a_report_without_queries(
    run: Extract, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run() == 0
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path / "run")]) == 2
    assert error_line(capsys) == (
        f"{tmp_path}/run: not evaluated: no row is marked as query; scores want images of known "
        "persons in query and gallery: extract with a --layout, --pattern or CSV that names them"
    )


@pytest.mark.usefixtures("images")
def test_a_result_is_not_written_over_a_device(
    run: Extract, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run("--data", "sample") == 0
    for file in ("metrics.json", "report.html", "calibration.json"):
        (tmp_path / "run" / file).unlink(missing_ok=True)
        os.mkfifo(tmp_path / "run" / file)
    for command in (
        ["report"],
        ["calibrate"],
        ["evaluate"],
        ["evaluate", "--csv", "/dev/null"],
    ):
        capsys.readouterr()
        assert cli.main([command[0], str(tmp_path / "run"), *command[1:]]) == 2
        assert ": a device, pipe or socket, which is not replaced" in error_line(capsys)
    assert (tmp_path / "run" / "metrics.json").is_fifo()
    assert Path("/dev/null").is_char_device()


def test_logs_that_are_no_folder(
    images: Path, osnet_file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "logs").touch()
    cluster = ["submit", "--cluster", "local", "--gpus-per-node", "0", "--logs"]
    job = ["--data", str(images), "--checkpoint", str(osnet_file), "--out", str(tmp_path / "run")]
    assert cli.main([*cluster, str(tmp_path / "logs"), "--", *job]) == 2
    assert error_line(capsys) == f"{tmp_path}/logs: File exists; check the folder"


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--scales 1000", "--scales 1000: 8,095x4,048 pixels of 256x128; at most 4,194,304 are"),
        ("--scales 2,1e-9", "--scales 1e-09: 0x0 pixels of 256x128; give a larger one"),
        ("--scales 1e4,1e-4 --scale-mode compound", "--scales 10000: 25,600x12,800 pixels"),
        ("--scales 1e-4", "--scales 0.0001: osnet_x0_25 cannot take images of 256x128 scaled so"),
        ("--input-size 1x1", "--input-size 1x1: osnet_x0_25 cannot take it (Given input size"),
        ("--input-size 100000x100000", "--input-size 100000x100000: at most 4,194,304 pixels"),
        ("--std 1e-300,1,1", "--std 1e-300,1.0,1.0: pixels cannot be divided by less than 1e-06"),
    ],
)
def test_views_that_no_network_takes(
    run: Extract, capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str, said: str
) -> None:
    assert run(*option.split()) == 2
    assert said in error_line(capsys)
    assert not (tmp_path / "run" / "store.h5").exists()


@pytest.mark.parametrize("command", ["status", "verify", "inspect --checkpoint", "export"])
def test_a_name_that_is_longer_than_any_files(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    line = command.split()
    if line[0] == "export":
        line = ["export", "--checkpoint", "sample", "--format", "torchscript", "--out"]
    # An export is made beside its name, under a longer one.
    for length in (300, 240) if command == "export" else (300,):
        assert cli.main([*line, "a" * length]) == 2
        assert error_line(capsys).endswith("aaa…: File name too long; give a shorter name")


@pytest.mark.usefixtures("images")
def test_no_checkpoint(run: Extract, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("not weights")
    assert run("--checkpoint", tmp_path / "a.pth") == 2
    assert "a.pth: not a checkpoint" in error_line(capsys)
    assert run("--checkpoint", Path("/dev/null")) == 2
    assert "/dev/null: no regular file" in error_line(capsys)


@pytest.mark.usefixtures("images")
def test_a_model_that_does_not_fit(run: Extract, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", "osnet_x1_0") == 2
    assert "does not fit osnet_x1_0" in error_line(capsys)


@pytest.mark.usefixtures("images")
def test_a_precision_the_device_lacks(run: Extract, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--device", "cpu", "--precision", "tf32") == 2
    assert error_line(capsys) == "--precision tf32: this CPU has none; use --precision fp32"


@pytest.mark.usefixtures("images")
def test_an_option_that_cannot_be_meant(run: Extract, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--batch-size", "0") == 2
    assert error_line(capsys) == "--batch-size must be at least 1, got 0"


def test_an_option_that_does_not_exist(run: Extract) -> None:
    with pytest.raises(SystemExit) as end:
        run("--nonsense")
    assert end.value.code == 2


@pytest.mark.usefixtures("images")
def test_an_environment_of_torchrun_set_in_part(
    run: Extract, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    assert run() == 2
    assert "the environment has RANK but not WORLD_SIZE" in error_line(capsys)


@pytest.mark.usefixtures("images")
def test_an_output_folder_of_another_run(
    run: Extract, capsys: pytest.CaptureFixture[str], images: Path
) -> None:
    assert run() == 0
    capsys.readouterr()
    assert run("--flip", "--dtype", "float16") == 2
    assert (
        "holds another run (augmentation.flip: it has False, asked for is True; dtype: it has "
        "float32, asked for is float16)" in error_line(capsys)
    )
    draw(images / "3.jpg", 3)
    assert run() == 2
    said = error_line(capsys)
    assert "holds another run (manifest: " in said and "; it has 3 rows, asked for are 4)" in said
    (images / "2.jpg").unlink()
    assert run() == 2
    assert "; first in row 2: path 2.jpg, asked for is 3.jpg); give" in error_line(capsys)


@pytest.mark.usefixtures("images")
def test_an_output_that_is_a_file(
    run: Extract, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "run").write_text("mine")
    assert run() == 2
    assert f"{tmp_path}/run" in error_line(capsys)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_corrupt_image_stops_the_job_with_its_row_and_path(
    run: Extract, capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    (images / "1.jpg").write_bytes(b"no image")
    assert run() == 2
    error = error_line(capsys)
    assert error.startswith(f"row 1, {images}/1.jpg: no image of a known kind")
    assert error.endswith("mend or remove it, or use --on-bad-image record")
    assert not (tmp_path / "run" / "store.h5").exists()


def test_what_was_begun_before_a_corrupt_image_is_stored(
    run: Extract, images: Path, tmp_path: Path
) -> None:
    for number in range(3, 12):
        draw(images / f"{number:02d}.jpg", number)
    (images / "09.jpg").write_bytes(b"no image")
    assert run("--shard-rows", "2", "--batch-size", "2") == 2
    bad = sorted(file.name for file in images.iterdir()).index("09.jpg")
    begun = [f"{index:06d}.h5" for index in range(bad // 2)]
    assert sorted(file.name for file in (tmp_path / "run/shards").glob("*.h5")) == begun
    assert len(begun) >= 3


def test_bad_images_are_recorded_as_rows_on_request(
    run: Extract, capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    (images / "1.jpg").write_bytes(b"no image")
    (images / "2.jpg").unlink()
    (images / "2.jpg").symlink_to("nowhere")
    assert run("--on-bad-image", "record") == 0
    store = FeatureStore.open(tmp_path / "run")
    assert store.status.tolist() == [Status.OK, Status.UNREADABLE, Status.MISSING]
    features = store.features(np.arange(3))
    assert np.isfinite(features[0]).all()
    assert np.isnan(features[1:]).all()
    text = capsys.readouterr().err
    assert "2 images could not be read" in text
    assert f"row 2, {images}/2.jpg: no such file" in text


def test_no_readable_image(
    run: Extract, capsys: pytest.CaptureFixture[str], images: Path, tmp_path: Path
) -> None:
    for file in images.iterdir():
        file.write_bytes(b"no image")
    assert run("--on-bad-image", "record") == 2
    assert "none of 3 images could be read; check --data" in error_line(capsys)
    assert not (tmp_path / "run" / "store.h5").exists()


def test_no_run_to_evaluate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("evaluate", "verify", "status"):
        assert cli.main([command, str(tmp_path / "none")]) == 2
        assert "no run; give the folder that was --out of an extraction" in error_line(capsys)


def test_nothing_to_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect"]) == 2
    assert error_line(capsys) == "inspect: give --data, --checkpoint or both"


# Each output is finite and their length is not, so that the feature were zero.
@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("bias", [3e38, 1e25])
def test_a_model_that_gives_no_feature_stops_with_the_row(
    run: Extract, capsys: pytest.CaptureFixture[str], osnet_file: Path, tmp_path: Path, bias: float
) -> None:
    import torch

    content = torch.load(osnet_file, weights_only=False)
    content["state_dict"]["fc.1.bias"][:] = bias
    torch.save(content, tmp_path / "wrong.pth")
    assert run("--checkpoint", tmp_path / "wrong.pth") == 2
    assert "row 0, " in (error := error_line(capsys))
    assert "the model gives NaN" in error
    assert not list((tmp_path / "run" / "shards").iterdir())


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("bias", [float("nan"), float("inf")])
def test_a_number_in_the_weights_that_is_none_is_named_before_any_image(
    run: Extract, capsys: pytest.CaptureFixture[str], osnet_file: Path, tmp_path: Path, bias: float
) -> None:
    import torch

    content = torch.load(osnet_file, weights_only=False)
    content["state_dict"]["fc.1.bias"][7] = bias
    torch.save(content, tmp_path / "wrong.pth")
    assert run("--checkpoint", tmp_path / "wrong.pth") == 2
    assert "fc.1.bias has 1 of 512 numbers NaN or infinite" in error_line(capsys)
    assert not (tmp_path / "run").exists()


def test_a_csv_of_paths_elsewhere_is_extracted_in_its_order(
    run: Extract, images: Path, tmp_path: Path
) -> None:
    shutil.move(images / "2.jpg", tmp_path / "elsewhere.jpg")
    lines = ["path,split,person_id", f"{tmp_path}/elsewhere.jpg,query,1"]
    lines += ["data/1.jpg,gallery,1", "data/0.jpg,gallery,2"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    assert run("--data", tmp_path / "list.csv") == 0
    store = FeatureStore.open(tmp_path / "run")
    assert store.manifest.path.tolist()[1:] == [b"data/1.jpg", b"data/0.jpg"]
    assert (tmp_path / "run" / "metrics.json").exists()


@pytest.mark.usefixtures("images")
def test_output_that_no_disk_takes_is_one_line(
    run: Extract, run_command: Run, tmp_path: Path
) -> None:
    assert run() == 0
    why = "distreid: error: the output: No space left on device; run the same command again\n"
    for line in (f"distreid status {tmp_path}/run", "distreid extract --help"):
        done = run_command("bash", "-c", f"{line} >/dev/full")
        assert (done.returncode, done.stderr) == (2, why)


@pytest.mark.parametrize(
    "command",
    [
        "distreid --help",
        "distreid --version",
        "distreid extract --help",
        "python -m distreid.extract --help",
        "distreid models",
        "distreid models --json",
        "distreid layouts",
        "distreid inspect --data sample",
        "distreid inspect --checkpoint sample",
        "distreid verify no/such 2>&1",
        "distreid extract --data sample --checkpoint sample --out {out} --no-evaluate 2>&1",
    ],
)
def test_output_that_nobody_reads_ends_the_command_in_silence(
    run_command: Run, tmp_path: Path, command: str
) -> None:
    line = command.format(out=tmp_path / "run")
    # `true` has ended when the file is there, so that nothing is read, whoever is faster.
    reader = f"(exec <&-; touch {tmp_path}/closed)"
    writer = f"(until [ -e {tmp_path}/closed ]; do sleep 0.05; done; exec {line})"
    done = run_command("bash", "-c", f"{writer} | {reader}; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.usefixtures("images")
def test_a_run_is_looked_at_whatever_its_name(
    run: Extract, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / os.fsdecode(b"no utf-8 \xff\n")
    assert run("--out", out) == 0
    for command in ("verify", "status"):
        capsys.readouterr()
        assert cli.main([command, str(out)]) == 0
        assert "no utf-8 \\udcff\\n" in capsys.readouterr().out

"""The same images as files, in every kind of archive and in object stores, as boxes of frames and
as frames of a video: the same bytes, by 1 and 3 processes, after an interruption and a kill, and
with images that are damaged."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, Run, draw, error_line, wait_until
from numpy.typing import NDArray
from object_servers import Faults, files_over_http, fill_bucket, s3_by_moto
from PIL import Image

from distreid import cli
from distreid.data import objects
from distreid.search.gallery import Gallery
from distreid.store import FeatureStore

arrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")
IMAGES = 200

Make = Callable[[Path, Path], str]
"""From a folder of images to what stands after `--data`, made in another folder."""


def packed(kind: str) -> Make:
    return lambda files, folder: shutil.make_archive(str(folder / "x"), kind, files)


def stored(files: Path, folder: Path) -> str:
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(files.glob("*.jpg")):
            archive.write(file, file.name)
    return str(folder / "x.zip")


def zstandard(files: Path, folder: Path) -> str:
    compress = pytest.importorskip("zstandard").compress
    tar = Path(packed("tar")(files, folder))
    (folder / "x.tar.zst").write_bytes(compress(tar.read_bytes()))
    tar.unlink()
    return str(folder / "x.tar.zst")


def shards(files: Path, folder: Path) -> str:
    """WebDataset's: several tars, a .json beside each image."""
    names = sorted(files.glob("*.jpg"))
    for number in range(3):
        with tarfile.open(folder / f"s-{number:06d}.tar", "w") as archive:
            for file in names[number::3]:
                archive.add(file, file.name)
                label = json.dumps({"person_id": 1}).encode()
                info = tarfile.TarInfo(f"{file.stem}.json")
                info.size = len(label)
                archive.addfile(info, io.BytesIO(label))
    return str(folder / "s-{000000..000002}.tar")


def columns(files: Path, folder: Path) -> str:
    names = sorted(files.glob("*.jpg"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in names]
    table = arrow.table({"image": images, "source": [file.name for file in names]})
    parquet.write_table(table, folder / "x.parquet", row_group_size=7)
    return str(folder / "x.parquet")


def database(files: Path, folder: Path) -> str:
    lmdb: Any = pytest.importorskip("lmdb")
    environment = lmdb.open(str(folder / "x.lmdb"), map_size=1 << 24)
    with environment.begin(write=True) as writing:
        for file in files.glob("*.jpg"):
            writing.put(file.name.encode(), file.read_bytes())
    environment.close()
    return str(folder / "x.lmdb")


def frames_with_boxes(files: Path, folder: Path) -> str:
    """Eight images side by side in each frame, and a table of where they are."""
    names = sorted(files.glob("*.jpg"))
    (folder / "frames").mkdir()
    lines = ["path,x1,y1,x2,y2,source"]
    for number in range(0, len(names), 8):
        left, frame = 0, Image.new("RGB", (8 * 64, 128))
        for file in names[number : number + 8]:
            with Image.open(file) as image:
                frame.paste(image, (left, 0))
                corners = left, 0, left + image.width, image.height
            lines.append(",".join([f"{number:03d}.png", *map(str, corners), file.name]))
            left += 64
        frame.save(folder / f"frames/{number:03d}.png")
    (folder / "boxes.csv").write_text("\n".join(lines))
    return f"{folder}/frames --boxes {folder}/boxes.csv"


def video(files: Path, folder: Path) -> str:
    """Each image a frame, without loss; frame 1 is the first image."""
    av: Any = pytest.importorskip("av")
    with av.open(str(folder / "x.mov"), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 128, "rgb24"
        for file in sorted(files.glob("*.jpg")):
            with Image.open(file) as image:
                frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(folder / "x.mov")


KINDS: dict[str, Make] = {
    "tar": packed("tar"),
    "tar.gz": packed("gztar"),
    "tar.xz": packed("xztar"),
    "tar.zst": zstandard,
    "zip deflated": packed("zip"),
    "zip stored": stored,
    "webdataset": shards,
    "parquet": columns,
    "lmdb": database,
    "frames with boxes": frames_with_boxes,
    "video": video,
}
REMOTE = ("http", "http tar", "http zip", "http parquet", "s3", "s3 tar")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files") / "images"
    for number in range(IMAGES):
        draw(root / f"{number:03d}.jpg", number)
    return root


@pytest.fixture(scope="module")
def stores(
    files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[dict[str, str], Faults]]:
    """The same images and archives of them in object stores; kind → `--data`. And faults."""
    pytest.importorskip("s3fs")
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(files, folder / "images")
    for kind in ("tar", "zip"):
        packed(kind)(files, folder)
    columns(files, folder)
    with files_over_http(folder) as (address, faults), s3_by_moto() as (client, _):
        fill_bucket(client, "bucket", folder, "data")
        places = {"http": f"{address}/images", "s3": "s3://bucket/data/images"}
        for kind in ("tar", "zip", "parquet"):
            places[f"http {kind}"] = f"{address}/x.{kind}"
            places[f"s3 {kind}"] = f"s3://bucket/data/x.{kind}"
        yield places, faults


@pytest.fixture
def data(kind: str, files: Path, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """What stands after `--data` for a kind."""
    if kind in KINDS:
        return KINDS[kind](files, tmp_path)
    places: dict[str, str] = request.getfixturevalue("stores")[0]
    return places[kind]


def command(data: str, run: Path, *options: str) -> list[str]:
    line = ["--data", *data.split(), "--checkpoint", "sample", "--out", str(run)]
    return [*line, "--num-workers", "0", "--shard-rows", "8", *options]


def features(run: Path) -> dict[str, NDArray[np.float32]]:
    """By the names that the images have as files."""
    store = FeatureStore.open(run)
    names = store.manifest.extra.get("source", store.manifest.path)
    if "frame" in store.manifest.extra:
        numbers = store.manifest.numbers("frame").tolist()
        names = np.array([b"%03d.jpg" % (number - 1) for number in map(int, numbers)])
    rows = store.features(np.arange(len(store.manifest)))
    keys = [os.fsdecode(name).rpartition("/")[2] for name in names.tolist()]
    return dict(zip(keys, rows, strict=True))


@pytest.fixture(scope="module")
def expected(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("expected") / "run"
    assert cli.main(["extract", *command(str(files), run)]) == 0
    return features(run)


def assert_same(run: Path, expected: dict[str, NDArray[np.float32]]) -> None:
    found = features(run)
    assert found.keys() == expected.keys()
    for name, row in expected.items():
        assert found[name].tobytes() == row.tobytes(), name


@pytest.mark.parametrize("kind", [*KINDS, *REMOTE])
def test_features_are_those_of_the_files_also_after_an_interruption(
    data: str, expected: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert cli.main(["extract", *command(data, run, "--num-workers", "2")]) == 0
    assert_same(run, expected)
    for index in (1, 4):  # as after a kill between shards
        (run / f"shards/{index:06d}.h5").unlink()
    assert cli.main(["extract", *command(data, run)]) == 0
    assert_same(run, expected)
    assert cli.main(["verify", str(run)]) == 0


SHARED = ("tar.gz", "webdataset", "parquet", "lmdb", "frames with boxes", "video", "s3")
# Several jobs in the processes that torchrun starts, each to its end.
JOBS = """
import json, sys
from distreid import extract
for line in json.loads(sys.argv[1]):
    if status := extract.main(line):
        sys.exit(status)
"""


@pytest.fixture(scope="module")
def by_three_processes(
    files: Path,
    stores: tuple[dict[str, str], Faults],
    run_command: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """A run of each kind of `SHARED`."""
    folder = tmp_path_factory.mktemp("three")
    (folder / "jobs.py").write_text(JOBS)
    lines, runs = [], {}
    for number, kind in enumerate(SHARED):
        own = folder / str(number)
        own.mkdir()
        runs[kind] = own / "run"
        data = KINDS[kind](files, own) if kind in KINDS else stores[0][kind]
        lines.append(command(data, runs[kind]))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=3"]
    paths = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = run_command(*launch, folder / "jobs.py", json.dumps(lines), **paths)
    assert done.returncode == 0, done.stderr
    return runs


@pytest.mark.parametrize("kind", SHARED)
def test_three_processes_give_the_same(
    kind: str, expected: dict[str, Any], by_three_processes: dict[str, Path]
) -> None:
    assert_same(by_three_processes[kind], expected)


def test_a_killed_run_over_http_is_continued(
    stores: tuple[dict[str, str], Faults], expected: dict[str, Any], tmp_path: Path
) -> None:
    places, faults = stores
    run = tmp_path / "run"
    line = [sys.executable, "-m", "distreid.extract"]
    line += command(places["http"], run, "--num-workers", "1", "--batch-size", "8")
    faults.delay_s = 0.2
    try:
        job = subprocess.Popen(line, cwd=REPOSITORY, start_new_session=True)
        wait_until(lambda: any(run.glob("shards/*.h5")), job)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    finally:
        faults.delay_s = 0
    assert cli.main(["extract", *command(places["http"], run)]) == 0
    assert_same(run, expected)


def test_a_run_over_http_is_cached_shown_and_read_from_a_copy(
    stores: tuple[dict[str, str], Faults],
    files: Path,
    expected: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places, faults = stores
    last = f"/images/{IMAGES - 1}.jpg"  # the first ones are looked at by the choice of an engine
    cache = ("--cache", str(tmp_path / "cache"))
    faults.asked.clear()
    assert cli.main(["extract", *command(places["http"], tmp_path / "run", *cache)]) == 0
    assert ("GET", last) in faults.asked
    faults.asked.clear()
    assert cli.main(["extract", *command(places["http"], tmp_path / "again", *cache)]) == 0
    assert_same(tmp_path / "again", expected)
    assert ("GET", last) not in faults.asked
    out = tmp_path / "012.jpg"
    assert cli.main(["show", str(tmp_path / "run"), "--row", "12", "--out", str(out)]) == 0
    assert out.read_bytes() == (files / "012.jpg").read_bytes()
    copy = ("--data-root", str(files))
    faults.asked.clear()
    assert cli.main(["extract", *command(places["http"], tmp_path / "copy", *copy)]) == 0
    assert_same(tmp_path / "copy", expected)
    assert ("GET", last) not in faults.asked
    gallery = str(tmp_path / "gallery")
    assert cli.main(["gallery", "create", gallery, "--run", str(tmp_path / "run")]) == 0
    opened = Gallery(Path(gallery))
    assert str(opened.file(12)) == f"{places['http']}#/012.jpg"


def test_an_object_that_changes_or_fails_ends_a_run_in_one_line(
    stores: tuple[dict[str, str], Faults],
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(objects, "PAUSE_S", 0.01)
    faults, folder = Faults(), tmp_path / "images"
    shutil.copytree(files, folder)
    with files_over_http(folder, faults) as (address, _):
        faults.status["/003.jpg"] = 503, 99
        assert cli.main(["extract", *command(address, tmp_path / "run")]) == 2
        line = error_line(capsys)
        assert f"row 3, {address}#/003.jpg: its server answers 503" in line
        assert "use --on-bad-image record" in line
        record = ("--on-bad-image", "record")
        assert cli.main(["extract", *command(address, tmp_path / "run", *record)]) == 0
        store = FeatureStore.open(tmp_path / "run")
        assert np.flatnonzero(store.status).tolist() == [3]
        (tmp_path / "run/shards/000001.h5").unlink()
        (folder / "011.jpg").write_bytes((files / "012.jpg").read_bytes())
        capsys.readouterr()
        assert cli.main(["extract", *command(address, tmp_path / "run", *record)]) == 2
        assert f"{address}#/011.jpg: changed since {tmp_path / 'run'} was" in error_line(capsys)
        (folder / "011.jpg").write_bytes((files / "011.jpg").read_bytes())
        os.utime(folder / "011.jpg", (1, 1))  # the same ETag
        assert cli.main(["extract", *command(address, tmp_path / "run", *record)]) == 0


@pytest.mark.parametrize("kind", ["tar", "zip stored"])
def test_damaged_members_are_refused_or_recorded_as_files_are(
    kind: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = KINDS[kind](files, tmp_path)
    archive = Path(data)
    picture = (files / "003.jpg").read_bytes()
    content = archive.read_bytes()
    assert content.count(picture) == 1
    archive.write_bytes(content.replace(picture, bytes(len(picture))))
    assert cli.main(["extract", *command(data, tmp_path / "run")]) == 2
    line = error_line(capsys)
    assert f"row 3, {archive}#/003.jpg: " in line and "use --on-bad-image record" in line
    record = ("--on-bad-image", "record")
    assert cli.main(["extract", *command(data, tmp_path / "run", *record)]) == 0
    store = FeatureStore.open(tmp_path / "run")
    assert np.flatnonzero(store.status).tolist() == [3]


def test_an_archive_that_changed_ends_a_run_that_is_continued(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = stored(files, tmp_path), tmp_path / "run"
    assert cli.main(["extract", *command(data, run)]) == 0
    (run / "shards/000001.h5").unlink()
    os.utime(data, ns=(1, 1))
    capsys.readouterr()
    assert cli.main(["extract", *command(data, run)]) == 2
    assert f"{data}: changed since {run} was begun" in error_line(capsys)


def test_the_picture_of_a_row_is_written(files: Path, tmp_path: Path) -> None:
    data, run = packed("tar")(files, tmp_path), tmp_path / "run"
    assert cli.main(["extract", *command(data, run)]) == 0
    out = tmp_path / "012.jpg"
    assert cli.main(["show", str(run), "--row", "12", "--out", str(out)]) == 0
    assert out.read_bytes() == (files / "012.jpg").read_bytes()
    converted = tmp_path / "12.png"
    assert cli.main(["show", str(run), "--row", "12", "--out", str(converted)]) == 0
    with Image.open(converted) as ours, Image.open(files / "012.jpg") as theirs:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs.convert("RGB")))
    assert cli.main(["show", str(run), "--row", str(IMAGES), "--out", str(out)]) == 2
    assert cli.main(["show", str(run), "--row", "0", "--out", str(tmp_path / "x.txt")]) == 2

"""Damaged and hostile files, made at random, through everything that reads what a user names.

    python tests/stress/fuzz.py --minutes 5 [--seed 0] [--only images|checkpoints|fsdp|…]

Each reader gets whole files with bytes changed, cut out, repeated, or put in from another file.
Only the errors of distreid's tree may come out; the process may take 6 GB of address space
(torch alone takes some 3), and no file more than 20 seconds. Ends with status 1 at the first
file that breaks this, which is left beside its traceback, and else prints what was tried.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import csv
import functools
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import av
import h5py
import numpy as np
import pandas
import pyarrow.parquet
import scipy.io
import torch
from PIL import Image
from safetensors.torch import save
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from rows import fill, synthetic

from distreid.data.box_request import BoxRequest
from distreid.data.source import open_data
from distreid.data.summary import describe
from distreid.errors import DistreidError, StoreError, printable
from distreid.evaluation.evaluate import cannot_evaluate, evaluate
from distreid.images.preprocess import Preprocess
from distreid.job.feature_files import open_features
from distreid.models.checkpoint import SAMPLE_FILE, load_model
from distreid.models.distributed_checkpoint import METADATA
from distreid.models.weights import read_checkpoint
from distreid.store import FeatureStore
from distreid.store.run_folder import begin, finish
from distreid.store.verification import verify_run

ADDRESS_SPACE = 6 << 30
LONGEST_S = 20
IMAGE_KINDS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM")
MODES = ("RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16", "F")
TOKENS = (
    *(b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xd8\xff\xc0", b"Exif\0\0", b"IHDR"),
    *(b"cposix\nsystem\n", b"R.", b"PK\x03\x04", b"c__builtin__\nbytearray\n", b"9" * 20),
    *(b'"', b",", b"\n", b"\r", b"../", b"~", b"$HOME", "\N{SNOWMAN}".encode(), b"-2", b"1e9"),
)


def images(draw: random.Random) -> bytes:
    """A small image of any kind."""
    pixels = np.random.default_rng(draw.randrange(1 << 30)).integers(0, 256, (32, 16, 3), np.uint8)
    stream = io.BytesIO()
    for _ in range(20):
        kind, mode = draw.choice(IMAGE_KINDS), draw.choice(MODES)
        with contextlib.suppress(OSError, ValueError, KeyError):
            image = Image.fromarray(pixels)
            image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
            exif = Image.Exif()
            exif[0x0112] = draw.randrange(10)
            image.save(stream, kind, exif=exif, progressive=draw.random() < 0.5)
            break
    return stream.getvalue()


@functools.cache
def sample_weights() -> dict[str, torch.Tensor]:
    """Of the built-in checkpoint."""
    return read_checkpoint(SAMPLE_FILE).state


def checkpoints(draw: random.Random) -> bytes:
    """A checkpoint of the sample's layers, some of other shapes, in either format."""
    whole = sample_weights()
    kept = len(whole) if draw.random() < 0.5 else draw.randrange(3, len(whole))
    state = {name: whole[name] for name in draw.sample(sorted(whole), kept)}
    for name in draw.sample(sorted(state), draw.randrange(4)):
        shape = tuple(draw.choice((0, 1, 3, 16)) for _ in range(draw.randrange(5)))
        state[name] = torch.zeros(shape, dtype=draw.choice((torch.float32, torch.int64)))
    content = draw.choice((state, {"state_dict": state, "rank1": np.float32(0.5)}))
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=draw.random() < 0.5)
    return stream.getvalue()


def safetensors_files(draw: random.Random) -> bytes:
    """The same as safetensors, or the header alone with any claim."""
    whole = sample_weights()
    kept = draw.sample(sorted(whole), draw.randrange(1, len(whole)))
    if draw.random() < 0.7:
        return save({name: whole[name].clone() for name in kept})
    claim = draw.choice((0, 4, 10**6, 10**15, -4))
    entry = {"dtype": draw.choice(("F32", "BF16", "X")), "shape": [1], "data_offsets": [0, claim]}
    header = json.dumps({draw.choice(kept): entry}).encode()
    length = draw.choice((len(header), 0, 10**12, 1 << 63))
    return struct.pack("<Q", length) + header + bytes(draw.randrange(64))


@functools.cache
def fsdp_folder() -> Path:
    """A folder of torch.distributed.checkpoint; removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="fuzzed-fsdp"))
    atexit.register(shutil.rmtree, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = {"model": sample_weights(), "epoch": 3}
        save_distributed(content, checkpoint_id=folder, no_dist=True)
    return folder


def fsdp_files(draw: random.Random) -> bytes:
    """What says where the tensors of such a folder lie."""
    return (fsdp_folder() / METADATA).read_bytes()


def csv_files(draw: random.Random) -> bytes:
    """A CSV with any columns."""
    stream = io.StringIO()
    table = csv.writer(stream)
    columns = ["person_id", "camera_id", "split", "note"]
    if draw.random() < 0.1:
        columns += ["x/y", ".", "", "path"]
    header = ["path", *draw.sample(columns, draw.randrange(4))]
    table.writerow(header)
    for _ in range(draw.randrange(5)):
        table.writerow([draw.choice(("1", "1", "1", "-1", "query", "", "\x1b[2J")) for _ in header])
    return stream.getvalue().encode()


def labels(draw: random.Random) -> pandas.DataFrame:
    """A table of labels, some of them odd."""
    rows = draw.randrange(1, 5)
    odd = ("1", "2", "-1", "") * 20 + ("1.5", "anna", "1e400", "9" * 30, "nan")
    words = ("query", "gallery", "probe", "") * 20 + ("B",)
    return pandas.DataFrame(
        {
            "path": [f"{row}.jpg" for row in range(rows)],
            draw.choice(("person_id", "pid", "name")): [draw.choice(odd) for _ in range(rows)],
            draw.choice(("camera", "camid", "time")): [draw.choice(odd) for _ in range(rows)],
            "split": [draw.choice(words) for _ in range(rows)],
        }
    )


def tables(kind: str, draw: random.Random) -> bytes:
    """A table in a file of some program, with features or without."""
    stream = io.BytesIO()
    table = labels(draw)
    if kind == "parquet":
        if draw.random() < 0.5:
            table["feature"] = [[1.0, draw.random()] for _ in range(len(table))]
        table.to_parquet(stream)
    elif kind == "xlsx":
        table.to_excel(stream, index=draw.random() < 0.5)
    elif kind == "json":
        return str(table.to_json(orient=draw.choice(("records", "columns")))).encode()
    else:
        delimiter = draw.choice((",", ";", "\t", "|", " "))
        table.to_csv(stream, sep=delimiter, index=draw.random() < 0.3, header=draw.random() < 0.6)
        codec = draw.choice(("utf-8", "utf-8-sig", "utf-16"))
        return stream.getvalue().decode().encode(codec)
    return stream.getvalue()


def features(kind: str, draw: random.Random) -> bytes:
    """Features with labels, some arrays of other shapes, types or names, some left out."""
    queries, gallery = draw.randrange(1, 4), draw.randrange(1, 5)
    arrays: dict[str, np.ndarray] = {
        "query_features": np.ones((queries, 3), draw.choice(("f2", "f4", "f8", "i4"))),
        "gallery_features": np.random.default_rng(1).normal(size=(gallery, 3)),
        "query_ids": np.arange(queries),
        "gallery_ids": np.arange(gallery) + draw.choice((0.0, 0.5)),
        "query_cams": np.zeros(queries, int),
        "gallery_cams": np.ones(gallery, int),
        "gallery_paths": np.array([f"{row}.jpg" for row in range(gallery)], "S"),
    }
    for name in draw.sample(sorted(arrays), draw.randrange(3)):
        shape = tuple(draw.choice((0, 1, 3)) for _ in range(draw.randrange(4)))
        changed = {name: np.zeros(shape)} if draw.random() < 0.5 else {}
        arrays = {key: value for key, value in arrays.items() if key != name} | changed
    stream = io.BytesIO()
    if kind == "npz":
        (np.savez if draw.random() < 0.5 else np.savez_compressed)(stream, **arrays)  # type: ignore[arg-type]
    elif kind == "npy":
        np.save(stream, next(iter(arrays.values())))
    elif kind == "mat":
        scipy.io.savemat(stream, arrays, do_compression=draw.random() < 0.5)
    elif kind == "h5":
        with h5py.File(stream, "w") as file:
            for name, array in arrays.items():
                whole = array.ndim > 0 and array.size > 0
                file.create_dataset(name, data=array, compression=4 if whole else None)
    else:
        tensors = {k: torch.from_numpy(v) for k, v in arrays.items() if v.dtype.kind != "S"}
        torch.save(tensors, stream)
    return stream.getvalue()


def names(draw: random.Random) -> bytes:
    """The name of a file in a data set."""
    return draw.choice(
        (b"0001_c1s1_000151_00.jpg", b"-1_c2.png", b"0002_c3_f0046985.jpg", b"a.jpg")
    )


@functools.cache
def sample_run() -> Path:
    """A complete run of three small shards; removed at the end."""
    plan = synthetic(20, 4)
    plan = replace(plan, shard_rows=8)
    run = Path(tempfile.mkdtemp(prefix="fuzzed-run"))
    atexit.register(shutil.rmtree, run)
    fill(run, plan, begin(run, plan))
    finish(run, plan)
    return run


def stores(draw: random.Random) -> bytes:
    """A file of a run."""
    return draw.choice(sorted(sample_run().rglob("*.h5"))).read_bytes()


def archives(kind: str, draw: random.Random) -> bytes:
    """A few images in an archive, some under odd names; of a video its frames."""
    stream = io.BytesIO()
    odd = ("a/1.jpg", "a/../2.png", "/3.jpg", "./4.jpg", "a/1.jpg", "Ünder/5.gif", "x" * 120)
    named = [(draw.choice(odd), images(draw)) for _ in range(draw.randrange(1, 5))]
    if kind == "mp4":
        with av.open(stream, "w", format="mp4") as container:
            video = container.add_stream(draw.choice(("mpeg4", "libx264")), rate=25)
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
            for number in range(draw.randrange(1, 20)):
                pixels = np.full((32, 32, 3), 10 * number, np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(video.encode())
    elif kind == "zip":
        with (
            zipfile.ZipFile(stream, "w", draw.choice((0, 8))) as archive,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # of a name that is there twice
            for name, data in named:
                archive.writestr(name, data)
    elif kind == "parquet":
        cells = [{"bytes": data, "path": name} for name, data in named]
        pyarrow.parquet.write_table(pyarrow.table({"image": cells}), stream)
    else:
        with tarfile.open(fileobj=stream, mode="w:gz" if kind == "tar.gz" else "w") as tar:
            for name, data in named:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                info.type = draw.choice((b"0", b"0", b"0", b"1", b"2", b"5"))
                info.linkname = draw.choice(("/etc/passwd", "../../x", "a/1.jpg"))
                tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def boxes(kind: str, draw: random.Random) -> bytes:
    """Boxes of the frame `1.png`, as a tracker, a detector or a table has them."""
    values = [[draw.choice((1, 2, -3, 4.5, 60, 1e9)) for _ in range(4)] for _ in range(3)]
    if kind == "json":
        entries = [{"image_id": 1, "bbox": each, "score": 0.5, "category_id": 1} for each in values]
        whole = {"images": [{"id": 1, "file_name": "1.png"}], "annotations": entries}
        return json.dumps(draw.choice((entries, whole))).encode()
    lines = [",".join(map(str, each)) for each in values]
    if kind == "csv":
        return "\n".join(["path,x,y,w,h", *(f"1.png,{line}" for line in lines)]).encode()
    return "\n".join(f"0 {line}".replace(",", " ") for line in lines).encode()


def damaged(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """The bytes with up to five changes."""
    changed = bytearray(data)
    for _ in range(draw.randrange(6)):
        place, length = draw.randrange(len(changed) + 1), draw.randrange(1, 40)
        what = draw.randrange(5)
        if what == 0 and place < len(changed):
            changed[place] ^= 1 << draw.randrange(8)
        elif what == 1:
            del changed[place : place + length]
        elif what == 2:
            changed[place:place] = changed[place : place + length]
        elif what == 3:
            token = draw.choice(TOKENS)
            changed[place : place + len(token) * draw.randrange(2)] = token
        else:
            start = draw.randrange(len(other) + 1)
            changed[place : place + length] = other[start : start + length]
    return bytes(changed)


def read_image(file: Path) -> None:
    """As the loader does."""
    for exif_transpose in (False, True):
        Preprocess(exif_transpose=exif_transpose).load(file)


def read_csv(file: Path) -> None:
    """As the job does."""
    manifest = open_data(str(file), "csv")
    manifest.fingerprint()
    describe(manifest)


def read_table(kind: str, file: Path) -> None:
    """As the job does, or as the features of another program."""
    place = file.with_suffix(f".{kind}")
    shutil.copy(file, place)
    try:
        manifest = open_data(str(place), "csv")
        manifest.fingerprint()
        describe(manifest)
    finally:
        if kind == "parquet":
            with contextlib.suppress(DistreidError):
                open_features(place)
        place.unlink()


def read_features(kind: str, file: Path) -> None:
    """As `distreid evaluate` does; the labels of an .npy lie beside it."""
    place = file.with_suffix(f".{kind}")
    shutil.copy(file, place)
    file.with_suffix(".csv").write_text("person_id,split\n1,query\n1,gallery\n2,gallery\n")
    try:
        store = open_features(place)
        describe(store.manifest)
        if not cannot_evaluate(store):
            evaluate(store)
    finally:
        place.unlink()


def read_store(file: Path) -> None:
    """In place of each file of a run: only the same bytes may be read, and they must be."""
    refused: StoreError | None = None
    for place in sorted(sample_run().rglob("*.h5")):
        whole = place.read_bytes()
        place.write_bytes(file.read_bytes())
        same = place.read_bytes() == whole
        try:
            verify_run(sample_run())
            FeatureStore.open(sample_run())
            assert same, f"{place} was changed and was read"
        except StoreError as error:
            assert not same, f"{place} is whole and was refused"
            refused = error
        finally:
            place.write_bytes(whole)
    if refused:
        raise refused


def read_archive(kind: str, file: Path) -> None:
    """As the job does: listed, then every image by itself. A bad image is no end."""
    place = file.with_suffix(f".{kind}")
    shutil.copy(file, place)
    try:
        manifest = open_data(str(place), "image_column" if kind == "parquet" else "folder")
        for row in range(min(len(manifest), 20)):
            with contextlib.suppress(DistreidError, FileNotFoundError):
                Preprocess().load(manifest.file(row))
    finally:
        place.unlink()


def read_boxes(kind: str, file: Path) -> None:
    """Of a folder with one frame; each box is cut."""
    with tempfile.TemporaryDirectory() as folder:
        frames, named = Path(folder) / "frames", Path(folder) / f"1.{kind}"
        frames.mkdir()
        Image.new("RGB", (60, 40)).save(frames / "1.png")
        shutil.copy(file, named)
        asked = BoxRequest(file=folder if kind == "txt" else str(named))
        manifest = open_data(str(frames), boxes=asked)
        for row in range(len(manifest)):
            with contextlib.suppress(DistreidError, FileNotFoundError):
                Preprocess().load(manifest.file(row))


def read_fsdp(file: Path) -> None:
    """In place of what it is of the folder."""
    place = fsdp_folder() / METADATA
    whole = place.read_bytes()
    place.write_bytes(file.read_bytes())
    try:
        read_checkpoint(fsdp_folder())
    finally:
        place.write_bytes(whole)


def read_name(file: Path) -> None:
    """As a data set that has a file of the name that the file holds."""
    name = file.read_bytes().replace(b"/", b"").replace(b"\0", b"")[:255]
    with tempfile.TemporaryDirectory() as folder:
        for part in ("query", "bounding_box_test"):
            (Path(folder) / part).mkdir()
            with contextlib.suppress(OSError):  # "", "." and ".." are no names
                open(os.path.join(os.fsencode(folder), part.encode(), name), "wb").close()
        for layout in ("market1501", "folder", "imagefolder"):
            with contextlib.suppress(DistreidError):
                for line in describe(open_data(folder, layout)):
                    printable(line).encode()


TARGETS: dict[str, tuple[Callable[[random.Random], bytes], Callable[[Path], object]]] = {
    "images": (images, read_image),
    "checkpoints": (checkpoints, lambda file: load_model(str(file))),
    "safetensors": (safetensors_files, read_checkpoint),
    "fsdp": (fsdp_files, read_fsdp),
    "csv": (csv_files, read_csv),
    "names": (names, read_name),
    **{
        kind: (functools.partial(tables, kind), functools.partial(read_table, kind))
        for kind in ("parquet", "xlsx", "json", "txt")
    },
    **{
        kind: (functools.partial(features, kind), functools.partial(read_features, kind))
        for kind in ("npz", "npy", "mat", "h5", "pt")
    },
    **{
        f"images in {kind}": (
            functools.partial(archives, kind),
            functools.partial(read_archive, kind),
        )
        for kind in ("tar", "tar.gz", "zip", "parquet", "mp4")
    },
    **{
        f"boxes in {kind}": (functools.partial(boxes, kind), functools.partial(read_boxes, kind))
        for kind in ("csv", "json", "txt")
    },
    "stores": (stores, read_store),
}


def main() -> int:
    """Runs until the time is over or something breaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TARGETS)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    signal.signal(signal.SIGALRM, _too_long)
    warnings.simplefilter("error")
    until = time.monotonic() + 60 * options.minutes
    outcomes: Counter[str] = Counter()
    slowest = dict.fromkeys(TARGETS, 0.0)
    number = 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < until:
            draw = random.Random(f"{options.seed} {number}")
            target = options.only or list(TARGETS)[number % len(TARGETS)]
            make, read = TARGETS[target]
            file = Path(folder) / "fuzzed"
            file.write_bytes(damaged(make(draw), make(draw), draw))
            started = time.monotonic()
            signal.alarm(LONGEST_S)
            try:
                read(file)
                outcomes[f"{target} read"] += 1
            except DistreidError:
                outcomes[f"{target} refused"] += 1
            except BaseException:
                left = Path(f"fuzzed-{target}-{options.seed}-{number}".replace(" ", "-"))
                left.write_bytes(file.read_bytes())
                print(f"{left}: this file broke the reader of {target}", file=sys.stderr)
                raise
            finally:
                signal.alarm(0)
            slowest[target] = max(slowest[target], time.monotonic() - started)
            number += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{number:,} files, seed {options.seed}; at most {peak / 1e6:,.0f} MB")
    for what, count in sorted(outcomes.items()):
        print(f"  {what}: {count:,}")
    took = {name: seconds for name, seconds in slowest.items() if seconds}
    print("  slowest: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items()))
    return 0


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"more than {LONGEST_S} s for one file")


if __name__ == "__main__":
    sys.exit(main())

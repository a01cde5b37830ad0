"""The service beside what it stands on: python tests/benchmarks/serve.py [--rows N] [--large N]
[--requests N] [--turns N]

Every figure has both sides in one run, in turns; clients share the machine with the service.
Prints JSON: images/s through /v1/features against offline extraction of the same images (`share`),
one image to hits against decode, forward and search alone (`times`), searches by row a second,
wrong and lost answers among requests of all kinds while generations change, memory, and seconds to
ready.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import itertools
import json
import os
import queue
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from networks import FT_NET, untrained

import distreid
from distreid.data.manifest import build_manifest
from distreid.data.source import SAMPLE_FOLDER
from distreid.search.changes import Manner, create
from distreid.store import FeatureStore
from distreid.store.plan import shard_rows_for
from distreid.store.run_folder import begin, finish
from distreid.store.shards import Rows, write_shard

CLIENTS, IMAGES_A_REQUEST, ROW_CLIENTS, ALL_CLIENTS = 16, 16, 32, 64
WARM_REQUESTS = 1000
BOUNDARY = "a-boundary-of-this-benchmark"


class Client:
    """One connection, which is made again where it was closed."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """Status and content."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self._connection.request(method, path, body, named)
        except (http.client.HTTPException, ConnectionError):
            self._connection.close()
            self._connection.request(method, path, body, named)
        answer = self._connection.getresponse()
        return answer.status, answer.read()


def form(*images: bytes) -> tuple[bytes, str]:
    """A form of images, and what kind it is."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    body = b"".join(head.encode() + image + b"\r\n" for image in images)
    return body + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


@contextlib.contextmanager
def serving(*words: str | Path) -> Iterator[tuple[int, int, float]]:
    """Port, process number, and the seconds until it was ready."""
    command = [sys.executable, "-m", "distreid", "serve", *map(str, words), "--port", "0"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        line = next(each for each in process.stderr if "serving at " in each)
        port = int(line.rsplit(":", 1)[1])
        while Client(port).ask("GET", "/readyz")[0] != 200:
            time.sleep(0.01)
        yield port, process.pid, time.perf_counter() - began
    finally:
        process.terminate()
        process.communicate()


def together(port: int, clients: int, jobs: list[Callable[[Client], None]]) -> float:
    """Seconds in which so many clients do all jobs."""
    waiting: queue.SimpleQueue[Callable[[Client], None]] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)

    def work() -> None:
        client = Client(port)
        with contextlib.suppress(queue.Empty):
            while True:
                waiting.get_nowait()(client)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def noisy_run(folder: Path, of: FeatureStore, count: int) -> Path:
    """A run of `count` rows: those of another with noise, in the same feature space."""
    base = of.features(np.arange(len(of.manifest)))
    rng = np.random.default_rng(count)
    manifest = build_manifest(
        root=of.manifest.root,
        layout="csv",
        path=[of.manifest.path[i % len(base)] for i in range(count)],
        person_id=[i % 5000 + 1 for i in range(count)],
        camera_id=[i % 6 + 1 for i in range(count)],
    )
    plan = replace(
        of.plan,
        manifest=manifest,
        identity=of.plan.identity | {"manifest": manifest.fingerprint()},
        shard_rows=shard_rows_for(count),
    )
    for shard in begin(folder, plan):
        rows = base[np.arange(shard.start, shard.stop) % len(base)]
        rows = rows + 0.02 * rng.standard_normal(rows.shape, np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        ones, status = np.ones(len(rows), np.float32), np.zeros(len(rows), np.uint8)
        write_shard(folder, plan, shard, Rows(features=rows, norm=ones, status=status))
    finish(folder, plan)
    return folder


def offline_rate(folder: Path, checkpoint: str = "sample") -> float:
    """Images a second of an extraction of the sample, as the job says it."""
    command = [sys.executable, "-m", "distreid", "extract", "--data", "sample", "--checkpoint"]
    command += [checkpoint, "--no-evaluate", "--out", str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.search(r"time +(\d+) images in (?:(\d+) min )?([\d.]+) s", said)
    assert found, said
    return int(found[1]) / (60 * int(found[2] or 0) + float(found[3]))


def features_rates(
    port: int, folder: Path, turns: int, checkpoint: str = "sample", at_once: int = IMAGES_A_REQUEST
) -> dict[str, Any]:
    """Images a second through the service and offline, in turns."""
    files = [*SAMPLE_FOLDER.glob("query/*.jpg"), *SAMPLE_FOLDER.glob("bounding_box_test/*.jpg")]
    images = [file.read_bytes() for file in sorted(files)]
    parts = [images[i : i + at_once] for i in range(0, len(images), at_once)]

    def job(part: list[bytes]) -> Callable[[Client], None]:
        body, kind = form(*part)

        def ask(client: Client) -> None:
            status, _ = client.ask(
                "POST", "/v1/features", body, Content_Type=kind, Accept="application/x-npy"
            )
            assert status == 200

        return ask

    jobs = [job(part) for part in parts]
    together(port, CLIENTS, jobs[: 2 * CLIENTS])  # warm
    served, offline = [], []
    for turn in range(turns):
        offline.append(offline_rate(folder / f"offline-{turn}-{at_once}", checkpoint))
        served.append(len(images) / together(port, CLIENTS, jobs))
    share = [s / o for s, o in zip(served, offline, strict=True)]
    return {"served": served, "offline": offline, "share": statistics.median(share)}


def one_image(port: int, gallery: Path, turns: int) -> dict[str, Any]:
    """Milliseconds of one image to hits, and of its parts alone, in turns."""
    model, image = distreid.load_model("sample"), next(SAMPLE_FOLDER.glob("query/*.jpg"))
    body, kind = form(image.read_bytes())
    client, whole, parts = Client(port), [], []
    with distreid.open_gallery(gallery) as opened:
        for _ in range(20 * turns):
            began = time.perf_counter()
            assert client.ask("POST", "/v1/search", body, Content_Type=kind)[0] == 200
            middle = time.perf_counter()
            opened.search(model.features(image), 10)
            whole.append(1000 * (middle - began))
            parts.append(1000 * (time.perf_counter() - middle))
    whole_ms, parts_ms = statistics.median(whole), statistics.median(parts)
    return {"served_ms": whole_ms, "alone_ms": parts_ms, "times": whole_ms / parts_ms}


def row_searches(port: int, count: int, rows: int) -> float:
    """Searches by row a second."""

    def job(row: int) -> Callable[[Client], None]:
        def ask(client: Client) -> None:
            body = json.dumps({"row": row}).encode()
            status, found = client.ask("POST", "/v1/search", body)
            assert status == 200 and json.loads(found)["hits"][0]["row"] == row

        return ask

    jobs = [job(int(row)) for row in np.random.default_rng(0).integers(0, rows, count)]
    together(port, ROW_CLIENTS, jobs[:100])
    return count / together(port, ROW_CLIENTS, jobs)


def memory(pid: int) -> int:
    """Resident bytes that are the process's own."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", text)
    assert found
    return 1024 * int(found[1])


def all_kinds(port: int, pid: int, rows: int, count: int) -> dict[str, Any]:
    """Wrong and lost answers among requests of all kinds while rows are hidden and added."""
    files = sorted(SAMPLE_FOLDER.glob("query/*.jpg"))[:32]
    model = distreid.load_model("sample")
    expected = [model.features([file]) for file in files]
    forms = [form(file.read_bytes()) for file in files]
    wrong: list[str] = []
    hidden = itertools.count(rows - 1, -1)  # rows that are asked for by nobody else
    lost = 0

    def features(client: Client, i: int) -> bool:
        body, kind = forms[i % len(forms)]
        headers = {"Content_Type": kind, "Accept": "application/x-npy"}
        status, found = client.ask("POST", "/v1/features", body, **headers)
        same = np.load(io.BytesIO(found)).tobytes() == expected[i % len(forms)].tobytes()
        return status == 200 and same

    def by_row(client: Client, i: int) -> bool:
        row = i * 7919 % (rows // 2)
        status, found = client.ask("POST", "/v1/search", json.dumps({"row": row}).encode())
        return status == 200 and json.loads(found)["hits"][0]["row"] == row

    def by_image(client: Client, i: int) -> bool:
        body, kind = forms[i % len(forms)]
        status, found = client.ask("POST", "/v1/search", body, Content_Type=kind)
        return status == 200 and len(json.loads(found)["hits"]) == 10

    def picture(client: Client, i: int) -> bool:
        status, found = client.ask("GET", f"/v1/images/{i % (rows // 2)}?width=32")
        return status == 200 and found.startswith(b"\xff\xd8")

    def hide(client: Client, i: int) -> bool:
        status, found = client.ask("DELETE", f"/v1/rows/{next(hidden)}")
        return status == 200 and json.loads(found)["rows"] == 1

    def add(client: Client, i: int) -> bool:
        body, kind = forms[i % len(forms)]
        headers = {"Content_Type": kind, "Idempotency_Key": f"request {i}"}
        status, found = client.ask("POST", "/v1/images", body, **headers)
        return status == 201 and len(json.loads(found)["rows"]) == 1

    def job(i: int) -> Callable[[Client], None]:
        kinds = (by_row, by_row, picture, features, by_row, by_image, by_row, picture)
        kind = hide if i % 400 == 399 else add if i % 400 == 199 else kinds[i % len(kinds)]

        def ask(client: Client) -> None:
            nonlocal lost
            try:
                if not kind(client, i):
                    wrong.append(f"{kind.__name__} {i}")
            except (OSError, http.client.HTTPException):
                lost += 1

        return ask

    jobs = [job(i) for i in range(count)]
    warm = min(WARM_REQUESTS, count // 2)
    together(port, ALL_CLIENTS, jobs[:warm])
    before = memory(pid)
    seconds = together(port, ALL_CLIENTS, jobs[warm:])
    after = memory(pid)
    generation = json.loads(Client(port).ask("GET", "/v1/gallery")[1])["generation"]
    return {
        "requests": count,
        "seconds": seconds,
        "wrong": wrong[:10],
        "wrong_count": len(wrong),
        "lost": lost,
        "generations": generation,
        "memory_growth": after / before - 1,
    }


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="of the gallery")
    parser.add_argument("--large", type=int, default=1_000_000, help="of the large one; 0: none")
    parser.add_argument("--requests", type=int, default=20_000, help="of all kinds")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only-resnet", action="store_true", help="ResNet-50, an image a request")
    parsed = parser.parse_args()
    quiet = Manner(say=lambda line: None)
    found: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}

    def report(name: str, value: Any) -> None:
        found[name] = value
        print(f"{name}: {json.dumps(value)}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        resnet = str(untrained(FT_NET, folder))
        with serving("--checkpoint", resnet) as (port, _, seconds):
            report("resnet_ready_s", seconds)
            report("resnet_single_images", features_rates(port, folder, 1, resnet, 1))
        if parsed.only_resnet:
            return
        offline_rate(folder / "run")
        store = FeatureStore.open(folder / "run")
        create(folder / "g", [noisy_run(folder / "noisy", store, parsed.rows)], quiet)
        with serving(folder / "g", "--checkpoint", "sample") as (port, pid, seconds):
            report("ready_s", seconds)
            report("features", features_rates(port, folder, parsed.turns))
            report("one_image", one_image(port, folder / "g", parsed.turns))
            report("row_searches_per_s", row_searches(port, 2000, parsed.rows))
            report("all_kinds", all_kinds(port, pid, parsed.rows, parsed.requests))
        if parsed.large:
            create(folder / "h", [noisy_run(folder / "large", store, parsed.large)], quiet)
            with serving(folder / "h", "--checkpoint", "sample") as (port, _, seconds):
                report("large_ready_s", seconds)
                report("large_row_searches_per_s", row_searches(port, 2000, parsed.large))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

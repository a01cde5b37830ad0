"""The rate of images from an object store that answers each request after 20 ms, beside files.

    python tests/benchmarks/remote.py                    2,000 JPEGs of 64×128, one worker
    python tests/benchmarks/remote.py --delay-ms 50 --workers 2

A server on loopback, in a process of its own, sends the sample's images under other names. Both
sides are read, decoded and resized by the workers of a loader, in turn. With 16 requests in flight
a worker can have 16 / delay images a second: the rate is given as part of that or of the rate of
files, whichever is less. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from distreid.data.manifest import Manifest
from distreid.data.objects import IN_FLIGHT
from distreid.data.source import open_data
from distreid.images.loader import open_loader
from distreid.images.preprocess import Preprocess
from distreid.images.sampler import ShardSampler
from distreid.store.plan import Shard

BATCH = 64


def serve(folder: Path, delay_s: float, ready: Connection) -> None:
    """Answers each request for a file of a folder after the delay; `/` lists them. Tells its port,
    and at the end the most requests that it had at once."""
    files = {f"/{file.name}": file.read_bytes() for file in folder.iterdir()}
    page = "".join(f'<a href="{name[1:]}">.</a>' for name in files).encode()
    now, most = 0, 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        while line := await reader.readline():
            while (await reader.readline()).strip():
                pass
            method, path, _ = line.decode().split()
            now += 1
            most = max(most, now)
            await asyncio.sleep(delay_s)
            now -= 1
            kind, body = ("text/html", page) if path == "/" else ("image/jpeg", files[path])
            head = f'HTTP/1.1 200 OK\r\nETag: "{path}"\r\nContent-Type: {kind}\r\n'
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
            if method == "GET":
                writer.write(body)

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # at the end
            await answer(reader, writer)

    async def run() -> None:
        server = await asyncio.start_server(quietly, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(ready.recv)
        ready.send(most)

    asyncio.run(run())


def seconds(manifest: Manifest, workers: int) -> float:
    """From the first batch to the last one, so that starting the workers does not count."""
    rows = len(manifest)
    sampler = ShardSampler([Shard(0, 0, rows)], rank=0, world_size=1)
    loader = open_loader(
        manifest, Preprocess(), sampler, batch_size=BATCH, num_workers=workers, pin_memory=False
    )
    batches = iter(loader)
    skipped = [next(batches) for _ in range(2 * workers)]
    started = time.perf_counter()
    left = [batch for batch in batches]
    took = time.perf_counter() - started
    assert not any(batch.failures for batch in (*skipped, *left))
    return took / sum(len(batch.rows) for batch in left)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--delay-ms", type=float, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sample = open_data("sample")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(asked.images):
            picture = sample.file(number % len(sample)).read_bytes()
            (folder / f"{number:06d}.jpg").write_bytes(picture)
        ours, theirs = multiprocessing.Pipe()
        delay_s = asked.delay_ms / 1000
        server = multiprocessing.Process(target=serve, args=(folder, delay_s, theirs))
        server.start()
        address = f"http://127.0.0.1:{ours.recv()}"
        started = time.perf_counter()
        manifests = {"files": open_data(name, "folder"), "remote": open_data(address, "folder")}
        listing = time.perf_counter() - started
        turns = [
            {kind: seconds(m, asked.workers) for kind, m in manifests.items()}
            for _ in range(asked.turns)
        ]
        ours.send(None)
        most = ours.recv()
        server.join()
    rate = {kind: 1 / statistics.median(turn[kind] for turn in turns) for kind in manifests}
    bound = min(asked.workers * IN_FLIGHT / delay_s, rate["files"])
    part = rate["remote"] / bound
    for kind, per_second in rate.items():
        print(f"{kind:7} {per_second:,.0f} images/s")
    print(f"remote is {part:.3f} of {bound:,.0f} images/s; at most {most} requests at once")
    print(f"listed in {listing:.1f} s")
    print(json.dumps({"rate": rate, "part": part, "most": most, "listing_s": listing}))


if __name__ == "__main__":
    main()

"""The rate of images from an object store that answers each request after 20 ms, beside files.

    python tests/benchmarks/remote.py                    2,000 JPEGs of 64×128, one worker
    python tests/benchmarks/remote.py --delay-ms 50 --workers 2

A server on loopback, in a process of its own, sends the sample's images under other names, over
HTTP and as S3 does. All sides are read, decoded and resized by the workers of a loader, in turn.
With 16 requests in flight a worker can have 16 / delay images a second: the rates are given as part
of that or of the rate of files, whichever is less. `bare` is what sockets have that ask and do
nothing else, with 16 requests at once: what the server and the machine can give. The last line is
JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import select
import socket
import statistics
import tempfile
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import torch

from distreid.data.manifest import Manifest
from distreid.data.objects import IN_FLIGHT
from distreid.data.source import open_data
from distreid.images.loader import open_loader
from distreid.images.preprocess import Preprocess
from distreid.images.sampler import ShardSampler
from distreid.store.plan import Shard

BATCH = 64
BUCKET = "bucket"
AWAKE_S = 0.0003  # before an answer the server does not sleep: it would wake too late


def serve(folder: Path, delay_s: float, ready: Connection) -> None:
    """Answers each request for a file of a folder so long after it came; `/` lists them, and
    `/bucket` as S3. Tells its port, and at the end the most requests that it had at once, and the
    mean delay as it was."""
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    page = "".join(f'<a href="{name}">.</a>' for name in files)
    listing = "".join(
        f"<Contents><Key>{name}</Key><Size>{len(body)}</Size><ETag>{name}</ETag>"
        "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        for name, body in files.items()
    )
    listing = f"<ListBucketResult>{listing}<IsTruncated>false</IsTruncated></ListBucketResult>"
    bodies = {"/": ("text/html", page.encode()), f"/{BUCKET}": ("text/xml", listing.encode())}
    for name, body in files.items():
        bodies |= {f"/{name}": ("image/jpeg", body), f"/{BUCKET}/{name}": ("image/jpeg", body)}
    answers = {
        name.encode(): (
            f'HTTP/1.1 200 OK\r\nETag: "{name.rpartition("/")[2]}"\r\nContent-Type: {kind}\r\n'
            f"Content-Length: {len(body)}\r\n\r\n".encode(),
            body,
        )
        for name, (kind, body) in bodies.items()
    }
    listener = socket.create_server(("127.0.0.1", 0))
    ready.send(listener.getsockname()[1])
    sources: list[socket.socket | Connection] = [listener, ready]
    waiting: deque[tuple[float, socket.socket, bytes]] = deque()
    most, delays = 0, []
    while ready not in (readable := _readable(sources, waiting[0][0] if waiting else None)):
        for source in readable:
            if source is listener:
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
                sources.append(client)
            elif request := cast(socket.socket, source).recv(1 << 16):
                waiting.append(
                    (time.perf_counter() + delay_s, cast(socket.socket, source), request)
                )
            else:
                sources.remove(source)
        most = max(most, len(waiting))
        while waiting and waiting[0][0] <= time.perf_counter():
            due, client, request = waiting.popleft()
            method, path, _ = request.split(b" ", 2)
            head, body = answers[path.partition(b"?")[0]]
            client.sendall(head + body if method == b"GET" else head)
            delays.append(time.perf_counter() - due + delay_s)
    ready.send((most, statistics.mean(delays)))


def _readable(
    sources: list[socket.socket | Connection], until: float | None
) -> list[socket.socket | Connection]:
    """Which have something, as soon as one has, or none at a time."""
    left = None if until is None else until - time.perf_counter()
    if left is not None and left < AWAKE_S:
        left = 0
    return select.select(sources, [], [], left)[0]


def bare(port: int, names: list[str]) -> float:
    """Seconds of a file where nothing is done but to ask for each, `IN_FLIGHT` at once: what this
    machine and the server can have."""
    left = iter(names)

    async def ask(host: str) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for name in left:
            writer.write(f"GET /{name} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.rpartition(b":")[2]))
        writer.close()

    async def all_lanes() -> None:
        await asyncio.gather(*(ask("127.0.0.1") for _ in range(IN_FLIGHT)))

    started = time.perf_counter()
    asyncio.run(all_lanes())
    return (time.perf_counter() - started) / len(names)


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
        port = ours.recv()
        address = f"http://127.0.0.1:{port}"
        os.environ |= {
            "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none",
        }  # fmt: skip
        sources = {"files": name, "http": address, "s3": f"s3://{BUCKET}"}
        started = time.perf_counter()
        manifests = {kind: open_data(source, "folder") for kind, source in sources.items()}
        listing = time.perf_counter() - started
        names = sorted(file.name for file in folder.iterdir())
        turns = [
            {kind: seconds(m, asked.workers) for kind, m in manifests.items()}
            | {"bare": bare(port, names)}
            for _ in range(asked.turns)
        ]
        ours.send(None)
        most, delay_was_s = ours.recv()
        server.join()
    rate = {kind: 1 / statistics.median(turn[kind] for turn in turns) for kind in turns[0]}
    bound = min(asked.workers * IN_FLIGHT / delay_s, rate["files"])
    part = {kind: each / bound for kind, each in rate.items()}
    for kind, per_second in rate.items():
        print(f"{kind:7} {per_second:6,.0f} images/s, {part[kind]:.3f} of {bound:,.0f}")
    print(f"at most {most} requests at once")
    print(f"answered after {1000 * delay_was_s:.1f} ms; listed in {listing:.1f} s")
    told = {"most": most, "delay_ms": 1000 * delay_was_s, "listing_s": listing}
    print(json.dumps({"rate": rate, "part": part} | told))


if __name__ == "__main__":
    main()

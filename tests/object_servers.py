"""Object stores on loopback for tests: a server of files over HTTP and moto's S3, with faults.

Both are real servers that real clients talk to. A `Faults` says which answers go wrong, and how.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import importlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pytest

from distreid.data import objects


@dataclass
class Faults:
    """What goes wrong: for names that end so, the first times that their bytes are asked for."""

    status: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Ending → status and how many times."""
    truncated: dict[str, int] = field(default_factory=dict)
    """Ending → how many times half of the body comes, and then the connection is closed."""
    silent_s: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Ending → seconds without an answer, and how many times."""
    method: str = "GET"
    """Of the requests that these are for, where S3 is asked."""
    delay_s: float = 0
    """Before every answer."""
    with_etag: bool = True
    with_time: bool = True
    with_ranges: bool = True
    with_head: bool = True
    with_size: bool = True
    """Where only the head of a file is asked for."""
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Method and path → how often."""
    in_flight: int = 0
    most_in_flight: int = 0
    together: int = 0
    """No answer comes before so many are asked for at once; then never mind."""
    lock: threading.Condition = field(default_factory=threading.Condition)

    def of(self, path: str, table: dict[str, Any]) -> Any:
        """What a table says of a path now, taking one of the times; None if nothing."""
        with self.lock:
            for ending, said in table.items():
                if not path.endswith(ending):
                    continue
                times = said if isinstance(said, int) else said[1]
                if times > 0:
                    table[ending] = times - 1 if isinstance(said, int) else (said[0], times - 1)
                    return said if isinstance(said, int) else said[0]
        return None

    @contextlib.contextmanager
    def counted(self, method: str, path: str) -> Iterator[None]:
        """Of one request."""
        with self.lock:
            self.asked[method, path] += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            if self.in_flight >= self.together:
                self.together = 0
                self.lock.notify_all()
            self.lock.wait_for(lambda: not self.together, timeout=60)
        try:
            time.sleep(self.delay_s)
            yield
        finally:
            with self.lock:
                self.in_flight -= 1


class _Files(http.server.SimpleHTTPRequestHandler):
    """Files and pages that list folders; ranges and ETags, which the standard library's lacks."""

    protocol_version = "HTTP/1.1"
    faults: Faults

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        """As GET, without a body."""
        if not self.faults.with_head:
            self._say(501)
        else:
            self._answer(with_body=False)

    def do_GET(self) -> None:
        """A file, part of it, or a folder's page."""
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path, faults = unquote(urlsplit(self.path).path), self.faults
        with faults.counted(self.command, path):
            if with_body and (status := faults.of(path, faults.status)):
                return self._say(status)
            if with_body and (silence := faults.of(path, faults.silent_s)):
                time.sleep(silence)
                self.close_connection = True
                return None
            place = Path(self.translate_path(self.path))
            if place.is_dir():
                return super().do_GET() if with_body else super().do_HEAD()
            if not place.is_file():
                return self._say(404)
            return self._send(place, path, with_body=with_body)

    def _send(self, place: Path, path: str, *, with_body: bool) -> None:
        data = place.read_bytes()
        size, wanted = len(data), self.headers.get("Range", "")
        is_part = self.faults.with_ranges and wanted.startswith("bytes=")
        first, last = 0, size - 1
        if is_part:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
        body = data[first : last + 1]
        self.send_response(206 if is_part else 200)
        if is_part:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        if self.faults.with_etag:
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:16]}"')
        if self.faults.with_time:
            self.send_header("Last-Modified", self.date_time_string(place.stat().st_mtime))
        if with_body or self.faults.with_size:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not with_body:
            return
        if self.faults.of(path, self.faults.truncated):
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self.wfile.write(body)

    def _say(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """A client that went away is none of the test's faults."""


@contextlib.contextmanager
def files_over_http(folder: Path, faults: Faults | None = None) -> Iterator[tuple[str, Faults]]:
    """The address of a folder that is served, and its faults."""
    told = faults or Faults()

    class Handler(_Files):
        faults = told

        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def _with_faults(application: Application, faults: Faults) -> Application:
    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with faults.counted(method, path):
            if method == faults.method and (status := faults.of(path, faults.status)):
                start(f"{status} Fault", [("Content-Length", "0")])
                return [b""]
            if method == faults.method and (silence := faults.of(path, faults.silent_s)):
                time.sleep(silence)
            body = b"".join(application(environ, start))
            if method == faults.method and faults.of(path, faults.truncated):
                return [body[: len(body) // 2]]
            return [body]

    return answer


@contextlib.contextmanager
def s3_by_moto() -> Iterator[tuple[Any, Faults]]:
    """moto's S3, which the environment names from now on: a client to fill it with, its faults."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            """Nothing."""

    faults = Faults()
    application = _with_faults(DomainDispatcherApplication(create_backend_app), faults)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.port}"
    patch = pytest.MonkeyPatch()
    for name, value in {"ENDPOINT_URL": endpoint, "DEFAULT_REGION": "us-east-1"}.items():
        patch.setenv(f"AWS_{name}", value)
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        patch.setenv(f"AWS_{name}", "x")
    forget_s3()
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    try:
        yield client, faults
    finally:
        forget_s3()
        patch.undo()
        client.close()
        server.shutdown()
        thread.join()
        server.server_close()


def store_in_memory(monkeypatch: pytest.MonkeyPatch) -> Any:
    """fsspec's own store in memory, under Google's addresses; `calls` has what it did, in order."""
    fsspec: Any = importlib.import_module("fsspec")
    memory = fsspec.filesystem("memory")

    class Store(type(memory)):  # type: ignore[misc]
        protocol = "gs"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]
        calls: ClassVar[list[tuple[str, str]]] = []

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(memory._strip_protocol(path.replace("gs://", "memory://")))

        def pipe_file(self, path: str, value: bytes, **how: Any) -> None:
            self.calls.append(("write", path))
            super().pipe_file(path, value, **how)

        def cat_file(self, path: str, *span: Any, **how: Any) -> bytes:
            self.calls.append(("read", path))
            content: bytes = super().cat_file(path, *span, **how)
            return content

        def rm_file(self, path: str) -> None:
            self.calls.append(("remove", path))
            super()._rm(path)

    system = Store()
    monkeypatch.setitem(objects._systems, "gs", system)
    return system


def forget_s3() -> None:
    """So that the environment is asked anew where S3 is, and who one is."""
    s3fs: Any = importlib.import_module("s3fs")
    objects._systems.pop("s3", None)
    s3fs.S3FileSystem.clear_instance_cache()


def fill_bucket(client: Any, bucket: str, folder: Path, prefix: str) -> None:
    """A bucket with copies of a folder's files below a prefix."""
    with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket=bucket)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            key = f"{prefix}/{file.relative_to(folder).as_posix()}"
            client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())

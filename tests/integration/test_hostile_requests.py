"""Requests that mean harm, over plain sockets: the service refuses them, and goes on well.

Nothing here depends on how long something takes: what is waited for is that a connection ends.
"""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import LIMIT_S, wait_until
from running_service import sent, serving
from small_runs import make_run

from distreid.cli import main
from distreid.data.source import SAMPLE_FOLDER
from distreid.serve.limits import MAX_JSON_BYTES

IDLE = 1000
WAIT_S = 120  # after which a connection that does not end is a fault
IMAGE = sorted((SAMPLE_FOLDER / "query").glob("*.jpg"))[0]
SEARCH = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET = b"GET /v1/gallery HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"

Served = tuple[httpx.Client, subprocess.Popen[str]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that waits for a second where it else waits for long."""
    folder = tmp_path_factory.mktemp("hostile")
    run = make_run(folder / "run", 1)
    assert main(["gallery", "create", str(folder / "g"), "--run", str(run)]) == 0
    limits = {"BODY_S": 1.0, "HEAD_S": 1.0, "ANSWER_S": 3.0, "MAX_CONNECTIONS": IDLE + 50}
    with serving(folder / "g", limits=limits) as served:
        yield served
        client, process = served
        assert client.get("/readyz").json() == {"status": "ready"}
        assert process.poll() is None
        process.terminate()
        said = process.communicate(timeout=LIMIT_S)[1]
        assert "Traceback" not in said and process.returncode == 0, said


def connected(client: httpx.Client) -> socket.socket:
    address = client.base_url.host, client.base_url.port or 0
    return socket.create_connection(address, timeout=WAIT_S)


def to_the_end(connection: socket.socket) -> bytes:
    """What comes until the service closes it."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            found += part
    return found


def said(served: Served, *parts: bytes, ends: bool = False) -> bytes:
    """The answer to these bytes; with `ends` no more are sent, and the service is told."""
    with connected(served[0]) as connection:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            for part in parts:
                connection.sendall(part)
            if ends:
                connection.shutdown(socket.SHUT_WR)
        return to_the_end(connection)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (SEARCH + b"Content-Length: 100\r\n\r\n", b'{"row": 0'),
        (SEARCH + b"Transfer-Encoding: chunked\r\n\r\n", b"9\r\n" + b'{"row": 0'),
        (SEARCH.replace(b"application/json", b"multipart/form-data; boundary=b"), b""),
    ],
)
def test_a_body_that_stops_is_given_up(served: Served, head: bytes, body: bytes) -> None:
    if head.endswith(b"boundary=b\r\n"):
        head += b"Content-Length: 1000\r\n\r\n"
        body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nxx'
    answer = said(served, head, body)
    assert status(answer) == 408 and b"did not arrive within" in answer
    # Half closed: nobody waits any more.
    assert said(served, head, body, ends=True) == b""


@pytest.mark.parametrize("path", ["/v1/images", "/v1/features", "/v1/marks", "/v1/session"])
def test_half_closed_bodies_of_every_route(served: Served, path: str) -> None:
    head = SEARCH.replace(b"/v1/search", path.encode()) + b"Content-Length: 10\r\n\r\n"
    form = head.replace(b"application/json", b"multipart/form-data; boundary=b")
    for answer in (said(served, head, b"{", ends=True), said(served, form, b"--b", ends=True)):
        # What can be refused by its head alone may be.
        assert answer == b"" or status(answer) in (404, 415, 422)


@pytest.mark.parametrize(
    "request_",
    [
        SEARCH + b'Content-Length: -1\r\n\r\n{"row": 0}',
        SEARCH + b'Content-Length: 10\r\nContent-Length: 11\r\n\r\n{"row": 0}',
        SEARCH + b'Content-Length: ten\r\n\r\n{"row": 0}',
        SEARCH + b'Content-Length: 99999999999999999999999\r\n\r\n{"row": 0}',
        SEARCH + b'Transfer-Encoding: chunked\r\n\r\nzz\r\n{"row": 0}',
        SEARCH + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        SEARCH + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFFFFFF\r\n",
        b"GET /v1/gallery\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        GET + b"X: a\x00b\r\n\r\n",
        GET + b"Name with blanks: a\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(served: Served, request_: bytes) -> None:
    answer = said(served, request_)
    # Lengths that are lies are waited for, and end as bodies that do not come.
    assert answer == b"" or 400 <= status(answer) < 500, answer


def test_chunks_without_end_are_cut_off(served: Served) -> None:
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    count = 4 * MAX_JSON_BYTES // (1 << 16)
    answer = said(served, SEARCH + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * count)
    # Whoever still sends when it is refused reads why.
    assert status(answer) == 413 and b"send less at once" in answer
    tiny = b"1\r\n \r\n" * 200_000
    answer = said(served, SEARCH + b"Transfer-Encoding: chunked\r\n\r\n", tiny, b"0\r\n\r\n")
    assert status(answer) in (400, 408)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/../../etc/passwd",
        "/v1/images/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/images/%2e%2e/%2e%2e/etc/passwd",
        "/../../../../etc/passwd",
        "//etc/passwd",
        "/page.css/../../service.py",
        "/page_files/page.js",
        "/v1/images/0%00.png",
        "/v1/images/%ff%fe",
        "/v1/images/1e3",
        "/v1/images/٣",
        "/v1/images/" + "9" * 5000,
        "/v1/rows?first=" + "9" * 5000,
        "/v1/images/0?width=" + "-" * 1000,
        "/%",
        "/" + "a" * 30_000,
    ],
)
def test_paths_lead_nowhere_else(served: Served, path: str) -> None:
    raw = path.encode() if path.isascii() else b"/v1/images/%D9%A3"
    line = b"GET " + raw + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = said(served, line)
    assert status(answer) in (400, 404, 405, 414, 422) and b"root:" not in answer


def test_floods_of_headers_are_refused(served: Served) -> None:
    for headers in (
        b"".join(b"X-%d: %s\r\n" % (i, b"a" * 100) for i in range(2000)),
        b"X: " + b"a" * 200_000 + b"\r\n",
        b"Cookie: " + b"a=b; " * 30_000 + b"\r\n",
        b"Authorization: Bearer " + b"a" * 100_000 + b"\r\n",
    ):
        answer = said(served, GET, headers, b"\r\n")
        assert status(answer) == 431 and b"application/problem+json" in answer
    many = b"".join(b"X-%d: a\r\n" % i for i in range(1000))
    assert status(said(served, GET + many + b"\r\n")) in (200, 400, 431)
    for cookie in (b"distreid_token=\xff\xfe", b'=";,=;', b"distreid_token=" + b'"' * 1000):
        assert status(said(served, GET + b"Cookie: " + cookie + b"\r\n\r\n")) in (200, 400)


@pytest.mark.parametrize(
    "content",
    [
        '{"row": NaN}',
        '{"row": 0, "threshold": Infinity}',
        '{"row": 0, "since": -1e999}',
        '{"feature": [1e308, 1e308, 1e-320]}',
        '{"feature": [' + "0.5," * 65_536 + "0.5]}",
        '{"row": ' + "9" * 4000 + "}",
        '{"row": ' + "9" * 5000 + "}",
        '{"row": 0, "cameras": ["\\ud800"]}',
        '{"row": 0, "persons": ["\\u0000"]}',
        '{"row": 0, "row": [[[]]]}',
        '{"row": true}',
        '{"row": "0"}',
        "[" * 50_000 + "]" * 50_000,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
        "\ufeff{}",
        "",
        "null",
        '"row"',
    ],
)
def test_numbers_and_texts_that_mean_harm(served: Served, content: str) -> None:
    for path in ("/v1/search", "/v1/marks", "/v1/session", "/v2/models/distreid/infer"):
        answer = served[0].post(path, content=content.encode())
        assert answer.status_code < 500, (path, answer.text)
        if answer.status_code >= 400:
            assert json.loads(answer.content)["status"] == answer.status_code


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--",
        b"--b\r\n\r\n\r\n--b--\r\n",
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="top"\r\n\r\n\xff\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="\xff\x00"\r\n\r\nx\r\n',
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\nx\r\n--b--\r\n' % (b"n" * 9000),
        b"--b\r\n" + b"X: y\r\n" * 5000 + b"\r\n\r\n--b--\r\n",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 2000 + b"--b--\r\n",
    ],
)
def test_forms_that_are_none(served: Served, body: bytes) -> None:
    charsets = ("b; charset=punycode", "b; charset=undefined", "b; charset=none")
    for boundary in ("b", "b" * 5000, "", "\u00e9", *charsets):
        kind = f"multipart/form-data; boundary={boundary}".encode()
        for path in ("/v1/features", "/v1/images"):
            answer = served[0].post(path, content=body, headers={b"Content-Type": kind})
            assert 400 <= answer.status_code < 500, answer.text


def test_a_thousand_idle_connections_hold_nobody_up(served: Served) -> None:
    client, _ = served
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 200:
        pytest.skip(f"{hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        idle = [stack.enter_context(connected(client)) for _ in range(IDLE)]
        for number, connection in enumerate(idle):
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                # Nothing, a part of a head, or a request that is answered, and then nothing.
                connection.sendall(
                    (b"", GET, GET.replace(b"close", b"keep-alive") + b"\r\n")[number % 3]
                )
        # Of a third, which asked all together, some may be told to come back.
        wait_until(lambda: client.post("/v1/search", json={"row": 0}).status_code == 200)
        for number, connection in enumerate(idle):
            answer = to_the_end(connection)
            if number % 3 == 2 and answer:
                assert status(answer) in (200, 503)
            else:
                assert answer == b""
    assert client.get("/v1/gallery").status_code == 200


def test_who_does_not_read_is_cut_off(served: Served) -> None:
    def connections() -> int:
        found = 0
        for entry in Path(f"/proc/{served[1].pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += entry.readlink().name.startswith("socket:")
        return found

    before = connections()
    with connected(served[0]) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ask = GET.replace(b"close", b"keep-alive").replace(b"/v1/gallery", b"/openapi.json")
        connection.sendall((ask + b"\r\n") * 200)  # more megabytes than sockets hold
        wait_until(lambda: connections() > before)
        wait_until(lambda: connections() <= before)
    assert served[0].get("/readyz").status_code == 200


def test_pictures_are_none_without_a_checkpoint(served: Served, tmp_path: Path) -> None:
    answer = served[0].post("/v1/images", files=sent(IMAGE))
    assert answer.status_code == 404 and "--checkpoint" in answer.text

"""`distreid serve` as a process at a free port, asked over HTTP."""

from __future__ import annotations

import io
import json
import re
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import LIMIT_S, wait_until
from PIL import Image
from running_service import refused, sent, serving
from small_runs import features_of, make_run

import distreid
from distreid.cli import main
from distreid.data.source import SAMPLE_FOLDER
from distreid.errors import OptionError
from distreid.serve.access import read_tokens
from distreid.serve.limits import MAX_IMAGES, MAX_JSON_BYTES, MAX_TOP

QUERIES = sorted((SAMPLE_FOLDER / "query").glob("*.jpg"))
SEARCHER, CHANGER = "search-search-search", "change-change-change"
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of the sample, g, beside its run."""
    folder = tmp_path_factory.mktemp("sample")
    distreid.extract_features("sample", "sample", folder / "run", num_workers=0, evaluate=False)
    assert main(["gallery", "create", str(folder / "g"), "--run", str(folder / "run")]) == 0
    return folder


@pytest.fixture(scope="module")
def client(sample: Path) -> Iterator[httpx.Client]:
    with serving(sample / "g", "--checkpoint", "sample") as (client, _):
        yield client


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """Of features alone, with a person of an evil name."""
    run = make_run(tmp_path / "run", 1, extra={"person_name": [EVIL] * 30})
    assert main(["gallery", "create", str(tmp_path / "g"), "--run", str(run), "--copy"]) == 0
    return tmp_path / "g"


def test_an_image_finds_what_distreid_search_finds(
    client: httpx.Client, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ["--checkpoint", "sample", "--json", "--not-persons", "2", "--cameras", "1", "2", "3"]
    files = [str(file) for file in QUERIES[:2]]
    assert main(["search", str(sample / "g"), "--image", *files, *words]) == 0
    expected = json.loads(capsys.readouterr().out)["answers"]
    fields = {"not_persons": "2", "cameras": ["1", "2", "3"]}
    found = client.post("/v1/search", files=sent(*QUERIES[:2]), data=fields).json()
    assert found["exact"] and found["generation"] == 1
    for ours, theirs in zip(found["answers"], expected, strict=True):
        names = ("row", "score", "person", "camera")
        assert [[hit[name] for name in names] for hit in ours["hits"]] == [
            [row[name] for name in names] for row in theirs["found"]
        ]
    one = client.post("/v1/search", files=sent(QUERIES[0]), data=fields).json()
    assert one["hits"] == found["answers"][0]["hits"]
    fused = client.post("/v1/search", files=sent(*QUERIES[:2]), data={"fuse": "max"}).json()
    assert [hit["score"] > 0.9999 for hit in fused["hits"][:3]] == [True, True, False]


def test_what_no_row_has_is_said(client: httpx.Client) -> None:
    everybody = client.post("/v1/search", json={"row": 0}).json()
    assert everybody["unmatched"] == [] and len(everybody["hits"]) == 10
    filters = {"cameras": ["1", "99"], "not_persons": ["Ann"], "persons": ["1"]}
    found = client.post("/v1/search", json={"row": 0} | filters).json()
    assert found["unmatched"] == ["camera 99", "person Ann"]
    # Another filter is asked in between, and each has its own.
    assert client.post("/v1/search", json={"row": 0, "until": 5}).json()["unmatched"] == ["a time"]
    again = client.post("/v1/search", json={"row": 0} | filters).json()
    assert (again["unmatched"], again["hits"]) == (found["unmatched"], found["hits"])


def test_features_are_the_bytes_that_extraction_wrote(client: httpx.Client, sample: Path) -> None:
    stored = distreid.open_store(sample / "run")
    place = {Path(path).name: row for row, path in enumerate(stored.paths)}
    files = QUERIES[:11]
    expected = stored.features[[place[file.name] for file in files]]
    answers: dict[int, bytes] = {}

    def ask(number: int) -> None:
        part = files[number : number + 1 + number % 3]
        headers = {"Accept": "application/x-npy"}
        answer = client.post("/v1/features", files=sent(*part), headers=headers)
        assert answer.headers["content-type"] == "application/x-npy"
        answers[number] = answer.content

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(9)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    for number, content in answers.items():
        found = np.load(io.BytesIO(content))
        assert found.tobytes() == expected[number : number + 1 + number % 3].tobytes(), number
    assert len(answers) == 9
    content = client.post("/v1/features", files=sent(files[0])).json()
    assert np.array(content["features"], np.float32).tobytes() == expected[:1].tobytes()
    assert content["dim"] == 512


def test_a_row_s_picture_is_scaled(client: httpx.Client) -> None:
    for query, size in (("", (64, 128)), ("?width=32", (32, 64)), ("?width=2048", (64, 128))):
        answer = client.get(f"/v1/images/0{query}")
        assert answer.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert picture.size == size
    hit = client.post("/v1/search", json={"row": 0, "top": 1}).json()["hits"][0]
    assert client.get(f"/{hit['image']}").status_code == 200


def bomb() -> bytes:
    stream = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(stream, "PNG")
    return stream.getvalue()


def test_mistakes_are_problems(client: httpx.Client) -> None:
    image = QUERIES[0].read_bytes()

    def by_row(status: int, says: str, **asked: Any) -> None:
        refused(client.post("/v1/search", json={"row": 0} | asked), status, says)

    by_row(404, "row 9999: the gallery has no such row", row=9999)
    by_row(422, "top: ", top=0)
    by_row(422, "top: ", top=MAX_TOP + 1)
    by_row(422, "cameras: ", cameras=["1"] * 1001)
    by_row(422, "persons.0: ", persons=["x" * 201])
    by_row(422, "colour: ", colour="red")
    by_row(422, "fuse: ", fuse="median")
    by_row(422, "give no threshold", fuse="rank", threshold=0.5)
    by_row(422, "one of the two", feature=[1.0])
    by_row(400, "the gallery's have 512 dimensions", row=None, feature=[1.0, 2.0])
    by_row(400, "is zero", row=None, feature=[0.0] * 512)
    by_row(422, "threshold: ", threshold=5)
    by_row(422, "since is later than until", since=9, until=8)
    found = client.post("/v1/search", json={"row": 0, "threshold": -1}).json()
    own, *others = found["hits"]
    assert own["row"] == 0 and own["same"] is None and all(hit["same"] for hit in others)
    by_row(422, "threshold: ", threshold=-1.5)
    by_row(422, "a number is wanted, not true or false", row=True)
    by_row(422, "a number is wanted, not true or false", top=True)
    by_row(422, "a number is wanted, not true or false", since=False)
    for text, status, says in (
        ('{"row": NaN}', 400, "NaN is no number"),
        ('{"row": 0, "row": 1}', 422, "row: given twice"),
        ('{"row": 0, "since": 1e999}', 422, "since: "),
        ("[" * 100_000, 400, "nested too deeply"),
        ("{", 400, "no JSON"),
        ("[]", 422, "an object of JSON is wanted"),
        (" " * (MAX_JSON_BYTES + 1), 413, "send less"),
    ):
        refused(client.post("/v1/search", content=text), status, says)
    for files, says in (
        (sent(b"<svg/>"), "image 0 (from 0): no image of a known kind"),
        (sent(image, image[:500]), "image 1 (from 0): "),
        (sent(b""), "image 0 (from 0): the file is empty"),
        (sent(bomb()), "a decompression bomb"),
    ):
        refused(client.post("/v1/features", files=files), 400, says)
    refused(client.post("/v1/features", files=sent(*[image] * (MAX_IMAGES + 1))), 400, "Too many")
    refused(client.post("/v1/features", files=sent(image), data={"top": "3"}), 422, "top: ")
    refused(client.post("/v1/features", data={"image": "a"}), 415, "curl -F image=@FILE")
    content = QUERIES[0].read_bytes()
    refused(client.post("/v1/search", content=content), 415, "as its field `image`")
    kind = {"Content-Type": "image/jpeg"}
    large = b"[" + content * (MAX_JSON_BYTES // len(content) + 1)
    refused(client.post("/v1/search", content=large, headers=kind), 415, "as its field `image`")
    refused(client.post("/v1/search", content=large), 413, "less at once")
    assert client.head("/healthz").status_code == client.head("/readyz").status_code == 200
    refused(client.get("/v1/images/9999"), 404, "no such row")
    refused(client.get("/v1/images/0?width=5"), 422, "width: ")
    refused(client.get("/v1/images/0?widht=50"), 422, "widht: no such parameter; there are width")
    refused(client.get("/v1/rows?top=1&top=2"), 422, "top: given twice")
    assert client.get("/v1/rows?persons=1&persons=2").status_code == 200
    assert client.get("/v1/rows?persons=--5").status_code == 200
    for word in ("-2", "%00", "nobody%00"):
        assert client.get(f"/v1/rows?persons={word}").json()["rows"] == []
    refused(client.get("/v1/rows?persons="), 422, "persons.0: ")
    refused(client.get("/v1/rows?cameras=1&cameras="), 422, "cameras.1: ")
    refused(client.get("/v1/gallery?x=1"), 422, "x: no such parameter")
    refused(client.delete("/v1/rows/2?ersae=true"), 422, "no such parameter; there are erase")
    refused(client.delete("/v1/rows/2?erase=true&erase=false"), 422, "erase: given twice")
    assert client.get("/v1/images/2").status_code == 200
    refused(client.get("/v1/images/..%2f..%2fetc%2fpasswd"), 404, "")
    refused(client.get("/nothing"), 404, "GET /nothing")
    refused(client.put("/v1/search"), 405, "")
    refused(client.get("/v1/gallery", headers={"Host": "evil.example"}), 421, "localhost")
    cross = {"Sec-Fetch-Site": "cross-site"}
    refused(client.post("/v1/search", json={"row": 0}, headers=cross), 403, "another site")
    # All that was refused has left it well.
    assert client.post("/v1/search", files=sent(image)).status_code == 200
    assert client.get("/readyz").json() == {"status": "ready"}


def test_it_tells_of_itself(client: httpx.Client) -> None:
    about = client.get("/v1/gallery").json()
    assert (about["rows"], about["dim"], about["takes_images"]) == (676, 512, True)
    assert about["cameras"] == ["1", "2", "3", "4"]
    client.post("/v1/search", files=sent(QUERIES[0]))
    meters = client.get("/metrics").text
    for line in (
        "distreid_gallery_rows 676.0",
        "distreid_gallery_generation 1.0",
        "distreid_waiting_images 0.0",
        'distreid_stage_seconds_count{stage="forward"}',
        'distreid_requests_total{method="POST",route="/v1/search",status="200"}',
    ):
        assert line in meters, line
    api = client.get("/openapi.json").json()
    assert "security" not in api
    assert {"/v1/search", "/v1/features", "/v1/images/{row}", "/v1/rows/{row}"} <= set(api["paths"])
    for address in ("/", "/docs"):
        answer = client.get(address)
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text and "https://" not in answer.text
        scripts = re.findall(r'<script src="[a-z]+\.js" defer></script>', answer.text)
        assert answer.text.count("<script") == len(scripts)
        for name in scripts:
            assert client.get("/" + name.split('"')[1]).status_code == 200
    assert "POST /v1/search" in client.get("/docs").text


def test_rows_go_and_generations_are_taken_over(gallery: Path) -> None:
    with serving(gallery) as (client, _):
        gone = client.delete("/v1/rows/3").json()
        assert (gone["rows"], gone["erased"], gone["generation"]) == (1, False, 2)
        refused(client.get("/v1/images/3"), 404, "it was removed")
        refused(client.post("/v1/search", json={"row": 3}), 404, "it was removed")
        gone = client.delete("/v1/rows/4?erase=true").json()
        assert gone["erased"] and gone["generation"] > 2
        feature = features_of(1, 30)[4].tolist()
        asked = {"feature": feature, "top": 100, "threshold": 0.99}
        found = client.post("/v1/search", json=asked).json()
        assert {hit["row"] for hit in found["hits"]} == {*range(30)} - {3, 4}
        assert {hit["person"] for hit in found["hits"]} == {EVIL}
        assert not any(hit["same"] for hit in found["hits"])
        # What another program adds is there without a pause.
        more = make_run(gallery.parent / "more", 2)
        assert main(["gallery", "add", str(gallery), "--run", str(more)]) == 0
        wait_until(lambda: client.get("/v1/gallery").json()["rows"] == 58)
        assert client.post("/v1/search", json={"row": 30, "top": 1}).json()["hits"][0]["row"] == 30
        # A gallery that cannot be read is said, and the generation before goes on.
        content = (gallery / "gallery.json").read_bytes()
        (gallery / "gallery.json").write_bytes(content[:50])
        wait_until(lambda: client.get("/readyz").status_code == 503)
        assert client.post("/v1/search", json={"row": 30}).status_code == 200
        (gallery / "gallery.json").write_bytes(content)
        wait_until(lambda: client.get("/readyz").status_code == 200)
        refused(client.post("/v1/features", files=sent(QUERIES[0])), 404, "--checkpoint")
        refused(client.get("/v1/images/30"), 404, "not where it was")


def test_tokens_have_roles(gallery: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"search {SEARCHER}\n\nchange {CHANGER}\n")
    with serving(gallery, "--token-file", file) as (client, process):
        refused(client.get("/v1/gallery"), 401, "a token is wanted")
        refused(client.get("/metrics"), 401, "a token is wanted")
        assert client.get("/").status_code == client.get("/healthz").status_code == 200
        for wrong in ("x", SEARCHER[:-1], "é" * 20):
            header = {b"Authorization": f"Bearer {wrong}".encode()}
            refused(client.get("/v1/gallery", headers=header), 401, "a token is wanted")
        may_search = {"Authorization": f"Bearer {SEARCHER}"}
        api = client.get("/openapi.json", headers=may_search).json()
        assert api["security"] == [{"token": []}] and "security" not in api["paths"]["/v1/search"]
        assert api["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
        assert api["paths"]["/healthz"]["get"]["security"] == []
        may_change = {"Authorization": f"Bearer {CHANGER}"}
        assert client.post("/v1/search", json={"row": 1}, headers=may_search).status_code == 200
        refused(client.delete("/v1/rows/1", headers=may_search), 403, "may search")
        assert client.delete("/v1/rows/1", headers=may_change).json()["rows"] == 1
        picture = sent(QUERIES[0])
        for path in ("/v1/images", "/v1/marks", "/v1/other"):
            refused(client.post(path, files=picture, headers=may_search), 403, "may search")
            for end in ("%0A", "%0D", "%00"):
                answer = client.post(path + end, files=picture, headers=may_search)
                refused(answer, 404, "no such path")
        refused(client.post("/v1/session", content=b'{"token": "\\ud800"}'), 401, "an unknown")
        # The page keeps it in a cookie.
        refused(client.post("/v1/session", json={"token": "no"}), 401, "an unknown token")
        kept = client.post("/v1/session", json={"token": SEARCHER})
        assert kept.json() == {"status": "search"}
        assert {"HttpOnly", "SameSite=strict"} <= set(kept.headers["set-cookie"].split("; "))
        assert client.get("/v1/gallery").status_code == 200
        client.cookies.clear()
        others = {"Cookie": f'prefs={{"dark":1}}; a[b]=1; distreid_token={SEARCHER}'}
        assert client.get("/v1/gallery", headers=others).status_code == 200
        for number in range(20):
            assert client.request(f"MADE-UP-{number}", "/healthz").status_code == 405
        counted = client.get("/metrics", headers=may_search).text
        assert "MADE-UP" not in counted and 'method="other"' in counted
        process.terminate()
        assert SEARCHER not in process.communicate(timeout=LIMIT_S)[1]


def test_tokens_are_read_as_editors_write_them(tmp_path: Path) -> None:
    file, roles = tmp_path / "tokens", {SEARCHER: "search", CHANGER: "change"}
    file.write_bytes(f"\ufeffsearch\t{SEARCHER}\r\n\r\nchange  {CHANGER} \r\n".encode())
    assert read_tokens(file) == roles
    for line in (f"search {SEARCHER} {CHANGER}", "search", SEARCHER, f"all {SEARCHER}"):
        file.write_text(f"change {CHANGER}\n{line}\n")
        with pytest.raises(OptionError, match="tokens, line 2: `search TOKEN` or") as refusal:
            read_tokens(file)
        assert SEARCHER not in str(refusal.value)


def test_what_is_searched_with_is_written_nowhere(sample: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (800, 800, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    assert len(stream.getvalue()) > 1 << 20
    with serving(sample / "g", "--checkpoint", "sample") as (client, process):
        _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, most))  # no byte into any file
        for path in ("/v1/search", "/v1/features"):
            assert client.post(path, files=sent(stream.getvalue())).status_code == 200


def test_sigterm_lets_the_running_request_finish(sample: Path) -> None:
    with serving(sample / "g", "--checkpoint", "sample") as (client, process):
        request = client.build_request("POST", "/v1/features", files=sent(QUERIES[0]))
        kind = request.headers["content-type"]
        body = request.read()
        address = client.base_url.host, client.base_url.port or 0
        with socket.create_connection(address, timeout=LIMIT_S) as begun:
            head = f"POST /v1/features HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            begun.sendall(head.encode() + body[:100])
            # The answer to a later one says that the service has seen the first.
            assert client.get("/healthz").status_code == 200
            process.send_signal(signal.SIGTERM)

            def is_closed() -> bool:
                try:
                    socket.create_connection(address, timeout=LIMIT_S).close()
                except ConnectionRefusedError:
                    return True
                except ConnectionResetError:
                    pass  # it waited to be accepted while the service closed
                return False

            wait_until(is_closed)
            begun.sendall(body[100:])
            answer = b""
            while part := begun.recv(1 << 16):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200 OK") and b'"dim":512' in answer
        assert process.wait(LIMIT_S) == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "what is to be served?"),
        (["nowhere"], "nowhere: no gallery"),
        (["g", "--port", "70000"], "--port 70000: from 0 to 65535"),
        (["g", "--host", "0.0.0.0"], "give a --token-file, or --no-token"),
        (["g", "--token-file", "none"], "--token-file none: No such file"),
        (["g", "--token-file", "short"], "--token-file short, line 1: "),
        (["g", "--checkpoint", "sample"], "--checkpoint: the gallery's features were made elsewh"),
    ],
)
def test_a_mistake_of_the_command_is_one_line(
    gallery: Path,
    words: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(gallery.parent)
    Path("short").write_text("search tooshort\n")
    capsys.readouterr()
    assert (
        main(["serve", "--port", "0", *words] if "--port" not in words else ["serve", *words]) == 2
    )
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and line in said and "tooshort" not in said


def test_a_port_that_is_taken_is_said(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(gallery), "--port", str(port)]) == 2
    assert "choose another --port" in capsys.readouterr().err

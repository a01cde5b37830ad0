"""Object stores over real connections: what is listed, what is read, and every fault on the way."""

from __future__ import annotations

import contextlib
import http.server as http_server
import importlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import numpy as np
import pytest
from conftest import draw
from object_servers import (
    Faults,
    files_over_http,
    fill_bucket,
    forget_s3,
    s3_by_moto,
    store_in_memory,
)

from distreid.data import objects
from distreid.data.archive_index import Stamp
from distreid.data.archives import (
    list_archive,
    listed_stamp,
    ranges_of,
    read_ahead,
    read_member,
)
from distreid.data.locators import Address, locate, path_of
from distreid.data.manifest import Manifest
from distreid.data.objects import CHANGED, IN_FLIGHT, check_runs_address
from distreid.data.source import SAMPLE_FOLDER, open_data
from distreid.errors import DataError, ImageError, OptionError
from distreid.images.preprocess import read

pytest.importorskip("s3fs")
LIMIT = 1 << 20


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PAUSE_S", 0.01)
    monkeypatch.setattr(objects, "TIMEOUT_S", 5.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        draw(tmp_path / f"data/a b/{number}é%23#.jpg", number)
    draw(tmp_path / "data/z.jpg", 9)
    (tmp_path / "data/notes.txt").write_text("of no interest")
    return tmp_path / "data"


@pytest.fixture
def http(folder: Path) -> Iterator[tuple[str, Faults]]:
    with files_over_http(folder) as served:
        yield served


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[Any, Faults]]:
    with s3_by_moto() as store:
        yield store


def rows(manifest: Manifest) -> dict[bytes, bytes]:
    return {name: read(manifest.file(row)) for row, name in enumerate(manifest.path.tolist())}


def test_an_address_keeps_its_slashes_and_is_taken_apart() -> None:
    for text in ("s3://bucket/a/b.jpg", "https://host:8/x y"):
        assert str(path_of(text)) == os.fspath(path_of(text)) == text
        assert str(path_of(str(Path(text)))) == text
        assert str(path_of(text) / "c") == f"{text}/c"
        assert path_of(text).resolve() == path_of(text).absolute() == path_of(text)
    member = locate(Path("s3://bucket/shards/0.tar#/a#/1.jpg#xyxy=1,2,3,4"))
    assert (str(member.file), member.member) == ("s3://bucket/shards/0.tar", "a#/1.jpg")
    assert member.box == (1, 2, 3, 4)
    assert str(member.frame) == "s3://bucket/shards/0.tar#/a#/1.jpg"
    below = locate(Path("s3:/bucket/p#/a/1.jpg"))
    assert (str(below.file), below.member) == ("s3://bucket/p", "a/1.jpg")
    assert locate(path_of("s3://bucket/p#")).member == ""
    assert str(Address("there/s3:/x")) == "there/s3:/x"


def test_a_prefix_is_what_its_folder_is(http: tuple[str, Faults], folder: Path) -> None:
    address, faults = http
    manifest, files = open_data(address), open_data(str(folder))
    assert manifest.fingerprint() == files.fingerprint()
    assert rows(manifest) == rows(files)
    assert str(manifest.root) == f"{address}#"
    assert str(manifest.file(0)) == f"{address}#/a b/0é%23#.jpg"
    assert "1 file that is no image, ignored" in manifest.notes[0]
    # The whole file by one request, after one that asked for its version.
    assert faults.asked["GET", "/z.jpg"] == faults.asked["HEAD", "/z.jpg"] == 1
    assert open_data(f"{address}/a b").path.tolist() == [
        os.fsencode(f"{number}é%23#.jpg") for number in range(4)
    ]


def test_links_of_a_page_that_are_none_of_its_folder_are_left_alone(
    http: tuple[str, Faults], folder: Path
) -> None:
    address, faults = http
    links = (
        "z.jpg",
        "?C=N;O=D",
        "../up.jpg",
        "/",
        "/z.jpg?x=1",
        "mailto:me",
        "gone.jpg",
        "gone/",
        "%2e%2e/%2e%2e/etc/x.jpg",
        "http://[",
    )
    page = "".join(f'<a href="{link}">…</a>' for link in (*links, "http://127.0.0.1:9/q.jpg"))
    (folder / "index.html").write_text(page, encoding="utf-8")
    manifest = open_data(address)
    assert manifest.path.tolist() == [b"z.jpg"]
    notes = " ".join(manifest.notes)
    assert "2 links left out that lead nowhere (first: gone.jpg)" in notes
    assert "3 links left out that have a query or are no paths (first: ../../etc/x.jpg)" in notes
    assert {path for _, path in faults.asked} == {"/", "/z.jpg", "/gone.jpg", "/gone/"}
    (folder / "index.html").write_text('<a href="z.jpg?token=1">…</a>')
    with pytest.raises(DataError, match="nothing lies there; check --data; 1 links left out that"):
        list_archive(path_of(f"{address}/"))


HREFS: dict[str, Callable[[str, str], str]] = {
    "Caddy": lambda here, name: f"./{quote(name)}",
    "parentheses as they are": lambda here, name: quote(here + name, safe="/()'!&,;="),
    "the whole address": lambda here, name: f"ADDRESS{quote(here + name)}",
    "hardly quoted": lambda here, name: re.sub("[%#?]", lambda found: quote(found[0]), name),
}


@pytest.mark.parametrize("href", HREFS)
def test_links_are_followed_however_a_server_writes_them(
    href: str, http: tuple[str, Faults], folder: Path
) -> None:
    address, _ = http
    crops = folder / "crops (1)"
    for number, name in enumerate(
        ("0.jpg", "it's (2)&amp;é#%3F?.jpg", "b (c)/1.jpg", "b (c)/;=.jpg")
    ):
        draw(crops / name, number)
    expected = open_data(str(crops))
    for place in (crops, crops / "b (c)"):
        here = f"/{place.relative_to(folder)}/"
        names = [f"{each.name}{'/' * each.is_dir()}" for each in place.iterdir()]
        links = [HREFS[href](here, name).replace("ADDRESS", address) for name in names]
        page = "".join(f'<A class="x"\nHREF = "{escape(link)}">…</A>' for link in links)
        (place / "index.html").write_text(page, encoding="utf-8")
    manifest = open_data(f"{address}/crops (1)")
    assert not any("left out" in note for note in manifest.notes)
    assert manifest.path.tolist() == expected.path.tolist()
    assert rows(manifest) == rows(expected)


@pytest.mark.parametrize("kind", ["tar", "zip", "gztar"])
def test_archives_are_read_in_place(kind: str, http: tuple[str, Faults], folder: Path) -> None:
    address, faults = http
    file = Path(shutil.make_archive(str(folder.parent / "x"), kind, SAMPLE_FOLDER))
    archive = str(file.rename(folder / file.name))
    expected = rows(open_data(archive))
    faults.asked.clear()
    manifest = open_data(f"{address}/{file.name}")
    assert manifest.layout == "market1501"
    asked = faults.asked["GET", f"/{file.name}"]
    assert asked <= -(-Path(archive).stat().st_size // (1 << 20)) + 3  # not one for each member
    some = range(len(manifest))[::97]
    for row in (*some, *reversed(some)) if kind != "gztar" else some:
        assert read(manifest.file(row)) == expected[manifest.path[row]]


def test_a_prefix_of_archives_and_shards_by_number(http: tuple[str, Faults], folder: Path) -> None:
    address, _ = http
    shutil.make_archive(str(folder / "shards/s-00"), "tar", folder / "a b")
    draw(folder / "more/9.jpg", 9)
    shutil.make_archive(str(folder / "shards/s-01"), "tar", folder / "more")
    (folder / "shards/README.md").write_text("Two shards.")
    files = open_data(str(folder / "shards"))
    for data in (f"{address}/shards", f"{address}/shards/s-{{00..01}}.tar"):
        manifest = open_data(data)
        assert manifest.fingerprint() == files.fingerprint()
        assert rows(manifest) == rows(files)
    with pytest.raises(DataError, match=r"/shards/s-02\.tar: no such bucket or object"):
        open_data(f"{address}/shards/s-{{00..02}}.tar")


@pytest.mark.parametrize("kind", ["file.arrow", "stream.arrow", "parquet", "mkv"])
def test_what_libraries_read_is_read_in_place(
    kind: str, http: tuple[str, Faults], folder: Path
) -> None:
    file = folder / f"x.{kind}"
    if kind == "mkv":
        _write_video(file)
    else:
        _write_table(file, [each.read_bytes() for each in sorted(folder.rglob("*.jpg"))])
    every = "4" if kind == "mkv" else ""
    ours, files = (open_data(f"{at}/{file.name}", every=every) for at in (http[0], folder))
    assert ours.fingerprint() == files.fingerprint()
    for row in reversed(range(len(files))):
        assert read(ours.file(row)) == read(files.file(row))


def _write_table(file: Path, pictures: list[bytes]) -> None:
    arrow: Any = pytest.importorskip("pyarrow")
    table = arrow.table({"image": pictures, "pid": list(range(len(pictures)))})
    if file.suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, file, row_group_size=2)
        return
    ipc: Any = pytest.importorskip("pyarrow.ipc")
    kind = ipc.new_file if "file" in file.name else ipc.new_stream
    with arrow.OSFile(str(file), "wb") as out, kind(out, table.schema) as writer:
        writer.write_table(table)


def _write_video(file: Path) -> None:
    av: Any = pytest.importorskip("av")
    noise = np.random.default_rng(0)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(12):
            pixels = noise.integers(0, 255, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("times", [1, objects.TRIES - 1, objects.TRIES])
@pytest.mark.parametrize("fault", ["503", "429", "truncated", "silent"])
def test_what_fails_is_asked_for_again_so_often(
    fault: str, times: int, http: tuple[str, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, faults = http
    manifest = open_data(address)
    expected = "no answer within 0.2 s"
    if fault == "truncated":
        faults.truncated["/z.jpg"] = times
        expected = ""
    elif fault == "silent":
        monkeypatch.setattr(objects, "TIMEOUT_S", 0.2)
        faults.silent_s["/z.jpg"] = 0.6, times
    else:
        faults.status["/z.jpg"] = int(fault), times
        expected = f"its server answers {fault}"
    last = manifest.file(len(manifest) - 1)
    if times < objects.TRIES:
        assert read(last).startswith(b"\xff\xd8\xff")
    else:
        with pytest.raises(ImageError, match=rf"^{expected}.*, after {times} tries$") as refused:
            read(last)
        assert "\n" not in str(refused.value)
    assert faults.asked["GET", "/z.jpg"] == min(times + 1, objects.TRIES)


@pytest.mark.parametrize("status", [403, 400, 404])
def test_what_will_not_change_is_not_asked_for_again(status: int, http: tuple[str, Faults]) -> None:
    address, faults = http
    manifest = open_data(address)
    faults.status["/z.jpg"] = status, 9
    with pytest.raises(FileNotFoundError if status == 404 else ImageError) as refused:
        read(manifest.file(len(manifest) - 1))
    assert "tries" not in str(refused.value)
    assert faults.asked["GET", "/z.jpg"] == 1


def test_a_listing_survives_faults_and_says_what_it_does_not(http: tuple[str, Faults]) -> None:
    address, faults = http
    faults.status["/"] = 503, 2
    assert len(open_data(address)) == 5
    faults.status["/"] = 503, 99
    with pytest.raises(DataError, match=rf"^{address}: .*503.*; try again, or check --data$"):
        open_data(address)
    faults.status.clear()
    with pytest.raises(DataError, match=r"/gone: no such bucket or object; check --data$"):
        open_data(f"{address}/gone")
    with pytest.raises(DataError, match=r"Cannot connect to host 127\.0\.0\.1:9"):
        open_data("http://127.0.0.1:9/x")


@pytest.mark.parametrize(("etag", "time"), [(True, True), (False, True), (False, False)])
def test_an_object_that_changed_is_refused(
    etag: bool, time: bool, http: tuple[str, Faults], folder: Path
) -> None:
    address, faults = http
    faults.with_etag, faults.with_time = etag, time
    manifest = open_data(address)
    last = manifest.file(len(manifest) - 1)
    before = read(last)
    said = any("only their size is seen" in note for note in manifest.notes)
    assert said == (not etag and not time)
    assert (listed_stamp(last) is None) == said
    (folder / "z.jpg").write_bytes(before + b"x" if said else before[:-3] + b"xxx")
    os.utime(folder / "z.jpg", (1, 1))
    with pytest.raises(ImageError) as refused:
        read(last)
    assert str(refused.value) == CHANGED


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_that_changed_is_refused(
    kind: str, http: tuple[str, Faults], folder: Path
) -> None:
    address, _ = http
    shutil.make_archive(str(folder / "x"), kind, folder / "a b")
    manifest = open_data(f"{address}/x.{kind}")
    read(manifest.file(0))
    with (folder / f"x.{kind}").open("r+b") as file:
        file.seek(600)
        file.write(b"changed")
    with pytest.raises(ImageError) as refused:
        read(manifest.file(1))
    assert str(refused.value) == CHANGED


def test_a_server_without_parts_of_files_or_without_head_or_sizes(
    http: tuple[str, Faults], folder: Path
) -> None:
    address, faults = http
    shutil.make_archive(str(folder / "x"), "zip", folder / "a b")
    shutil.make_archive(str(folder / "x"), "tar", folder / "a b")
    faults.with_size = False
    assert len(open_data(f"{address}/x.tar")) == 4
    with pytest.raises(DataError, match="its server does not say its size; copy it first"):
        objects.pin(path_of(f"{address}/x.tar"), Stamp(-1, 1))
    faults.with_head = False
    assert len(open_data(address)) == 5
    faults.with_ranges = False
    with pytest.raises(DataError, match="does not answer with parts of a file; copy it first"):
        open_data(f"{address}/x.zip")


def test_a_body_that_is_not_wanted_is_not_awaited() -> None:
    sent_MiB = 0

    class Stubborn(http_server.BaseHTTPRequestHandler):
        """Knows neither HEAD nor ranges."""

        def log_message(self, *_: Any) -> None:
            """Nothing."""

        def do_GET(self) -> None:
            nonlocal sent_MiB
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 30))
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(1 << 10):
                    self.wfile.write(bytes(LIMIT))
                    sent_MiB += 1

    server = http_server.ThreadingHTTPServer(("127.0.0.1", 0), Stubborn)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        archive = path_of(f"http://127.0.0.1:{server.server_port}/x.tar")
        assert objects.look_up(archive).size == 1 << 30
        objects.pin(archive, objects.look_up(archive))
        with pytest.raises(ImageError, match="does not answer with parts of a file"):
            objects.read(objects.part(archive, 0, 512))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert sent_MiB < 100


@pytest.mark.parametrize("kind", ["", "/x.tar", "/x.zip"])
def test_requests_begin_ahead_and_none_is_made_twice(
    kind: str, http: tuple[str, Faults], folder: Path
) -> None:
    address, faults = http
    many = folder.parent / "many"
    for number in range(40):
        draw(many / f"{number:02d}.jpg", number)
    shutil.copytree(many, folder / "many")
    for form in ("tar", "zip"):
        shutil.make_archive(str(folder / "many/x"), form, many)
    manifest = open_data(f"{address}/many{kind}", "folder")
    faults.asked.clear()
    faults.together, faults.most_in_flight = IN_FLIGHT, 0
    files = [manifest.file(row) for row in range(len(manifest))]
    read_ahead(ranges_of(files[:30]))
    assert [read(file) for file in files[:20]] == [
        (many / f"{number:02d}.jpg").read_bytes() for number in range(20)
    ]
    read_ahead(ranges_of(files[20:]))
    for number, file in enumerate(files[20:], start=20):
        assert read(file) == (many / f"{number:02d}.jpg").read_bytes()
    assert faults.most_in_flight == IN_FLIGHT
    gets = {path: count for (method, path), count in faults.asked.items() if method == "GET"}
    assert sum(gets.values()) == 40
    assert len(gets) == (1 if kind else 40)
    assert not objects._started


def test_what_is_given_up_before_its_turn_is_never_asked_for(
    http: tuple[str, Faults], folder: Path
) -> None:
    address, faults = http
    for number in range(40):
        draw(folder / f"many/{number:02d}.jpg", number)
    manifest = open_data(f"{address}/many", "folder")
    wanted = ranges_of(map(manifest.file, range(40)))
    faults.asked.clear()
    faults.together = IN_FLIGHT + 1  # no answer yet
    read_ahead(wanted)
    while faults.in_flight < IN_FLIGHT:
        time.sleep(0.01)
    read_ahead(wanted[-1:])
    with faults.lock:
        faults.together = 0
        faults.lock.notify_all()
    assert read(manifest.file(39)) == (folder / "many/39.jpg").read_bytes()
    assert sum(faults.asked.values()) == IN_FLIGHT + 1


def test_s3_is_what_its_files_are(s3: tuple[Any, Faults], folder: Path) -> None:
    client, faults = s3
    shutil.make_archive(str(folder.parent / "x"), "zip", folder)
    fill_bucket(client, "bucket", folder, "some/data")
    fill_bucket(client, "bucket", folder.parent, "all")
    client.put_object(Bucket="bucket", Key="some/data/empty/", Body=b"")
    files = open_data(str(folder))
    manifest = open_data("s3://bucket/some/data")
    assert manifest.fingerprint() == files.fingerprint()
    assert rows(manifest) == rows(files)
    assert rows(open_data("s3://bucket/all/x.zip")) == rows(files)
    faults.status["/z.jpg"] = 503, 2
    faults.truncated["%23#.jpg"] = 2
    assert rows(manifest) == rows(files)
    assert not faults.status["/z.jpg"][1]
    assert not faults.truncated["%23#.jpg"]
    faults.status["/z.jpg"] = 503, 99
    with pytest.raises(ImageError, match=r", after 5 tries$"):
        read(manifest.file(4))
    faults.status.clear()
    client.put_object(Bucket="bucket", Key="some/data/z.jpg", Body=b"another")
    with pytest.raises(ImageError) as refused:
        read(manifest.file(4))
    assert str(refused.value) == CHANGED
    client.delete_object(Bucket="bucket", Key="some/data/z.jpg")
    with pytest.raises(FileNotFoundError):
        read(manifest.file(4))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("s3://no-such-bucket/x", "no such bucket or object; check --data"),
        ("s3://bucket/nothing", "nothing lies there; check --data"),
        ("s3://bucket/none.zip", "no such bucket or object; check --data"),
    ],
)
def test_what_is_not_in_s3_is_one_line(data: str, line: str, s3: tuple[Any, Faults]) -> None:
    s3[0].create_bucket(Bucket="bucket")
    with pytest.raises(DataError) as refused:
        open_data(data)
    assert str(refused.value) == f"{data}: {line}"


def test_without_credentials_s3_is_one_line(
    s3: tuple[Any, Faults], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    forget_s3()
    with pytest.raises(DataError, match=r"^s3://bucket/x: no credentials are found; set them"):
        open_data("s3://bucket/x")
    forget_s3()


def test_a_public_bucket_is_read_without_credentials(
    s3: tuple[Any, Faults], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_bucket(s3[0], "public", folder, "data")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    config: Any = importlib.import_module("fsspec.config")
    settings: dict[str, Any] = {}
    config.set_conf_env(settings, {"FSSPEC_S3_ANON": "true"})  # as when fsspec is imported
    monkeypatch.setitem(config.conf, "s3", settings["s3"])
    forget_s3()
    manifest = open_data("s3://public/data")
    with pytest.raises(ImageError, match=r"^access is refused: are there credentials, and are"):
        read(manifest.file(4))
    for name in manifest.path.tolist():
        key = f"data/{name.decode()}"
        s3[0].put_object_acl(Bucket="public", Key=key, ACL="public-read")
    assert rows(manifest) == rows(open_data(str(folder)))
    forget_s3()


def test_other_stores_go_by_fsspec(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_in_memory(monkeypatch)
    for file in folder.rglob("*.jpg"):
        store.pipe_file(f"gs://bucket/{file.relative_to(folder)}", file.read_bytes())
    manifest = open_data("gs://bucket")
    assert rows(manifest) == rows(open_data(str(folder)))
    store.pipe_file("gs://bucket/z.jpg", b"another")
    with pytest.raises(ImageError) as refused:
        read(manifest.file(4))
    assert str(refused.value) == CHANGED


def test_what_an_address_must_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    for data, why in {
        "https://me:secret@host/x": "no passwords in an address",
        "https://me:secret@host/x-{00..01}.tar": "no passwords in an address",
        "https://host/x.zip?token=secret": "no queries in an address",
        "https://host/x-{00..01}.tar?token=secret": "no queries in an address",
        "gs://bucket/x?token=secret": "no queries in an address",
        "az://container/x?sv=1&sig=secret": "no queries in an address",
        "http://[abc": r"^http://\[abc: its host cannot be read; check the address$",
        "https://[::1": "its host cannot be read",
        "https://me:secret@[::1": "its host cannot be read",
        "https://[::1/x?sig=secret": "its host cannot be read",
        "https://me:secret\u2100@host/x": "its host cannot be read",
    }.items():
        for check in (open_data, check_runs_address):
            with pytest.raises(OptionError, match=why) as refused:
                check(data)
            assert "secret" not in str(refused.value)
    check_runs_address("s3://bucket/a?b")  # where it is a character of a key
    monkeypatch.setitem(sys.modules, "fsspec.asyn", None)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(
        OptionError, match=r"^fsspec is not there: pip install 'distreid\[remote\]'"
    ):
        open_data("https://host/x")


def test_an_fsspec_for_which_forked_processes_wait_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(objects, "_systems", {})
    monkeypatch.setattr(fsspec, "__version__", "2025.5.1")
    with pytest.raises(OptionError, match=r"fsspec 2025.5.1 is too old: pip install 'distreid"):
        open_data("http://127.0.0.1:9/x")


def test_a_missing_package_of_a_store_is_named() -> None:
    try:
        __import__("gcsfs")
    except ImportError:
        with pytest.raises(OptionError, match=r"^gs://bucket/x: .*gcsfs"):
            open_data("gs://bucket/x")
    else:
        pytest.skip("gcsfs is there")


def test_a_forked_process_has_connections_of_its_own(http: tuple[str, Faults]) -> None:
    address, _ = http
    manifest = open_data(address)
    expected = rows(manifest)
    child = os.fork()
    if not child:
        os._exit(int(rows(manifest) != expected))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert rows(manifest) == expected


def test_a_single_image_of_a_prefix_that_was_not_listed(http: tuple[str, Faults]) -> None:
    address, faults = http
    data = read_member(path_of(address), "z.jpg", LIMIT)
    assert data.startswith(b"\xff\xd8\xff")
    assert ("GET", "/") not in faults.asked
    list_archive(path_of(address))
    with pytest.raises(ImageError, match="where 10 are the limit"):
        read_member(path_of(address), "z.jpg", 10)

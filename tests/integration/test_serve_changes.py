"""What programs change through `distreid serve`: images, rows, marks; over HTTP, and restarts."""

from __future__ import annotations

import io
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import LIMIT_S
from PIL import Image
from running_service import refused, sent, serving

import distreid
from distreid.cli import main
from distreid.data.source import SAMPLE_FOLDER
from distreid.search.gallery_check import verify_gallery
from distreid.search.generation import read_generation

QUERIES = sorted((SAMPLE_FOLDER / "query").glob("*.jpg"))
SECRET = b"a secret of the camera"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "run"
    distreid.extract_features("sample", "sample", folder, num_workers=0, evaluate=False)
    return folder


@pytest.fixture
def gallery(run: Path, tmp_path: Path) -> Path:
    assert main(["gallery", "create", str(tmp_path / "g"), "--run", str(run), "--copy"]) == 0
    return tmp_path / "g"


@pytest.fixture
def client(gallery: Path) -> Iterator[httpx.Client]:
    with serving(gallery, "--checkpoint", "sample") as (client, _):
        yield client


def with_metadata(file: Path) -> bytes:
    stream = io.BytesIO()
    with Image.open(file) as picture:
        picture.save(stream, "PNG", exif=b"Exif\x00\x00" + SECRET)
    assert SECRET in stream.getvalue()
    return stream.getvalue()


def test_images_become_rows_with_the_job_s_features(
    client: httpx.Client, gallery: Path, run: Path, tmp_path: Path
) -> None:
    known = {"person": ["Eve", "7", ""], "camera": "yard", "time": ["1000.5", "2000", "3000"]}
    files: list[Path | bytes] = [with_metadata(QUERIES[0]), *QUERIES[1:3]]
    answer = client.post("/v1/images", files=sent(*files), data=known)
    assert answer.status_code == 201
    assert answer.json() == {"rows": [676, 677, 678], "generation": 2}
    # It is found at once, as what it was called.
    hit = client.post("/v1/search", json={"row": 676, "persons": ["Eve"]}).json()["hits"][0]
    assert (hit["row"], hit["person"], hit["camera"], hit["time"]) == (676, "Eve", "yard", 1000.5)
    listed = client.get("/v1/rows", params={"first": 677, "cameras": "yard"}).json()
    assert [(each["row"], each["person"]) for each in listed["rows"]] == [
        (677, "7"),
        (678, None),
    ]
    # Its picture is kept, its metadata nowhere; the feature is what a job makes of either file.
    assert client.get("/v1/images/676").status_code == 200
    assert not any(SECRET in f.read_bytes() for f in gallery.rglob("*") if f.is_file())
    stored = distreid.open_store(run)
    place = {Path(path).name: row for row, path in enumerate(stored.paths)}
    with distreid.open_gallery(gallery) as opened:
        for row, file in zip((676, 677, 678), QUERIES, strict=False):
            expected = stored.features[[place[file.name]]]
            assert opened.features([row]).tobytes() == expected.tobytes()
        kept = opened.reader.file(int(opened.reader.place_of(np.array([676]))[0]))
    # What is sent next is of the same run.
    assert client.post("/v1/images", files=sent(*QUERIES[3:6])).json()["rows"] == [679, 680, 681]
    assert [each.count for each in read_generation(gallery).segments] == [676, 6]
    model = distreid.load_model("sample")
    assert model.features(kept).tobytes() == stored.features[[place[QUERIES[0].name]]].tobytes()
    assert verify_gallery(gallery) == []


def test_what_is_wrong_with_images_is_said_and_adds_nothing(client: httpx.Client) -> None:
    def add(status: int, says: str, *files: Path | bytes, **known: object) -> None:
        data = {name: value for name, value in known.items() if name != "key"}
        headers = {"Idempotency-Key": str(known["key"])} if "key" in known else {}
        answer = client.post("/v1/images", files=sent(*files), data=data, headers=headers)
        refused(answer, status, says)

    add(400, "image 1 (from 0): ", QUERIES[0], b"no image")
    add(422, "person: 3 for 2 images", *QUERIES[:2], person=["a", "b", "c"])
    add(422, "time.0: ", QUERIES[0], time="nan")
    add(422, "person.0: ", QUERIES[0], person="a\nb")
    add(422, "person.0: ", QUERIES[0], person="a" * 201)
    add(422, "colour: ", QUERIES[0], colour="red")
    add(422, "idempotency-key: ", QUERIES[0], key="k" * 201)
    refused(client.post("/v1/images", json={}), 415, "in a form")
    assert client.get("/v1/gallery").json()["generation"] == 1


def test_a_key_adds_once_over_threads_and_a_kill(gallery: Path) -> None:
    answers: list[tuple[str, dict[str, object]]] = []

    def add(client: httpx.Client, number: int) -> None:
        key = f"request {number % 4}"
        files = sent(QUERIES[number % 4])
        with httpx.Client(base_url=client.base_url, timeout=LIMIT_S, trust_env=False) as own:
            answer = own.post("/v1/images", files=files, headers={"Idempotency-Key": key})
        assert answer.status_code == 201, answer.text
        answers.append((key, answer.json()))

    with serving(gallery, "--checkpoint", "sample") as (client, process):
        threads = [threading.Thread(target=add, args=(client, number)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 12
        by_key = {key: answer for key, answer in answers}
        assert all(answer == by_key[key] for key, answer in answers)
        assert {row for each in by_key.values() for row in each["rows"]} == {*range(676, 680)}  # type: ignore[attr-defined]
        generation = client.get("/v1/gallery").json()["generation"]
        assert 2 <= generation <= 5
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)
    with serving(gallery, "--checkpoint", "sample") as (client, _):
        add(client, 1)
        assert answers[-1][1] == by_key["request 1"]
        refused(
            client.post(
                "/v1/images", files=sent(QUERIES[5]), headers={"Idempotency-Key": "request 1"}
            ),
            400,
            "used for other images",
        )
        about = client.get("/v1/gallery").json()
        assert (about["rows"], about["generation"]) == (680, generation)
    assert verify_gallery(gallery) == []


def test_a_hidden_row_can_still_be_erased(client: httpx.Client, gallery: Path) -> None:
    row = client.post("/v1/images", files=sent(QUERIES[0])).json()["rows"][0]
    pictures = [*gallery.glob("images/*/*.png")]
    assert [file.name for file in pictures] == [f"{row}.png"]
    assert client.delete(f"/v1/rows/{row}").json()["erased"] is False
    refused(client.delete(f"/v1/rows/{row}"), 404, "it was removed")
    about = client.get("/v1/gallery").json()
    assert (about["rows"], about["hidden"]) == (676, 1)
    assert client.delete(f"/v1/rows/{row}?erase=true").json()["erased"] is True
    refused(client.delete(f"/v1/rows/{row}?erase=true"), 404, "no such row")
    assert [*gallery.glob("images/*/*.png")] == []


def test_marks_are_kept_and_scored(
    client: httpx.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(client.get("/v1/labels"), 404, "no hit was marked yet")
    by_row = {"row": 0, "right": [3, 4], "wrong": [5]}
    assert client.post("/v1/marks", json=by_row).json() == {"marks": 3, "generation": 2}
    by_image = {"right": ["10"], "wrong": ["11", "12"]}
    answer = client.post("/v1/marks", files=sent(*QUERIES[:2]), data=by_image)
    assert answer.json() == {"marks": 6, "generation": 3}
    back = client.post("/v1/marks", json={"row": 0, "unmarked": [4]})
    assert back.json()["marks"] == client.get("/v1/gallery").json()["marks"] == 5
    for asked, status, says in (
        ({"row": 0}, 422, "no row is marked"),
        ({"row": 0, "right": [1], "wrong": [1]}, 422, "named twice"),
        ({"row": 0, "right": [9999]}, 404, "no such row"),
        ({"row": 0, "wrong": [7, 0]}, 422, "row 0: is the query itself"),
        ({"feature": [0.0] * 512, "right": [1]}, 400, "is zero"),
        ({"right": [1]}, 422, "one of the two"),
    ):
        refused(client.post("/v1/marks", json=asked), status, says)
    (tmp_path / "labels.npz").write_bytes(client.get("/v1/labels").content)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "labels.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"][0]["queries"] == 2
    assert main(["calibrate", str(tmp_path / "labels.npz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["matches"]["total"] == 2


def test_rows_are_listed_without_a_gap(client: httpx.Client) -> None:
    client.delete("/v1/rows/5")
    listed: list[int] = []
    following: int | None = 0
    while following is not None:
        answer = client.get("/v1/rows", params={"first": following, "top": 100}).json()
        listed += [row["row"] for row in answer["rows"]]
        following = answer["following"]
    assert listed == [row for row in range(676) if row != 5]
    assert client.get("/v1/rows", params={"persons": "nobody"}).json()["rows"] == []
    refused(client.get("/v1/rows", params={"top": 1001}), 422, "top: ")

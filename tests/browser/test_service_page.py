"""The page of `distreid serve` in Chromium: pictures are searched, hits lead on, keys suffice."""

from __future__ import annotations

import contextlib
import csv
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from PIL import Image
from running_service import serving
from small_runs import make_run

import distreid
from distreid.cli import main
from distreid.data.source import SAMPLE_FOLDER

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
EVIL = "<img src=x onerror=document.title='broken'>"
QUERIES = sorted((SAMPLE_FOLDER / "query").glob("*.jpg"))
SAYS = "says => Boolean(document.getElementById('status').textContent.match(says))"
ALL_SHOWN = "() => [...document.images].every(one => one.complete && one.naturalWidth)"
TOKEN = "search-search-search"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def served() -> Iterator[Any]:
    """Starts `distreid serve`, and gives its address."""
    with contextlib.ExitStack() as stack:
        yield lambda *words: str(stack.enter_context(serving(*words))[0].base_url).rstrip("/")


def hits(page: Any, says: str) -> list[str]:
    """The captions, when the status says so."""
    wait_until(lambda: page.evaluate(SAYS, says))
    texts: list[str] = page.locator("#hits li").all_inner_texts()
    return texts


def test_pictures_are_searched_and_hits_lead_on(browser: Any, served: Any, tmp_path: Path) -> None:
    distreid.extract_features("sample", "sample", tmp_path / "run", num_workers=0, evaluate=False)
    assert main(["gallery", "create", str(tmp_path / "g"), "--run", str(tmp_path / "run")]) == 0
    address = served(tmp_path / "g", "--checkpoint", "sample")
    for width in (390, 1400):
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []
        faults: list[str] = []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("pageerror", lambda error, faults=faults: faults.append(str(error)))
        page.on("console", lambda line, faults=faults: faults.append(line.text))
        page.goto(address)
        page.locator("#about", has_text="676 rows, generation 1").wait_for()
        page.set_input_files("#images", str(QUERIES[0]))
        first = hits(page, "^24 hits")
        assert re.search(r"1\.0000.*person 1\s+camera 2", first[0], re.S)
        wait_until(lambda page=page: page.evaluate(ALL_SHOWN))  # type: ignore[misc]
        # A hit is reached and clicked by keys alone, and searched with.
        page.locator("#hits button.hit").nth(1).focus()
        page.evaluate("document.getElementById('status').textContent = ''")
        page.keyboard.press("Enter")
        second = hits(page, "^24 hits")
        assert "1.0000" in second[0] and second != first
        assert page.locator("#queries img").count() == 1
        # Filters, and more of them.
        page.select_option("#cameras", "3")
        page.fill("#not_persons", "1")
        page.fill("#top", "5")
        page.evaluate("document.getElementById('status').textContent = ''")
        page.click("#go")
        third = hits(page, "^5 hits")
        assert all("camera 3" in text and not re.search(r"person 1\b", text) for text in third)
        page.click("#more")
        assert hits(page, "^10 hits")[:5] == third
        page.fill("#not_persons", "1, Ann")
        page.click("#go")
        hits(page, "^10 hits.*; no row has person Ann$")
        page.fill("#not_persons", '1, "Roe, Ann", O"Neil')
        page.click("#go")
        hits(page, '^10 hits.*; no row has person Roe, Ann; no row has person O"Neil$')
        # Two pictures of one person are taken together.
        page.set_input_files("#images", [str(file) for file in QUERIES[:2]])
        page.locator("#queries li:nth-child(2)").wait_for()
        hits(page, "^10 hits")
        # A file that is no picture is answered, not swallowed.
        page.set_input_files("#images", {"name": "a.png", "mimeType": "image/png", "buffer": b"x"})
        assert hits(page, "no image of a known kind") == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert all(url.startswith((address, "blob:")) for url in asked)
        assert [line for line in faults if "400" not in line] == []
        page.close()


def test_names_are_text_and_a_token_is_asked_for(browser: Any, served: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1, extra={"person_name": [EVIL] * 30})
    assert main(["gallery", "create", str(tmp_path / "g"), "--run", str(run)]) == 0
    (tmp_path / "tokens").write_text(f"search {TOKEN}\n")
    page = browser.new_page()
    page.goto(served(tmp_path / "g", "--token-file", tmp_path / "tokens"))
    page.locator("#token").wait_for()
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.locator("#about", has_text="30 rows").wait_for()
    page.evaluate("search({ row: 3 })")
    shown = hits(page, "^24 hits")
    assert EVIL in shown[0]
    assert page.title() == "Who is this? distreid"
    assert page.locator("#hits span img").count() == 0
    page.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "run"
    distreid.extract_features("sample", "sample", folder, num_workers=0, evaluate=False)
    return folder


@pytest.fixture
def gallery(run: Path, tmp_path: Path) -> Path:
    assert main(["gallery", "create", str(tmp_path / "g"), "--run", str(run), "--copy"]) == 0
    return tmp_path / "g"


def faults(page: Any) -> list[str]:
    """What axe-core finds serious."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
    found = axe.Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['help']} {[node['html'] for node in each['nodes'][:3]]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


def test_hits_are_marked_exported_and_laid_out_in_time(
    browser: Any, served: Any, gallery: Path, tmp_path: Path
) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(served(gallery, "--checkpoint", "sample"))
    page.locator("#about", has_text="676 rows").wait_for()
    page.locator("#care summary").click()
    page.set_input_files("#add-files", [str(file) for file in QUERIES[:3]])
    page.fill("#add-person", '=Eve, "the" first')
    page.fill("#add-camera", "yard")
    page.fill("#add-time", "2026-01-31T12:34")
    page.click("#add button")
    page.locator("#care-status", has_text="3 of 3 images were added.").wait_for()
    page.locator("#holds", has_text="679").wait_for()
    page.set_input_files("#images", str(QUERIES[0]))
    hits(page, "^24 hits of generation 2")
    page.locator("#timeline summary").click()
    texts = [one.split() for one in page.locator("#hours tr").all_inner_texts()]
    assert texts[0] == ["camera", "2026-01-31", "12:00"]
    assert texts[1][0] == "yard" and 1 <= int(texts[1][1]) <= 3
    with page.expect_download() as download:
        page.click("#csv")
    rows = [*csv.DictReader(io.StringIO(Path(download.value.path()).read_text()))]
    assert len(rows) == 24
    added = next(row for row in rows if row["row"] == "676")
    assert added["person"] == '\'=Eve, "the" first' and added["time"].startswith("2026-01-3")
    # The same on paper: no forms and no buttons.
    page.emulate_media(media="print")
    assert not page.locator("#search").is_visible() and not page.locator("#csv").is_visible()
    assert page.locator("#hits button.hit").nth(0).is_visible()
    assert page.pdf()[:4] == b"%PDF"
    page.emulate_media(media="screen")
    first = page.locator("#hits li").nth(0)
    first.get_by_text("right", exact=True).click()
    page.locator("#status", has_text="1 mark is kept, in generation 3").wait_for()
    page.locator("#hits li").nth(1).get_by_text("wrong", exact=True).click()
    page.locator("#status", has_text="2 marks are kept").wait_for()
    first.get_by_text("wrong", exact=True).click()
    page.locator("#status", has_text="2 marks are kept, in generation 5").wait_for()
    assert first.locator("[aria-pressed=true]").inner_text() == "wrong"
    first.get_by_text("wrong", exact=True).click()
    page.locator("#status", has_text="1 mark is kept").wait_for()
    # A mark is of the query whose hits are shown, also while a later search is under way.
    held: list[Any] = []
    page.route("**/v1/search", lambda route: held.append(route))
    page.locator("#hits button.hit").nth(3).click()
    page.locator("#status", has_text="Searching").wait_for()
    with page.expect_request("**/v1/marks") as marked:
        page.locator("#hits li").nth(2).get_by_text("right", exact=True).click()
    assert marked.value.headers["content-type"].startswith("multipart/form-data")
    held[0].continue_()
    page.unroute("**/v1/search")
    page.locator("#status", has_text="hits of generation").wait_for()
    assert main(["evaluate", str(next(gallery.glob("labels/*.npz"))), "--json"]) in (0, 2)
    assert faults(page) == []
    page.close()


def test_rows_are_hidden_and_erased_after_a_question(
    browser: Any, served: Any, gallery: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder" / "deep"
    folder.mkdir(parents=True)
    for number, file in enumerate(QUERIES[:18]):
        shutil.copy(file, folder / f"{number}.jpg")
    (folder / "notes.txt").write_text("no image")
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(served(gallery, "--checkpoint", "sample"))
    page.locator("#about", has_text="676 rows").wait_for()
    page.locator("#care summary").click()
    page.click("#add button")
    page.locator("#care-status", has_text="Choose images first.").wait_for()
    page.set_input_files("#add-folder", str(folder.parent))
    page.fill("#add-person", "Bob")
    page.click("#add button")
    page.locator("#care-status", has_text="18 of 18 images were added.").wait_for()
    page.fill("#list-persons", "Bob")
    page.click("#list button")
    page.locator("#care-status", has_text="18 rows").wait_for()
    assert page.locator("#rows li").count() == 18
    page.locator("#rows input").nth(0).check()
    page.click("#hide")
    page.click("#sure-no")
    page.locator("#care-status", has_text="Nothing was changed.").wait_for()
    assert "694" in page.locator("#holds").inner_text()
    page.click("#hide")
    assert page.locator("#sure-title").inner_text() == "Hide 1 row?"
    assert faults(page) == []
    page.click("#sure-yes")
    page.locator("#care-status", has_text="1 row hidden.").wait_for()
    for place in range(2):
        page.locator("#rows input").nth(place).check()
    page.click("#erase")
    assert page.locator("#sure-title").inner_text() == "Erase 2 rows?"
    page.keyboard.press("Escape")
    page.locator("#care-status", has_text="Nothing was changed.").wait_for()
    page.click("#erase")
    page.click("#sure-yes")
    page.locator("#care-status", has_text="2 rows erased.").wait_for()
    assert page.locator("#rows li").count() == 15
    assert len([*gallery.glob("images/*/*.png")]) == 16, "the hidden one is still there"
    page.fill("#list-persons", "")
    page.click("#list button")
    page.locator("#care-status", has_text="48 rows").wait_for()
    page.click("#rows-more")
    page.locator("#care-status", has_text="96 rows").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.close()


def test_a_box_is_drawn_on_a_larger_picture(
    browser: Any, served: Any, gallery: Path, tmp_path: Path
) -> None:
    """Two persons side by side; the one in the box is found."""
    with Image.open(QUERIES[0]) as left, Image.open(QUERIES[10]) as right:
        scene = Image.new("RGB", (200, 128))
        scene.paste(left, (0, 0))
        scene.paste(right, (136, 0))
    scene.save(tmp_path / "scene.png")
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(served(gallery, "--checkpoint", "sample"))
    page.locator("#about", has_text="676 rows").wait_for()
    row = page.evaluate("fetch('v1/gallery').then(answer => answer.json()).then(a => a.rows)")
    assert row == 676
    page.set_input_files("#images", str(tmp_path / "scene.png"))
    page.locator("#box").wait_for()
    area = page.locator("#box-canvas").bounding_box()
    page.mouse.move(area["x"] + 0.2, area["y"] + 0.2)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] * 0.32, area["y"] + area["height"], steps=5)
    page.mouse.up()
    assert page.locator("#box-right").input_value() == "32"
    assert faults(page) == []
    page.click("#box-search")
    drawn = hits(page, "^24 hits")
    assert "1.0000" in drawn[0] and "person 1" in drawn[0]
    # By keys alone, the other one.
    page.evaluate("document.getElementById('status').textContent = ''")
    page.set_input_files("#images", str(tmp_path / "scene.png"))
    page.locator("#box").wait_for()  # else keys are pressed before there is a box
    page.locator("#box-left").focus()
    for _ in range(68):
        page.keyboard.press("ArrowRight")
    page.locator("#box-search").focus()
    page.keyboard.press("Enter")
    other = hits(page, "^24 hits")
    assert "1.0000" in other[0] and other[0] != drawn[0]
    # The whole picture, and none.
    page.evaluate("document.getElementById('status').textContent = ''")
    page.set_input_files("#images", str(tmp_path / "scene.png"))
    page.click("#box-cancel")
    assert page.locator("#status").inner_text() == ""
    page.set_input_files("#images", str(tmp_path / "scene.png"))
    page.click("#box-whole")
    assert "1.0000" not in hits(page, "^24 hits")[0]
    page.close()


def test_a_picture_is_pasted_and_dropped(browser: Any, served: Any, gallery: Path) -> None:
    page = browser.new_page()
    page.goto(served(gallery, "--checkpoint", "sample"))
    page.locator("#about", has_text="676 rows").wait_for()
    for kind in ("paste", "drop"):
        page.evaluate("document.getElementById('status').textContent = ''")
        page.evaluate(
            """([kind, bytes]) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], "a.jpg", { type: "image/jpeg" }));
              const event = kind === "paste"
                ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
                : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
              document.body.dispatchEvent(event);
            }""",
            [kind, [*QUERIES[0].read_bytes()]],
        )
        assert "1.0000" in hits(page, "^24 hits")[0]
    page.close()


def test_who_may_search_alone_is_not_offered_changes(
    browser: Any, served: Any, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", 1)
    assert main(["gallery", "create", str(tmp_path / "g"), "--run", str(run)]) == 0
    (tmp_path / "tokens").write_text(f"search {TOKEN}\n")
    page = browser.new_page(color_scheme="dark")
    page.goto(served(tmp_path / "g", "--token-file", tmp_path / "tokens"))
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    page.locator("#about", has_text="30 rows").wait_for()
    page.evaluate("search({ row: 3 })")
    hits(page, "^24 hits")
    page.locator("#care summary").click()
    page.click("#list button")
    page.locator("#care-status", has_text="30 rows").wait_for()
    assert page.locator(".marks, #rows input").count() == 0
    assert not any(each.is_visible() for each in page.locator(".changes").all())
    assert faults(page) == []
    page.close()


def test_a_hit_opens_its_frame(browser: Any, served: Any, tmp_path: Path) -> None:
    run, gallery = tmp_path / "run", tmp_path / "g"
    what = ["--data", "sample-video", "--checkpoint", "sample", "--merge", "tracklet"]
    assert main(["extract", *what, "--out", str(run), "--num-workers", "2", "--no-evaluate"]) == 0
    assert main(["gallery", "create", str(gallery), "--run", str(run / "tracklets")]) == 0
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text))
    page.goto(served(gallery))
    page.locator("#about", has_text="16 rows").wait_for()
    page.evaluate("search({ row: 0 })")
    first = hits(page, "^16 hits")[0]
    assert re.search(r"camera park\s+at \d+\.\d s", first) and "1970" not in first
    wait_until(lambda: page.evaluate(ALL_SHOWN))
    page.get_by_label("the frame of row 0").press("Enter")
    page.locator("#frame[open] img").wait_for()
    wait_until(lambda: page.evaluate(ALL_SHOWN))
    frame = page.locator("#frame img")
    assert frame.get_attribute("alt") == "row 0 in its frame"
    assert frame.evaluate("one => [one.naturalWidth, one.naturalHeight]") == [384, 288]
    assert "camera park" in page.locator("#frame-title").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#frame[open]").count() == 0
    answer = page.request.get(page.url + "v1/images/0?frame=true&width=100")
    with Image.open(io.BytesIO(answer.body())) as small:
        assert small.size == (100, 75)
    assert page.request.get(page.url + "v1/images/99?frame=true").status == 404
    assert faults == []
    page.close()


def test_a_picture_is_turned_as_its_camera_says(
    browser: Any, served: Any, gallery: Path, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "a camera", 6  # to be turned by a quarter, clockwise
    with Image.open(QUERIES[0]) as picture:
        lying = picture.transpose(Image.Transpose.ROTATE_90)
        lying.save(tmp_path / "lying.jpg", quality=100, subsampling=0, exif=exif)
        lying.save(tmp_path / "plain.jpg", quality=100, subsampling=0)
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(served(gallery, "--checkpoint", "sample"))
    page.locator("#about", has_text="676 rows").wait_for()
    scores = []
    for names in (["lying"], ["lying", "lying"]):
        page.evaluate("document.getElementById('status').textContent = ''")
        page.set_input_files("#images", [str(tmp_path / f"{name}.jpg") for name in names])
        first = hits(page, "^24 hits")[0]
        scores.append(float(re.findall(r"\d\.\d{4}", first)[0]))
        assert "person 1" in first
    assert min(scores) > 0.98
    page.set_input_files("#images", str(tmp_path / "plain.jpg"))  # lies: a box is offered
    page.click("#box-whole")
    wait_until(lambda: "person 1\n" not in hits(page, "^24 hits")[0])
    page.locator("#care summary").click()
    page.set_input_files("#add-files", str(tmp_path / "lying.jpg"))
    page.fill("#add-person", "turned")
    page.click("#add button")
    page.locator("#care-status", has_text="1 of 1 images were added.").wait_for()
    page.set_input_files("#images", str(QUERIES[0]))
    wait_until(lambda: any("person turned" in text for text in hits(page, "^24 hits")[:2]))
    assert faults(page) == []
    page.close()

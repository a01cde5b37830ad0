"""Makes the pictures of README and manual: the sample's report and the page of the service.

distreid extract --data sample --checkpoint sample --out runs/sample
distreid report runs/sample
launch/serve --port 8000
python docs/make_pictures.py runs/sample/report.html http://127.0.0.1:8000 [CHROMIUM]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from distreid.data.source import SAMPLE_FOLDER

IMAGES = Path(__file__).parent / "images"
BACKGROUND = "#ffffff"
ROWS = 402  # pixels of the legend and two queries with what they find first
GAP = 24  # pixels between two pictures
MOST = 250_000  # bytes of a file


def main(report: Path, address: str, chromium: str) -> None:
    """Writes every picture."""
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        # As wide as the page's column, at its own density: text stays readable.
        page = browser.new_page(viewport={"width": 1000, "height": 1200})
        page.goto(report.resolve().as_uri())
        scores = beside([top_of(page)])
        curves = beside([shot(figure(page, "CMC")), shot(figure(page, "Cosines"))])
        worst, first = (shot(figure(page, words)) for words in ("lowest AP", "The first queries"))
        found = service_page(browser.new_page(viewport={"width": 1000, "height": 900}), address)
        browser.close()
    save(upper(found, 1130), "page.png")
    scores = scores.resize((curves.width, scores.height * curves.width // scores.width))
    save(scores, "report_scores.png")
    save(curves, "report_curves.png")
    save(upper(worst, 2 * ROWS - 26), "report_ranking.png")
    left = above([scores, curves])
    ranking = above([upper(worst, ROWS), upper(first, ROWS)])
    right = ranking.resize((ranking.width * left.height // ranking.height, left.height))
    save(beside([left, right]), "report.png")


def service_page(page: Page, address: str) -> Image.Image:
    """What the sample's first query finds."""
    page.goto(address)
    page.locator("#about", has_text="rows").wait_for()
    page.fill("#top", "12")
    page.set_input_files("#images", sorted((SAMPLE_FOLDER / "query").glob("*.jpg"))[0])
    page.locator("#hits li").nth(11).wait_for()
    page.wait_for_load_state("networkidle")
    return opened(page.screenshot(full_page=True))


def figure(page: Page, caption: str) -> Locator:
    """The picture with these words below it."""
    return page.locator("figure", has_text=caption).locator("img").first


def top_of(page: Page) -> Image.Image:
    """The page from its title to the end of the table of scores."""
    box = page.locator("table").first.bounding_box()
    assert box
    clip = {"x": 0, "y": 0, "width": 1000, "height": box["y"] + box["height"] + 20}
    return opened(page.screenshot(full_page=True, clip=clip))  # type: ignore[arg-type]


def shot(what: Locator) -> Image.Image:
    """What it looks like."""
    return opened(what.screenshot())


def opened(png: bytes) -> Image.Image:
    """Bytes as an image."""
    return Image.open(io.BytesIO(png)).convert("RGB")


def upper(image: Image.Image, height: int) -> Image.Image:
    """Its upper part."""
    return image.crop((0, 0, image.width, min(height, image.height)))


def beside(images: list[Image.Image]) -> Image.Image:
    """From left to right, as high as the highest."""
    width = sum(image.width for image in images) + GAP * (len(images) - 1)
    whole = Image.new("RGB", (width, max(image.height for image in images)), BACKGROUND)
    place = 0
    for image in images:
        whole.paste(image, (place, 0))
        place += image.width + GAP
    return whole


def above(images: list[Image.Image]) -> Image.Image:
    """From top to bottom, as wide as the widest."""
    height = sum(image.height for image in images) + GAP * (len(images) - 1)
    whole = Image.new("RGB", (max(image.width for image in images), height), BACKGROUND)
    place = 0
    for image in images:
        whole.paste(image, (0, place))
        place += image.height + GAP
    return whole


def save(image: Image.Image, name: str) -> None:
    """Writes a PNG of 256 colours, no larger than `MOST`."""
    IMAGES.mkdir(exist_ok=True)
    file = IMAGES / name
    while True:
        image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.FLOYDSTEINBERG).save(
            file, optimize=True
        )
        if file.stat().st_size < MOST:
            break
        image = image.resize((image.width * 9 // 10, image.height * 9 // 10))
    print(file, image.size, file.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *(sys.argv[3:] or ["/usr/bin/chromium"]))

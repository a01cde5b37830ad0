"""The report page in Chromium: nothing is cut at the widths of a phone, a tablet and a screen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")

# What is wider than the window and does not scroll, as `tag.class`.
CUT = """[...document.querySelectorAll("body *")].filter(
    element => element.getBoundingClientRect().right > innerWidth + 1 && !element.closest(".scroll")
).map(element => element.tagName + "." + element.className)"""


def test_nothing_of_the_report_page_is_cut(run_here: Run, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    done = run_here(
        *("distreid", "extract", "--data", "sample", "--checkpoint", "sample"),
        *("--out", tmp_path / "run", "--no-evaluate"),
    )
    assert done.returncode == 0, done.stderr
    done = run_here("distreid", "report", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width in (390, 800, 1400):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto((tmp_path / "run/report.html").as_uri())
            assert page.evaluate(CUT) == [], width
            assert page.evaluate("document.documentElement.scrollWidth") == width
            # A table that is wider than its region can be scrolled to its end.
            for region in page.query_selector_all(".scroll"):
                end = region.evaluate("r => (r.scrollLeft = 1e6, r.scrollLeft + r.clientWidth)")
                assert end == region.evaluate("r => r.scrollWidth"), width
            assert page.locator("table").first.is_visible()
        browser.close()

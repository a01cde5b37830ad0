"""An ONNX export in Chromium, by onnxruntime-web: the JavaScript that distreid.json gives."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY

from distreid.export.export_description import ExportDescription
from distreid.export.export_options import ExportOptions
from distreid.export.exporting import export
from distreid.export.probe import Probe

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
RUNTIME = REPOSITORY / ".venv/onnxruntime-web/package/dist"
PARTS = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium"),
    pytest.mark.skipif(
        not RUNTIME.exists(), reason="no onnxruntime-web: tests/tools/onnxruntime_web installs it"
    ),
]
PAGE = """<!doctype html><meta charset="utf-8"><script src="ort.wasm.min.js"></script>"""
COMPUTE = """async ({numbers, n}) => {
  ort.env.wasm.numThreads = 1;
  const pixels = Uint8Array.from(numbers);
  return Array.from(%s);
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, without a word."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder with an export and the runtime, and its address."""
    out = tmp_path / "export"
    export(ExportOptions(checkpoint="sample", format="onnx", out=out), lambda line: None)
    for name in PARTS:
        shutil.copy(RUNTIME / name, out)
    (out / "index.html").write_text(PAGE)
    handler = functools.partial(Quiet, directory=str(out))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield out, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_browser_gives_the_features_of_the_job(served: tuple[Path, str]) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    folder, address = served
    line = ExportDescription.read(folder).run["javascript"]
    probe = Probe.read(folder)
    images = probe.images[:2]
    given = {"numbers": images.reshape(-1).tolist(), "n": len(images)}
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        found = json.loads(json.dumps(page.evaluate(COMPUTE % line, given)))
        browser.close()
    features = np.array(found).reshape(len(images), -1)
    assert features.shape == (2, 512)
    assert float((features * probe.exact[:2]).sum(axis=1).min()) >= 0.99999

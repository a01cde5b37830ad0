"""The manual's notebook runs from its first cell to its last, and shows what it promises."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from conftest import REPOSITORY
from nbclient import NotebookClient

NOTEBOOK = REPOSITORY / "docs/notebooks/first_look.ipynb"


def test_the_notebook_has_no_outputs_in_the_repository() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output.get("data", {}) for output in outputs]
    assert sum("image/png" in data for data in shown) == 3
    assert sum("<table" in data.get("text/html", "") for data in shown) >= 3
    printed = "".join(
        output.get("text", "") for output in outputs if output.get("name") == "stdout"
    )
    assert re.search(r"^mAP 0\.8448$", printed, re.MULTILINE)  # as `distreid evaluate` says
    assert float(printed.split()[-1].rstrip("%")) > 50
    assert (tmp_path / "runs/sample/store.h5").exists()

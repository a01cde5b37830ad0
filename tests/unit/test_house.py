"""The house as it is promised: what stands at the top, names that are nobody else's, purposes."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import distreid

HOME = Path(distreid.__file__).parent
PACKAGES = {
    *("interface", "cluster", "benchmark", "job", "inference", "report", "models"),
    *("evaluation", "images", "search", "store", "nearest", "data", "ranks", "host", "serve"),
    "export",
}
MODULES = [file for file in HOME.rglob("*.py") if file.name != "__init__.py"]


def test_only_entries_and_packages_stand_at_the_top() -> None:
    found = {path.name for path in HOME.iterdir() if path.name != "__pycache__"}
    entries = {"__init__.py", "__main__.py", "cli.py", "extract.py", "errors.py", "py.typed"}
    assert found == entries | PACKAGES | {"sample"}


def test_no_two_modules_have_one_name() -> None:
    names = Counter(file.stem for file in MODULES)
    assert [name for name, count in names.items() if count > 1] == []
    assert PACKAGES.isdisjoint(names)


def test_every_module_says_its_purpose_in_its_first_line() -> None:
    for file in HOME.rglob("*.py"):
        purpose = ast.get_docstring(ast.parse(file.read_text()))
        assert purpose and len(purpose.splitlines()[0]) > 20, file


def test_a_package_imports_only_from_the_floors_below() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"],
        cwd=HOME.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "Contracts: 1 kept, 0 broken." in done.stdout

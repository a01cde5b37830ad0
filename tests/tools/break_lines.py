"""Whether the tests notice it when a line of distreid is wrong.

    python tests/tools/break_lines.py --places 30 --seed 1
    python tests/tools/break_lines.py --at distreid/job/status.py:92    every change at that line

In a copy of the tree one place after another is broken: a comparison turned or moved by one, `and`
and `or` exchanged, `+` and `-` exchanged, a number changed by one, a condition negated, a returned
value replaced by None. After each, the tests of that module run, then those of its package, then
all others, until one fails. A place that no test notices wants a test, or makes no difference:
some changes only cost time. The last line is a summary.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MEMORY_BYTES = 12 << 30  # a loop without end must not take the machine's
# A changed number could reach a process, or a limit, that is none of the tests'.
UNTOUCHED_CALLS = {"kill", "killpg", "setrlimit"}
TURNED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}


@dataclass(frozen=True, kw_only=True)
class Change:
    """A place in a file, and what stands there instead."""

    file: Path
    """From the root of the tree."""
    line: int
    start: int
    end: int
    """Of the bytes that are replaced."""
    before: str
    after: str

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        return f"{self.file}:{self.line}  {before}  →  {after}"

    def apply(self, root: Path) -> None:
        """Breaks the file in the tree at `root`."""
        data = (root / self.file).read_bytes()
        changed = data[: self.start] + self.after.encode() + data[self.end :]
        compile(changed, str(self.file), "exec")
        (root / self.file).write_bytes(changed)


def changes(root: Path, file: Path) -> list[Change]:
    """Every change that can be made to a file."""
    source = (root / file).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, broken in _broken(ast.parse(source)):
        assert isinstance(node, ast.expr | ast.Return) and node.end_lineno and node.end_col_offset
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        text = ast.unparse(broken)
        after = text if isinstance(node, ast.Return) else f"({text})"
        before = source[start:end].decode()
        found.append(
            Change(file=file, line=node.lineno, start=start, end=end, before=before, after=after)
        )
    return found


def _broken(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Each node that can be broken, with what replaces it."""
    for node in _walk(tree):
        match node:
            case ast.Compare(ops=[op]):
                for other in TURNED[type(op)]:
                    yield node, _with(node, ops=[other()])
            case ast.BoolOp(op=op):
                yield node, _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            case ast.BinOp(op=ast.Add() | ast.Sub() as op):
                yield node, _with(node, op=ast.Sub() if isinstance(op, ast.Add) else ast.Add())
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                yield node, ast.Constant(value + 1)
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
                yield test, ast.UnaryOp(ast.Not(), test)
            case ast.Return(value=ast.expr() as value) if not _is_none(value):
                yield node, ast.Return(ast.Constant(None))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but annotations, and what is excluded above."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.JoinedStr) and sys.version_info < (3, 12):
                continue  # where its parts stand is not known
            if isinstance(child, ast.Call) and _name(child.func) in UNTOUCHED_CALLS:
                continue
            if isinstance(child, ast.If) and _name(child.test) in ("TYPE_CHECKING", "__name__"):
                continue
            yield from _walk(child)


def _name(node: ast.AST) -> str:
    """The last part of a name; of a comparison, that of its left side."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Compare(left=left):
            return _name(left)
    return ""


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _with(node: ast.AST, **fields: object) -> ast.AST:
    """A copy with other fields."""
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def copy_tree(to: Path) -> None:
    """What git knows of the working tree, or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, to / name)


class Tests:
    """Runs tests in a copy of the tree."""

    def __init__(self, root: Path, tests: Path, limit_s: float) -> None:
        self.root, self.tests, self.limit_s = root, tests, limit_s
        self.scratch = root.parent / "scratch"

    def first_failure(self, file: Path | None = None) -> str:
        """Which test fails, or how else the run ended; empty if all pass.

        The tests nearest to the file run first.
        """
        deadline = time.monotonic() + self.limit_s
        done: list[Path] = []
        for part in self._nearest_first(file):
            ignored = [f"--ignore={each}" for each in done]
            done.append(part)
            left = deadline - time.monotonic()
            if failure := self._run([str(part), *ignored], max(1.0, left)):
                return failure
        return ""

    def _nearest_first(self, file: Path | None) -> list[Path]:
        parts = []
        if file is not None:
            package = self.tests / file.parent.name
            parts = [package / f"test_{file.stem}.py", package]
        return [*(part for part in parts if (self.root / part).exists()), self.tests]

    def _run(self, arguments: list[str], limit_s: float) -> str:
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        environment = os.environ | {
            # A file that is restored within a second may look to Python as when it was broken.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(self.root),
            "TMPDIR": str(self.scratch),
        }
        pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        with (self.scratch / "output").open("w+") as output:
            running = subprocess.Popen(
                [*pytest, *arguments], cwd=self.root, env=environment, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_limit_memory,
            )  # fmt: skip
            try:
                status = running.wait(limit_s)
            except subprocess.TimeoutExpired:
                return f"no end within {self.limit_s:.0f} s"
            finally:
                # Also what the tests have started.
                _end_group(running)
            output.seek(0)
            text = output.read()
        if status in (0, 5):  # 5: no test there that has not run
            return ""
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", text, re.MULTILINE)
        return failed[1] if failed else f"pytest ended with status {status}"


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def chosen(root: Path, known: argparse.Namespace) -> list[Change]:
    """The changes at the places asked for, or as many as asked for by lot."""
    files = sorted((root / "distreid").rglob("*.py"))
    found = {file.relative_to(root): changes(root, file.relative_to(root)) for file in files}
    if known.at:
        asked = [(Path(at.rpartition(":")[0]), int(at.rpartition(":")[2])) for at in known.at]
        return [each for file, line in asked for each in found[file] if each.line == line]
    # A place has several changes: it is drawn as one.
    places: dict[tuple[Path, int, int], list[Change]] = {}
    for each in (each for listed in found.values() for each in listed):
        places.setdefault((each.file, each.start, each.end), []).append(each)
    lot = random.Random(known.seed)
    drawn = lot.sample(list(places), min(known.places, len(places)))
    return [lot.choice(places[place]) for place in drawn]


def main() -> None:
    """A line for each change, and a summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--places", type=int, default=30, help="how many, by lot (30)")
    parser.add_argument("--seed", type=int, default=0, help="of the lot (0)")
    parser.add_argument("--at", nargs="+", metavar="FILE:LINE", help="these instead")
    parser.add_argument("--tests", type=Path, default=Path("tests/unit"), help="(tests/unit)")
    parser.add_argument("--limit", type=float, default=1200, help="seconds for each place (1200)")
    parser.add_argument(
        "--no-baseline", action="store_true", help="do not see first that all tests pass unbroken"
    )
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "tree"
        copy_tree(root)
        tests = Tests(root, known.tests, known.limit)
        todo = chosen(root, known)
        if not known.no_baseline and (failure := tests.first_failure()):
            sys.exit(f"without any change: {failure}")
        unnoticed = 0
        for number, change in enumerate(todo, start=1):
            original = (root / change.file).read_bytes()
            started = time.monotonic()
            change.apply(root)
            failure = tests.first_failure(change.file)
            (root / change.file).write_bytes(original)
            unnoticed += not failure
            print(
                f"{number:3} {'noticed' if failure else 'NOT NOTICED':11} "
                f"{time.monotonic() - started:6.1f} s  {change}"
                + (f"  [{failure}]" if failure else ""),
                flush=True,
            )
    print(f"{len(todo) - unnoticed} of {len(todo)} changes noticed, {unnoticed} not")


if __name__ == "__main__":
    main()

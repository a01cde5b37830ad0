"""A hundred SIGKILLs at random moments of adding, removing, erasing and compacting, while others
search: every reader sees one whole generation, and nothing comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, wait_until
from numpy.typing import NDArray
from small_runs import DIM, features_of, make_run, path_of

from distreid.errors import StoreError
from distreid.search.changes import Manner, compact, create
from distreid.search.gallery import Gallery
from distreid.search.gallery_check import verify_gallery

KILLS = 60
RUNS = 4
COUNT = 30

READER = """
import sys, time
from pathlib import Path
import numpy as np
from small_runs import DIM, features_of
from distreid.errors import StoreError
from distreid.search.gallery import Gallery

gallery, done = Path(sys.argv[1]), Path(sys.argv[2])
query = np.random.default_rng(3).standard_normal(DIM)
unit = query / np.linalg.norm(query)
truth = [features_of(run, 30).astype(np.float64) @ unit for run in range(4)]
answers = 0
while not done.exists():
    opened = Gallery(gallery)
    try:
        for _ in range(3):
            hits = opened.search(query, 10_000)
            paths = [path.decode() for path in opened.column("path", hits.place)[0]]
            opened.check()
            rows = hits.rows[0].tolist()
            assert len(set(rows)) == len(rows) == opened.count, (len(rows), opened.count)
            for path, score in zip(paths, hits.scores[0], strict=True):
                expected = truth[int(path[3:7])][int(path[14:19])]
                assert abs(expected - score) < 1e-6, (path, expected, score)
            answers += 1
    except StoreError as error:
        assert "open the gallery again" in str(error), error
    opened.close()
    time.sleep(0.02)  # who changes it needs the cores too
print(answers)
"""

CREATOR = """
import os, sys
from pathlib import Path
import torch
from distreid.search import index
from distreid.search.changes import Manner, create

folder, runs = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
index.LEAST_ROWS = 50
torch.set_num_threads(1)
quiet = Manner(say=lambda _: None)
create(folder / "warm", runs, quiet, copy=True)
for number in (*range(20), *range(20, 10_000, 11)):  # each of its first steps, then some
    gallery = folder / f"{number}"
    if (pid := os.fork()) == 0:
        left = [number]

        def die(event, arguments):  # before it asks this much of the system
            if event.split(".")[0] in ("open", "os") and str(gallery) in str(arguments[0]):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)

        sys.addaudithook(die)
        create(gallery, runs, quiet, copy=True)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if ended == 0:
        break
    assert ended == 9
    print(number)
    if not (gallery / "gallery.json").exists():
        create(gallery, runs, quiet, copy=True)
"""


def seen(gallery: Path) -> dict[int, bytes]:
    """The rows that can be found, with their paths."""
    opened = Gallery(gallery)
    try:
        hits = opened.search(np.ones(DIM), 100_000)
        paths: NDArray[Any] = opened.column("path", hits.place)[0]
        return dict(zip(hits.rows[0].tolist(), paths.tolist(), strict=True))
    finally:
        opened.close()


def kept(gallery: Path) -> set[int]:
    """The rows that the gallery has, hidden ones too."""
    opened = Gallery(gallery, with_features=False)
    try:
        return {int(row) for run in opened.runs for row in run.columns.row}
    finally:
        opened.close()


def logged(log: Path) -> list[dict[str, Any]]:
    """The whole lines of the worker's log."""
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def after(rows: dict[int, bytes], line: dict[str, Any]) -> dict[int, bytes]:
    """What can be found when a line of the log is done."""
    if line["do"] == "add":
        new = {line["first"] + i: path_of(line["run"], i).encode() for i in range(COUNT)}
        return rows | new
    gone = {*line.get("rows", ())}
    return {row: path for row, path in rows.items() if row not in gone}


@pytest.mark.parametrize("seed", [7])
def test_no_kill_leaves_half_a_change(tmp_path: Path, seed: int) -> None:
    gallery, log = tmp_path / "g", tmp_path / "log.jsonl"
    runs = [make_run(tmp_path / f"{number}", number, COUNT) for number in range(RUNS)]
    create(gallery, runs[:2], Manner(say=print), copy=True)
    environment = os.environ | {
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}",
        "OMP_NUM_THREADS": "1",
    }
    (tmp_path / "reader.py").write_text(READER)
    reader = subprocess.Popen(
        [sys.executable, str(tmp_path / "reader.py"), str(gallery), str(tmp_path / "done")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    worker = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "gallery_worker.py"), str(gallery)]
        + [str(run) for run in runs],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin and worker.stdout
    rng = np.random.default_rng(seed)
    rows = seen(gallery)
    erased: set[bytes] = set()
    lines_read, changed = 0, 0
    for _ in range(KILLS):
        worker.stdin.write("go\n")
        worker.stdin.flush()
        pid = int(worker.stdout.readline())
        # In its first or second change, at any moment of it.
        begun = lines_read + int(rng.integers(1, 3))
        wait_until(lambda begun=begun: len(logged(log)) >= begun)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.4))
        os.kill(pid, signal.SIGKILL)
        assert worker.stdout.readline() == "ended\n"
        lines = logged(log)[lines_read:]
        lines_read += len(lines)
        assert not [line for line in lines if "error" in line], lines
        before = rows
        for number, line in enumerate(lines):
            changed_rows = after(rows, line)
            if number + 1 < len(lines):  # it was done, as the next one was begun
                before = rows = changed_rows
        found = seen(gallery)
        last = after(rows, lines[-1]) if lines else rows
        assert found in (before, last), (lines, len(found), len(before), len(last))
        changed += found != before or len(lines) > 1
        rows = found
        # Erased, where it was erased: what nobody has as hidden either.
        here = kept(gallery)
        for line in lines:
            if line["do"] == "erase" and not here & {*line["rows"]}:
                erased |= {f"row {row}".encode() for row in line["rows"]}
    worker.communicate(timeout=60)
    assert worker.returncode == 0
    (tmp_path / "done").touch()
    output, errors = reader.communicate(timeout=600)
    assert reader.returncode == 0, errors
    assert int(output) > 10 and changed > KILLS // 4 and erased
    # Whoever changes it next finishes what was begun.
    compact(gallery, Manner(say=print))
    assert seen(gallery) == rows and verify_gallery(gallery) == []
    there = {*rows.values()}
    content = b"".join(file.read_bytes() for file in gallery.rglob("*") if file.is_file())
    for run in range(RUNS):
        for place in range(COUNT):
            path, feature = path_of(run, place).encode(), features_of(run, COUNT)[place].tobytes()
            assert (path in content) == (path in there), path
            assert (feature in content) == (path in there), path


def test_create_is_repeated_wherever_it_was_killed(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"{number}", number, 40) for number in range(2)]
    done = subprocess.run(
        [sys.executable, "-c", CREATOR, str(tmp_path / "many"), *map(str, runs)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    kills = done.stdout.split()
    assert len(kills) > 30
    for number in kills:
        gallery = tmp_path / "many" / number
        assert len(seen(gallery)) == 80 and verify_gallery(gallery) == []
        assert sorted(entry.name for entry in (gallery / "runs").iterdir()) == ["000000", "000001"]


def test_a_writer_that_waits_survives_the_death_of_the_first(tmp_path: Path) -> None:
    gallery = tmp_path / "g"
    create(gallery, [make_run(tmp_path / "0", 0)], Manner(say=print))
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom distreid.host.folder_lock import hold\n"
        "with hold(Path(sys.argv[1]), print):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(gallery)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match="another job is at work"):
        compact(gallery, Manner(say=print, wait=False))
    holder.kill()
    holder.communicate()
    assert compact(gallery, Manner(say=print, wait=False))["dropped"] == 0

"""Changes a gallery at random until it is killed: python gallery_worker.py GALLERY RUNS…

Each line of input starts a process that changes it and says on its line of output who it is. The
log says what is being done before it is begun.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from distreid.errors import UserError
from distreid.search import changes, index
from distreid.search.gallery import Gallery

index.LEAST_ROWS = 60


def log(line: dict[str, object]) -> None:
    with (GALLERY.parent / "log.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def change(rng: np.random.Generator) -> None:
    how = changes.Manner(say=lambda _: None, timeout_s=0.05)
    opened = Gallery(GALLERY, with_features=False)
    ids = np.concatenate([run.columns.row for run in opened.runs])
    has = {segment.digest + segment.prefix for segment in opened.generation.segments}
    next_row = opened.generation.next_row
    opened.close()
    what = rng.choice(["add", "add", "remove", "erase", "compact"])
    what = what if len(ids) < 150 else "erase"
    if what == "add" or len(ids) < 60:
        run = RUNS[int(rng.integers(len(RUNS)))]
        prefix = f"{len(has)}-{next_row}-"
        log({"do": "add", "run": int(run.name), "first": next_row})
        changes.add(GALLERY, run, how, copy=True, prefix=prefix)
    elif what == "compact":
        log({"do": "compact"})
        changes.compact(GALLERY, how)
    else:
        # So many that the gallery does not grow for ever.
        count = 7 if len(ids) < 150 else 100
        rows = [int(row) for row in rng.choice(ids, count, replace=False)]
        log({"do": str(what), "rows": rows})
        changes.remove(GALLERY, how, rows=rows, erase=what == "erase")


def warm_up() -> None:
    """What is loaded or compiled when it is first used, so that no process has to again."""
    torch.set_num_threads(1)
    scratch = GALLERY.parent / "scratch"
    how = changes.Manner(say=lambda _: None)
    changes.create(scratch, RUNS[:3], how, copy=True)
    changes.remove(scratch, how, rows=[1, 2], erase=True)
    changes.compact(scratch, how)


def main() -> None:
    warm_up()
    for number, _ in enumerate(sys.stdin):
        pid = os.fork()
        if pid == 0:
            rng = np.random.default_rng(number)
            while True:
                try:
                    change(rng)
                except UserError as error:
                    log({"error": str(error)})
                    os._exit(1)
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("ended", flush=True)


GALLERY, RUNS = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
if __name__ == "__main__":
    main()

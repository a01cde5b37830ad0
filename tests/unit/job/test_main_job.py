"""What the job makes of shards that are complete: stores, scores, and which of them it prints."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from distreid.data.manifest import Manifest, build_manifest
from distreid.host.phases import Phases
from distreid.job.main_job import _finish
from distreid.job.options import ExtractOptions
from distreid.job.runs import Run, make_plan
from distreid.models.checkpoint import load_model
from distreid.store.run_folder import begin
from distreid.store.shards import Rows, write_shard

DIM = 512


def manifest(persons: list[int]) -> Manifest:
    count = len(persons)
    return build_manifest(
        root=Path("/data"),
        layout="csv",
        path=[b"%d.jpg" % row for row in range(count)],
        person_id=persons,
        split=(["query"] * 2 + ["gallery"] * 3) if max(persons) > 0 else [""] * count,
    )


def runs(out: Path, names: list[str], persons: list[int]) -> tuple[ExtractOptions, list[Run]]:
    """Runs whose shards are all there."""
    options = ExtractOptions(data="d", checkpoints=("sample",), out=out, device="cpu")
    model = load_model("sample")
    found = []
    for number, name in enumerate(names):
        plan = make_plan(options, manifest(persons), model, {})
        run = Run(folder=out / name, model=model, plan=plan, todo=begin(out / name, plan))
        features = np.random.default_rng(number).normal(size=(len(persons), DIM))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        rows = Rows(
            features=features.astype(np.float32),
            norm=np.ones(len(persons), np.float32),
            status=np.zeros(len(persons), np.uint8),
        )
        (shard,) = run.todo
        write_shard(run.folder, plan, shard, rows)
        found.append(run)
    return options, found


LABELLED, UNLABELLED = [1, 2, 1, 2, 3], [-1] * 5


def finish(options: ExtractOptions, found: list[Run]) -> str:
    """What goes to the log."""
    log = io.StringIO()
    _finish(options, found, Console(file=log, highlight=False, width=200), Phases())
    return log.getvalue()


def test_one_checkpoints_scores_are_printed_and_nothing_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = finish(*runs(tmp_path, ["a"], LABELLED))
    assert "5 rows, each exactly once" in log
    printed = capsys.readouterr().out
    assert "mAP" in printed and "best mAP" not in printed
    assert (tmp_path / "a/metrics.json").exists()
    assert not (tmp_path / "comparison.json").exists()


def test_several_checkpoints_scores_are_compared_in_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(*runs(tmp_path, ["net_1", "net_2"], LABELLED))
    printed = capsys.readouterr().out
    assert printed.count("mAP − best") == 1 and "best mAP by fastreid: net_" in printed
    assert (tmp_path / "comparison.json").exists()
    assert all((tmp_path / name / "metrics.json").exists() for name in ("net_1", "net_2"))


@pytest.mark.parametrize(
    ("persons", "evaluate", "why_not"),
    [(LABELLED, False, "--no-evaluate"), (UNLABELLED, True, "no row is marked as query")],
)
def test_checkpoints_that_are_not_scored_are_not_compared(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    persons: list[int],
    evaluate: bool,
    why_not: str,
) -> None:
    options, found = runs(tmp_path, ["net_1", "net_2"], persons)
    log = finish(replace(options, evaluate=evaluate), found)
    assert log.count(f"scores none: {why_not}") == 2
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "comparison.json").exists()
    assert not list(tmp_path.glob("*/metrics.json"))

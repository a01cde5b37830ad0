"""What is done with complete runs: re-ranking, comparing, calibrating, the HTML page."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from distreid import cli, extract
from distreid.data.manifest import GALLERY, QUERY
from distreid.evaluation.evaluate import evaluate, labelled
from distreid.report.run_page import ranked_queries, write_page
from distreid.report.scores import INTERVAL
from distreid.store import FeatureStore
from distreid.store.shards import shard_file

OutputOf = Callable[..., str]


@pytest.fixture(scope="module")
def runs(market: Path, osnet_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`plain` and `flip`: two runs on the same images."""
    folder = tmp_path_factory.mktemp("runs")
    for name, flip in (("plain", "--no-flip"), ("flip", "--flip")):
        line = ["--data", market, "--checkpoint", osnet_file, "--out", folder / name, flip]
        assert extract.main([*map(str, line), "--num-workers", "0"]) == 0
    return folder


@pytest.fixture
def output_of(capsys: pytest.CaptureFixture[str]) -> OutputOf:
    """Runs a command in this process; gives what it prints, or its one line of error."""

    def run(*arguments: str | Path, status: int = 0) -> str:
        capsys.readouterr()
        assert cli.main(list(map(str, arguments))) == status
        captured = capsys.readouterr()
        return captured.err.splitlines()[-1] if status else captured.out

    return run


@pytest.mark.parametrize("rerank", ["zhong", "transreid", "fastreid"])
def test_a_run_is_scored_re_ranked(runs: Path, output_of: OutputOf, rerank: str) -> None:
    figures = json.loads(
        output_of("evaluate", runs / "plain", "--protocol", "layumi", "--rerank", rerank, "--json")
    )
    (score,) = figures["scores"]
    assert score["protocol"]["rerank"] == rerank
    assert score["protocol"]["name"] == "layumi, changed"
    assert 0 < score["mAP"] <= 1
    assert score["confidence"]["intervals"]["mAP"]["low"] <= score["mAP"]


def test_what_a_study_needs_is_said_before(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(runs / "plain"), "--rerank", "zhong"]) == 0
    log = capsys.readouterr().err
    assert "scoring 60 queries × 90 images: about " in log
    assert "re-ranking (zhong): up to " in log
    assert cli.main(["evaluate", str(runs / "plain"), "--expand", "aqe"]) == 0
    assert "expansion: " in capsys.readouterr().err
    assert cli.main(["calibrate", str(runs / "plain")]) == 0
    assert "counting 60 × 90 pairs: about " in capsys.readouterr().err
    assert cli.main(["compare", str(runs / "plain"), str(runs / "flip")]) == 0
    log = capsys.readouterr().err
    assert log.count("scoring 60 queries × 90 images: about ") == 2
    assert [line[0] for line in log.splitlines() if str(runs) in line] == ["A", "B"]


def test_expansion_and_re_ranking_want_normalised_features(runs: Path, output_of: OutputOf) -> None:
    assert "mAP" in output_of("evaluate", runs / "plain", "--expand", "aqe")
    error = output_of(
        "evaluate", runs / "plain", "--protocol", "torchreid", "--rerank", "zhong", status=2
    )
    assert error == ("distreid: error: --rerank and --expand want --features normalised")


def test_junk_dropped_or_masked_differs_in_re_ranking_alone(
    runs: Path, output_of: OutputOf
) -> None:
    def score(*options: str) -> float:
        text = output_of("evaluate", runs / "plain", "--protocol", "fastreid", *options, "--json")
        return float(json.loads(text)["scores"][0]["mAP"])

    assert score("--junk", "dropped") == score("--junk", "masked")
    reranked = ["--rerank", "zhong", "--junk"]
    assert score(*reranked, "dropped") != score(*reranked, "masked")


def test_two_runs_are_compared(runs: Path, output_of: OutputOf) -> None:
    found = json.loads(output_of("compare", runs / "plain", runs / "flip", "--json"))
    back = json.loads(output_of("compare", runs / "flip", runs / "plain", "--json"))
    change = found["differences"]["mAP"]
    assert change["value"] == -back["differences"]["mAP"]["value"]
    assert change["low"] <= change["value"] <= change["high"]
    assert change["better"] + change["equal"] + change["worse"] == found["queries"] == 60
    assert 0 < change["p_value"] <= 1
    own = runs / "own.toml"
    own.write_text('name = "own"\nlike = "cross-camera"\n')
    by_own = output_of("compare", runs / "plain", runs / "flip", "--protocol-file", own)
    by_known = output_of("compare", runs / "plain", runs / "flip", "--protocol", "cross-camera")
    assert by_own == by_known.replace("cross-camera", "own")
    table = output_of("compare", runs / "plain", runs / "flip")
    for expected in ("B − A, points", "Rank-1", "mINP", "better most in AP: query/"):
        assert expected in table


def test_a_run_compared_with_itself_is_equal(runs: Path, output_of: OutputOf) -> None:
    found = json.loads(output_of("compare", runs / "plain", runs / "plain", "--json"))
    change = found["differences"]["rank1"]
    assert (change["value"], change["equal"], change["p_value"]) == (0.0, 60, 1.0)


def test_runs_that_do_not_belong_together_are_refused(
    runs: Path, output_of: OutputOf, tmp_path: Path, market: Path, osnet_file: Path
) -> None:
    shutil.copytree(market / "query", tmp_path / "data" / "query")
    shutil.copytree(market / "query", tmp_path / "data" / "bounding_box_test")
    line = ["--data", tmp_path / "data", "--checkpoint", osnet_file, "--out", tmp_path / "run"]
    assert extract.main([*map(str, line), "--num-workers", "0"]) == 0
    error = output_of("compare", runs / "plain", tmp_path / "run", status=2)
    assert "are not of the same images: their rows differ" in error


def test_thresholds_are_calibrated_and_saved(runs: Path, output_of: OutputOf) -> None:
    text = output_of("calibrate", runs / "plain")
    assert "the same person? 120 matches, 4,620 non-matches" in text
    saved = json.loads((runs / "plain" / "calibration.json").read_text())
    assert saved["matches"]["total"] == 120
    wished = {point["wished"]: point for point in saved["verification"]}
    assert wished[0.1]["false_rate"] <= 0.1
    assert wished[1e-6]["threshold"] is None
    assert json.loads(output_of("calibrate", runs / "plain", "--json")) == saved


def test_a_page_shows_the_run(runs: Path, output_of: OutputOf) -> None:
    file = Path(output_of("report", runs / "flip").strip())
    assert file == runs / "flip" / "report.html"
    # A long name may break where <wbr> stands.
    text = file.read_text(encoding="utf-8").replace("<wbr>", "")
    for expected in ("osnet_x0_25", "layumi", "95 %", "threshold", "distractors", "query/00"):
        assert expected in text
    assert "http://" not in text
    assert "https://" not in text
    breakdown = json.loads((runs / "flip" / "breakdown.json").read_text())
    assert breakdown["camera_pairs"]["cameras"] == [1, 2, 3]
    assert len(breakdown["persons"]) == 20
    assert {"path", "ap", "first_rank", "matches"} <= set(breakdown["worst_queries"][0])


def test_a_query_without_a_match_is_drawn_as_that_and_not_among_the_worst(
    runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "plain", tmp_path / "run")
    store = FeatureStore.open(tmp_path / "run")
    others = store.manifest.person_id.copy()
    others[store.manifest.rows(QUERY)] += 10_000
    strangers = replace(store.manifest, person_id=others)
    store = replace(store, plan=replace(store.plan, manifest=strangers))
    text = write_page(store, Console(quiet=True)).read_text(encoding="utf-8")
    assert "query and gallery have no person in common" in text
    assert not (tmp_path / "run" / "pictures" / "worst_queries.png").exists()
    both, scores = [labelled(store, split) for split in (QUERY, GALLERY)], evaluate(store)
    (first,) = ranked_queries(store, scores.of_a_search, both[0], both[1], np.array([0]))
    assert math.isnan(first.ap)
    assert len(first.ranked) == 10


def test_a_page_of_one_camera_draws_what_is_found_without_the_rule(
    runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "plain", tmp_path / "run")
    store = FeatureStore.open(tmp_path / "run")
    one_camera = replace(store.manifest, camera_id=np.ones(len(store.manifest), np.int64))
    store = replace(store, plan=replace(store.plan, manifest=one_camera))
    text = write_page(store, Console(quiet=True)).read_text(encoding="utf-8")
    assert "all camera ids are equal" in text and "(no camera rule)" in text
    assert (tmp_path / "run" / "pictures" / "worst_queries.png").exists()


def test_a_page_has_its_pictures(runs: Path, output_of: OutputOf) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra `pictures`")
    text = Path(output_of("report", runs / "flip").strip()).read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 6
    names = sorted(file.name for file in (runs / "flip" / "pictures").iterdir())
    assert names == [
        "camera_pairs.png",
        "cmc.png",
        "first_queries.png",
        "histogram.png",
        "roc.png",
        "worst_queries.png",
    ]


def test_a_damaged_run_is_not_scored(runs: Path, output_of: OutputOf, tmp_path: Path) -> None:
    shutil.copytree(runs / "plain", tmp_path / "run")
    data = bytearray(shard_file(tmp_path / "run", 1).read_bytes())
    data[9000] ^= 1
    shard_file(tmp_path / "run", 1).write_bytes(data)
    for command in ("evaluate", "calibrate", "report"):
        assert "000001.h5: its bytes do not fit their checksum" in output_of(
            command, tmp_path / "run", status=2
        )


def test_the_table_has_intervals(runs: Path, output_of: OutputOf) -> None:
    text = output_of("evaluate", runs / "plain")
    assert INTERVAL in text
    assert "95 %: of 10,000 draws of the persons searched for" in text

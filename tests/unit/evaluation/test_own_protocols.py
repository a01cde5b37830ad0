"""Protocols of one's own in TOML: the same fields, checked; and the table of all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from naive_protocols import NAIVE, figures
from test_protocols import random_rows, store_of

from distreid import cli
from distreid.errors import OptionError
from distreid.evaluation.evaluate import evaluate
from distreid.evaluation.protocols.known import BENCHMARKS
from distreid.evaluation.protocols.own import read_protocols

CHANGED = """
name = "mine"
asks = "split = query"
leaves_out = ["same person, same camera", "same person, same clothes"]
[counting]
camera_rule = "none"
"""


def read(tmp_path: Path, text: str) -> list[object]:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return list(read_protocols(file))


def test_the_same_rule_written_down_gives_the_same_figures(tmp_path: Path) -> None:
    rows = random_rows(1, 60, 5, ("query", "gallery"))
    file = tmp_path / "mine.toml"
    file.write_text(CHANGED)
    (mine,) = read_protocols(file)
    (found,) = evaluate(store_of(rows), [mine]).scores
    expected = figures(NAIVE["ltcc-changed-clothes"], rows, 0)
    assert found.mAP == pytest.approx(expected["mAP"], abs=2e-6)
    assert found.rank(1) == pytest.approx(expected["rank1"], abs=2e-6)


def test_several_and_changes_of_known_ones(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        '[[protocol]]\nname = "a"\nlike = "sysu-mm01-all-single"\n[protocol.draw]\ntimes = 3\n'
        '[[protocol]]\nname = "b"\nlike = "mars"\nasked = "split = gallery"\n'
        '[protocol.counting]\nap = "standard"\n[protocol.places]\n3 = "2"\n',
    )
    sysu, mars = BENCHMARKS["sysu-mm01-all-single"], BENCHMARKS["mars"]
    assert sysu.draw is not None
    assert found[0] == replace(sysu, name="a", layouts=(), draw=replace(sysu.draw, times=3))
    assert found[1] == replace(
        mars,
        name="b",
        layouts=(),
        asked="split = gallery",
        places=(("3", "2"),),
        counting=replace(mars.counting, name="own", as_in="", ap="standard"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\nask = "split = query"\n', r"line 2: ask: no such field; there are asked, as"),
        ('name = "a"\nasks = "split"\n', r"line 2: asks: 'split': conditions are such as"),
        ('name = "a"\n\nasks = 3\n', "line 3: asks: 3: a text in quotes is wanted"),
        ('name = "a"\nopen_set = 1\n', "line 2: open_set: 1: true or false is wanted"),
        ('name = "a"\nleaves_out = "x"\n', "line 2: leaves_out: a list of texts is wanted"),
        ('name = "a"\nleaves_out = ["person"]\n', "line 2: leaves_out: .* such as 'same person, "),
        ('name = "a"\nleaves_out = ["other clothes"]\n', "line 2: .* something must be the same"),
        ('name = "a"\ncmc = "x"\n', "line 2: cmc: 'x': choose one of images, persons"),
        ('name = "a"\n[draw]\ntimes = 0\n', "line 3: times: must be at least 1, got 0"),
        ('name = "a"\n[draw]\nhow = "listed"\n', "draw.listed: name the column"),
        ('name = "a"\n[draw]\nhows = "x"\n', "line 3: hows: no such field; there are times"),
        ('name = "a"\n[counting]\nap = "x"\n', "line 3: ap: 'x': choose one of standard, trapez"),
        ('name = "a"\n[counting]\naps = "x"\n', "line 3: aps: no such field"),
        ('name = "a"\nlike = "x"\n', "line 2: like: 'x' is no benchmark"),
        ('asks = "split = query"\n', "name: each protocol needs one"),
        ('name = "A b"\n', "line 1: name: 'A b': small letters"),
        ('name = "mars"\n', "line 1: name: mars is taken"),
        ('[[protocol]]\nname = "a"\n[[protocol]]\nname = "a"\n', "line 4: name: a is taken"),
        ('x = 1\n[[protocol]]\nname = "a"\n', r"line 1: x: write each protocol below"),
        ("name =\n", r"no TOML: .*line 1"),
        ('name = "a"\nlike = ["x"]\n', r"line 2: like: \['x'\] is no benchmark"),
        ("protocol = [1, 2]\n", "line 1: protocol: 1, number 0: write it below"),
        ("protocol = []\n", "line 1: protocol: there is none"),
        ('name = "a"\n[counting]\ndepth = 1.5\n', "line 3: depth: 1.5: a whole number is wanted"),
        ('name = "a"\n[counting]\nseed = "x"\n', "line 3: seed: 'x': a whole number is wanted"),
        ('name = "a"\n[counting]\nseed = true\n', "line 3: seed: True: a whole number is wanted"),
        ('name = "a"\n[counting]\nseed = -5\n', "line 3: seed: -5: from 0 to 4,294,967,295"),
        ('name = "a"\nasks = "camera = 1 |"\n', r"line 2: asks: .*: there is nothing between two"),
        ('name = "a"\n[draw]\ntimes = 1001\n', "line 3: times: must be at most 1,000, got 1,001"),
        ('name = "a"\n[draw]\neach = [1, 2]\n', r"line 3: each: \[1, 2\]: a list of texts is want"),
        ("x = " + "[" * 100_000, "no TOML: "),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"--protocol-file .*none\.toml: No such file"):
        read_protocols(tmp_path / "none.toml")


def test_the_table_names_every_benchmark_with_rule_and_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["protocols"]) == 0
    text = capsys.readouterr().out
    for each in BENCHMARKS.values():
        assert f"{each.name}: {each.data}\n    {each.rule}\n    source: {each.source}\n" in text
        assert each.rule and each.source and each.trap and each.data
    assert cli.main(["protocols", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows[: len(BENCHMARKS)]] == list(BENCHMARKS)
    assert rows[-1]["kind"] == "counting"


def test_a_byte_order_mark_is_no_field(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('\ufeffname = "a"\n', encoding="utf-8")
    assert [each.name for each in read_protocols(tmp_path / "own.toml")] == ["a"]

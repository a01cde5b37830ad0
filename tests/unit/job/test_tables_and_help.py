"""What `distreid models`, `distreid layouts` and `--help` show, and the names near a wrong one."""

from __future__ import annotations

import argparse
import json
import re

import pytest

from distreid import cli
from distreid.data.layouts import LAYOUTS
from distreid.errors import OptionError
from distreid.job.options import FIRST_HEADING, NEEDED
from distreid.models.table import MODELS, find_model


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == 0
    return capsys.readouterr().out


def test_every_model_is_listed_whole_at_the_width_of_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = printed(capsys, "models").splitlines()
    assert max(map(len, lines)) <= 88  # the last line is a sentence
    words = {word for line in lines for word in line.split()}
    assert set(MODELS) <= words
    assert {"torchreid", "fast-reid"} <= words


def test_models_are_rows_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(printed(capsys, "models", "--json"))
    assert {row["name"] for row in rows} == set(MODELS)
    (hacnn,) = (row for row in rows if row["name"] == "hacnn")
    assert hacnn["family"] == "torchreid" and hacnn["dimensions"] == "1024"
    assert hacnn["input"] == "160×64 only, bilinear"


def test_every_layout_has_a_sketch_of_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "layouts")
    for name, layout in LAYOUTS.items():
        assert layout.sketch, name
        about = re.search(rf"^{name}: .*\n((?:    .*\n)+)  recognised by: ", text, re.MULTILINE)
        assert about, name
        assert [line.strip() for line in about[1].splitlines()] == list(layout.sketch)
    assert "`" not in text


def test_layouts_are_rows_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(printed(capsys, "layouts", "--json"))
    assert [row["name"] for row in rows] == list(LAYOUTS)
    assert rows[0]["counts"] == {"query": 3368, "gallery": 15913}


def test_a_wrong_model_is_answered_with_the_three_nearest() -> None:
    with pytest.raises(OptionError) as error:
        find_model("osnet_x025", {}, {})
    assert str(error.value) == (
        "--model osnet_x025: not known; near it: osnet_x0_25, osnet_x0_5, osnet_x0_75; "
        "distreid models lists all"
    )


def test_a_wrong_layout_is_answered_with_the_three_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["inspect", "--data", "sample", "--layout", "market"])
    error = capsys.readouterr().err
    assert "--layout: market: not known; near it: market1501, " in error
    assert error.count("\n") == 1 and len(error) < 200


def test_help_begins_with_what_one_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["extract", "--help"])
    text = capsys.readouterr().out
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == [
        "options",
        FIRST_HEADING,
        "how the images are read",
        "how the features are computed",
        "the machine",
        "the result",
    ]
    first = text.partition(f"{FIRST_HEADING}:\n")[2].partition("\n\n")[0]
    assert len(NEEDED) == 10
    assert set(re.findall(r"^  (--[a-z-]+)", first, re.MULTILINE)) == set(NEEDED)


def test_every_option_says_what_it_is_for() -> None:
    silent: list[str] = []

    def look(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for each in action.choices.values():
                    look(each)
            elif not action.help:
                silent.append(f"{parser.prog} {action.dest}")

    look(cli.command_parser())
    assert silent == []

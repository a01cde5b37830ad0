"""A table is never cut, however narrow the terminal."""

from __future__ import annotations

import pytest
from rich.table import Table

from distreid.host.terminal import print_whole
from distreid.models.description import model_rows, terminal_tables


@pytest.mark.parametrize("columns", ["10", "20", "50", "80", "300"])
def test_names_are_whole_on_any_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    print_whole(terminal_tables())
    printed = capsys.readouterr().out
    words = set(printed.split())
    assert {row["name"] for row in model_rows()} <= words
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed


def test_what_is_printed_is_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name")
    table.add_row("[red]a[/]")
    print_whole(table, "[b]")
    assert "[red]a[/]" in capsys.readouterr().out

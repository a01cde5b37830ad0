import atexit
import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

from distreid import cli, extract
from distreid.host.garbage import imports_not_collected


@pytest.mark.parametrize("main", [cli.main, extract.main])
def test_only_a_process_of_its_own_ends_without_collecting(
    main: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    registered: list[Any] = []
    monkeypatch.setattr(atexit, "register", registered.append)
    with pytest.raises(SystemExit):
        main(["--help"])
    assert registered == []
    monkeypatch.setattr(sys, "argv", ["distreid", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert registered == [gc.freeze]


def test_what_is_imported_is_never_looked_through_and_all_else_is() -> None:
    before = gc.get_freeze_count()
    try:
        with imports_not_collected():
            assert not gc.isenabled()
            kept: list[list[int]] = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(kept)
    finally:
        gc.unfreeze()


def test_who_collects_nothing_is_left_alone() -> None:
    before = gc.get_freeze_count()
    gc.disable()
    try:
        with imports_not_collected():
            pass
        assert not gc.isenabled()
        assert gc.get_freeze_count() == before
    finally:
        gc.enable()

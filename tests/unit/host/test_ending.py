import atexit
import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

from distreid import cli, extract


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

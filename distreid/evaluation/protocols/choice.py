"""The protocols that a user names: ways of counting, benchmarks, and those of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distreid.errors import OptionError
from distreid.evaluation.protocol import CHOICES, PRESETS, Protocol
from distreid.evaluation.protocols.known import BENCHMARKS
from distreid.evaluation.protocols.rule import Benchmark


def chosen_protocols(
    names: Sequence[str] | None,
    changes: Mapping[str, Any],
    own: Sequence[Benchmark] = (),
) -> list[Protocol | Benchmark] | None:
    """The protocols of these names with some conventions changed; None if nothing is asked for.

    `own` are further benchmarks, all of which are asked for where no name is given. Changes without
    a name are of `fastreid`. OptionError for a name that is none.
    """
    if names is None and not changes and not own:
        return None
    if unknown := sorted(changes.keys() - {*CHOICES, "exclude_same", "seed", "depth"}):
        raise OptionError(f"no convention is named {', '.join(unknown)}; see distreid.evaluate")
    if names is None:
        names = [benchmark.name for benchmark in own] or ["fastreid"]
    known: dict[str, Protocol | Benchmark] = {**PRESETS, **BENCHMARKS}
    known |= {benchmark.name: benchmark for benchmark in own}
    chosen: list[Protocol | Benchmark] = []
    for name in names:
        if name not in known:
            import difflib  # a tenth of a second, and mistakes are rare

            alike = difflib.get_close_matches(name, known, n=3) or list(PRESETS)
            raise OptionError(
                f"--protocol {name or repr(name)}: no such name; {', '.join(alike)} are; distreid "
                "protocols lists all"
            )
        found = known[name]
        if isinstance(found, Benchmark):
            chosen.append(found.changed(dict(changes)))
        else:
            # A protocol that was changed is nobody's any more.
            renamed: dict[str, Any] = {"name": f"{name}, changed", "as_in": ""} if changes else {}
            chosen.append(replace(found, **renamed, **changes))
    return chosen

"""Tables on stdout, whole: where the terminal is narrower than they are, it breaks their lines."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType

WIDE = 1000  # characters; more than any table has
STEP = 5  # characters
CUT = "\N{HORIZONTAL ELLIPSIS}"  # what rich puts for what it leaves out


def print_whole(*shown: RenderableType) -> None:
    """Prints tables and texts, without markup, as wide as the terminal; wider where rich would
    leave out a part of a name or a number. A file or a pipe is 80 characters wide, or COLUMNS."""
    console, all_of_it = Console(highlight=False, markup=False), Group(*shown)
    own = _cuts(all_of_it, WIDE)
    while console.width < WIDE and _cuts(all_of_it, console.width) > own:
        console.width += STEP
    console.print(all_of_it)


def _cuts(shown: RenderableType, width: int) -> int:
    console = Console(width=width, color_system=None, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(shown)
    return captured.get().count(CUT)

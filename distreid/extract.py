"""The main job's command line.

    torchrun --nproc_per_node=8 -m distreid.extract --data DIR --checkpoint FILE --out DIR

Without torchrun, `python -m distreid.extract …` does the same in one process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from distreid.errors import exit_status
from distreid.options import CommandParser, add_extract_options, parse_extract_options
from distreid.signals import signals_wait

DESCRIPTION = (
    "Turns a trained person re-identification checkpoint and a set of images into a verified "
    "feature store, in the original order, and scores it."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, runs the job, and gives the exit status."""
    parser = CommandParser(prog="python -m distreid.extract", description=DESCRIPTION)
    add_extract_options(parser)
    parsed = parser.parse_args(arguments)
    return exit_status(lambda: extract(parsed))


def extract(parsed: argparse.Namespace) -> None:
    """Runs the job with parsed options."""
    options = parse_extract_options(parsed)
    with signals_wait():
        # Only now: torch takes seconds to import, and --help shall not wait for it.
        from distreid.distributed import World
        from distreid.job import run

        run(options, World.from_environment())


if __name__ == "__main__":
    sys.exit(main())

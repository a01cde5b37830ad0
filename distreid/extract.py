"""The main job's command line.

    torchrun --nproc_per_node=8 -m distreid.extract --data DIR --checkpoint FILE --out DIR

Without torchrun, `python -m distreid.extract …` does the same in one process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from distreid.errors import UserError
from distreid.options import add_extract_options, parse_extract_options

DESCRIPTION = (
    "Turns a trained person re-identification checkpoint and a set of images into a verified "
    "feature store, in the original order, and scores it."
)
EXIT_USER = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, runs the job, and gives the exit status."""
    parser = argparse.ArgumentParser(prog="distreid.extract", description=DESCRIPTION)
    add_extract_options(parser)
    return extract(parser.parse_args(arguments))


def extract(parsed: argparse.Namespace) -> int:
    """Runs the job with parsed options; errors become one line on stderr."""
    try:
        options = parse_extract_options(parsed)
        # Only now: torch takes seconds to import, and --help shall not wait for it.
        from distreid.distributed import FailedElsewhere, World
        from distreid.job import Stopped, run

        try:
            run(options, World.from_environment())
        except Stopped as stopped:
            print(f"distreid: {stopped}; run the same command again to continue", file=sys.stderr)
            return 128 + stopped.signal_number
        except FailedElsewhere:
            return EXIT_USER
    except UserError as error:
        print(f"distreid: error: {error}", file=sys.stderr)
        return EXIT_USER
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The main job's command line.

    torchrun --nproc_per_node=8 -m distreid.extract --data DIR --checkpoint FILE --out DIR

Without torchrun, `python -m distreid.extract …` does the same in one process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from distreid.errors import FailedElsewhere, OptionError, exit_status
from distreid.host.garbage import end_without_collecting, imports_not_collected
from distreid.host.signals import signals_wait
from distreid.job.options import CommandParser, add_extract_options, parse_extract_options
from distreid.ranks.launcher import is_first_rank, let_first_rank_speak, say_last

DESCRIPTION = (
    "Turns a trained person re-identification checkpoint and a set of images into a verified "
    "feature store, in the original order, and scores it."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, runs the job, and gives the exit status."""
    if arguments is None:  # the process is the job's
        end_without_collecting()
    parser = CommandParser(prog="python -m distreid.extract", description=DESCRIPTION)
    add_extract_options(parser)
    return exit_status(lambda: extract(parser.parse_args(arguments)), say_last)


def extract(parsed: argparse.Namespace) -> None:
    """Runs the job with parsed options."""
    try:
        options = parse_extract_options(parsed)
    except OptionError as error:
        if is_first_rank():
            raise
        let_first_rank_speak()
        raise FailedElsewhere("rank 0 says the same") from error
    has_torch = "torch" in sys.modules
    with signals_wait():
        # Only now: torch takes seconds to import, and --help shall not wait for it.
        with imports_not_collected():
            from distreid.host.phases import Phases, seconds_since_start
            from distreid.job.main_job import run
            from distreid.ranks.group import World

        phases = Phases()
        if not has_torch:  # else somebody's process, which has done other things before
            phases.seconds["start"] = seconds_since_start()
        run(options, World.from_environment(), phases)


if __name__ == "__main__":
    sys.exit(main())

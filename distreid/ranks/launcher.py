"""Who started this process, without importing torch; and how an error is said so that it is seen.

torchrun ends with a report of its own, forty lines that say nothing of the reason. So a reason is
printed after them, by a small process that waits for torchrun's end.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path

FIRST_RANK_SPEAKS_S = 10.0  # Python may start that much later on a busy host

# Waits for a process to end, a minute at most, and prints a line.
LAST_WORD = """
import os, select, sys
try:
    select.select([os.pidfd_open(int(sys.argv[1]))], [], [], 60)
except OSError:
    pass
print(sys.argv[2], file=sys.stderr)
"""


def is_first_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is rank 0, or the only process: what every rank would say is said by it."""
    return environment.get("RANK", environment.get("SLURM_PROCID", "0")) == "0"


def let_first_rank_speak() -> None:
    """For a rank that ends because of what rank 0 says too: were it to end before, torchrun would
    stop rank 0 in the midst of its start. Ended by torchrun as soon as rank 0 has spoken."""
    time.sleep(FIRST_RANK_SPEAKS_S)


def say_last(line: str) -> None:
    """Prints a line on stderr as the last thing that the user sees."""
    # In a log nobody minds the order, and what is written at once cannot be lost.
    in_log = stat.S_ISREG(os.fstat(sys.__stderr__.fileno()).st_mode) if sys.__stderr__ else True
    if in_log or not (_ends_with_torchrun(os.environ) and _print_after(os.getppid(), line)):
        print(line, file=sys.stderr)


def _ends_with_torchrun(environment: Mapping[str, str]) -> bool:
    """Whether torchrun started this process and will now report its end; and whether a process
    outlives torchrun, which none does in a container whose first process torchrun is, or in a
    step of SLURM's."""
    if "TORCHELASTIC_RUN_ID" not in environment or "SLURM_JOB_ID" in environment:
        return False
    restarts = [
        environment.get(f"TORCHELASTIC_{name}") for name in ("RESTART_COUNT", "MAX_RESTARTS")
    ]
    torchrun = os.getppid()
    return restarts[0] == restarts[1] and 1 not in (torchrun, _parent(torchrun))


def _parent(pid: int) -> int:
    try:
        # The name, in parentheses, may hold anything.
        return int(
            Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1]
        )
    except OSError:
        return 1


def _print_after(pid: int, line: str) -> bool:
    import subprocess  # --help does not wait for it

    try:
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LAST_WORD, str(pid), line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # torchrun ends the sessions of its processes
        )
    except OSError:
        return False
    return True

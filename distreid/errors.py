"""The exceptions that distreid raises on purpose.

    DistreidError            its text is one line: where, what, and what to do
    └── UserError            the user can mend it: exit status 2, no traceback
        ├── OptionError      an option's value, or two options that exclude each other
        ├── LaunchError      the environment that torchrun or the user set for this process
        ├── FailedElsewhere  another rank failed and has said why; this one ends without a word
        ├── DataError        the images, a folder layout, a CSV manifest
        │   └── ImageError   one image: its row and path
        ├── CheckpointError  the checkpoint file, or a model that does not fit it
        ├── CompileError     torch.compile of a network, which runs without it too
        └── StoreError       the output folder: incomplete, damaged, or of another run

Beside it stands Stopped: a signal ended the job, which can be continued; exit status 128 and
the signal's number. Where nobody reads the output any more, as after `| head`, the command ends in
silence, as if SIGPIPE had ended it (141). Anything else that escapes is a fault of distreid: exit
status 1, with its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
from collections.abc import Callable

EXIT_USER = 2
NAME_SHOWN = 60  # characters of a name that is too long for any file
# As a shell says of what SIGPIPE ended: nobody reads the output any more, as after `| head`.
EXIT_UNREAD = 128 + signal.SIGPIPE
# Of what is printed: files that cannot be written are a StoreError.
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


class DistreidError(Exception):
    """The root of the tree."""


class Stopped(BaseException):
    """A signal asked the job to end. No Exception, as KeyboardInterrupt is none: it can come
    anywhere, also where the faults of damaged files are caught."""

    def __init__(
        self,
        signal_number: int,
        why: str | None = None,
        *,
        tells_user: bool = True,
        continues: bool = True,
    ) -> None:
        name = signal.Signals(signal_number).name
        super().__init__(
            f"stopped by {name}{f': {why}' if why else ''}; run the same command again"
            + (" to continue" if continues else "")
        )
        self.signal_number = signal_number
        self.tells_user = tells_user
        """Whether it is this process that tells the user, for all of the job."""


class UserError(DistreidError):
    """Something that the user can mend."""


class OptionError(UserError):
    """An option's value cannot be used."""


class LaunchError(UserError):
    """The environment describes no usable process group."""


class FailedElsewhere(UserError):
    """Another rank failed, and has said why."""


class DataError(UserError):
    """The images or their description cannot be used."""


class ImageError(DataError):
    """One image cannot be read."""


class CheckpointError(UserError):
    """The checkpoint cannot be used."""


class CompileError(UserError):
    """torch cannot compile the network here."""


class EngineError(UserError):
    """An engine cannot compute the network here, or gives other features than torch."""


class StoreError(UserError):
    """The output folder cannot be used."""


def printable(text: str) -> str:
    """The text in one line: what cannot be seen becomes an escape.

    A file's name may hold line breaks, control characters that command the terminal, those
    that turn the direction of the text, and bytes that are no UTF-8.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def say_on_stderr(line: str) -> None:
    """Prints it."""
    print(line, file=sys.stderr)


def exit_status(command: Callable[[], None], say: Callable[[str], None] = say_on_stderr) -> int:
    """Runs a command and gives its exit status; an error of the tree is one line, which `say`
    gets, and so is the end by a signal. Output that nobody reads any more ends it in silence.

    SystemExit, as argparse raises it, goes on.
    """
    try:
        return _status(command, say)
    except SystemExit as end:
        # So ends rich where nobody reads what it prints.
        if isinstance(end.__context__, BrokenPipeError):
            return EXIT_UNREAD
        raise
    except OSError as error:
        unread = error.errno == errno.EPIPE and _is_unread()
        if not unread and error.errno not in DISK_IS_FULL:
            raise
        _give_up_output()
        if unread:
            return EXIT_UNREAD
        why = f"the output: {error.strerror}; run the same command again"
        with contextlib.suppress(OSError):
            print(f"distreid: error: {why}", file=sys.stderr)
        return EXIT_USER


def _status(command: Callable[[], None], say: Callable[[str], None]) -> int:
    """`exit_status` where stdout and stderr can be written."""
    try:
        command()
        sys.stdout.flush()
    except (Stopped, KeyboardInterrupt) as end:
        # Python's own exception comes while torch is still being imported.
        stopped = end if isinstance(end, Stopped) else Stopped(signal.SIGINT)
        if stopped.tells_user:
            say(f"distreid: {stopped}")
        return 128 + stopped.signal_number
    except FailedElsewhere:
        return EXIT_USER
    except UserError as error:
        say(f"distreid: error: {printable(str(error))}")
        return EXIT_USER
    except OSError as error:
        # Of a path that was given: wherever one is looked for first, this is what is wrong with it.
        if error.errno != errno.ENAMETOOLONG or error.filename is None:
            raise
        name = printable(os.fsdecode(error.filename))
        say(f"distreid: error: {name[:NAME_SHOWN]}…: {error.strerror}; give a shorter name")
        return EXIT_USER
    return 0


def _is_unread() -> bool:
    """Whether what is printed goes into a pipe that has no reader any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _give_up_output() -> None:
    """What is not yet written would fail again, with a message, as Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

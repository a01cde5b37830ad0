"""The regular expression that tells labels from an image's path."""

from __future__ import annotations

import os
import re

from distreid.errors import OptionError


def name_pattern(text: str) -> re.Pattern[bytes]:
    """Compiled, for paths in bytes; OptionError unless it is one with a named group."""
    try:
        compiled = re.compile(os.fsencode(text))
    except (re.error, ValueError, OverflowError) as error:
        raise OptionError(f"--pattern {text}: {error}") from error
    if not compiled.groupindex:
        raise OptionError(
            f"--pattern {text}: no named group; write for example "
            r"(?P<person>\d+)_c(?P<camera>\d+)"
        )
    return compiled

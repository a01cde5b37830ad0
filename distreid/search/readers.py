"""Who reads which generation, so that its files stay as long as they are needed.

A reader announces itself by a file of its own, `G/readers/NUMBER-HOST-PID-NONCE.hold`, and then
looks whether the generation is still the gallery's; a writer publishes the next one and then looks
for readers. So either sees the other. A reader that dies leaves its file, which anybody on its
machine may remove, or whoever saw no sign of life from another machine. Whoever must erase takes
the generation's own file away first: its readers look for that after each answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
import time
import weakref
from dataclasses import asdict
from pathlib import Path

from distreid.errors import StoreError
from distreid.host.atomic_files import publish_text
from distreid.host.folder_lock import BEAT_S, DEAD_AFTER_S, Holder, last_sign
from distreid.search.generation import Generation, old_file, read_generation

NAME = re.compile(r"(\d+)-.*\.hold")


class Hold:
    """A generation that is read by this process, until `release`."""

    def __init__(self, gallery: Path, generation: Generation) -> None:
        self.gallery = gallery
        self.generation = generation
        holder = Holder.this_process()
        name = f"{generation.generation}-{holder.host}-{holder.pid}-{secrets.token_hex(4)}.hold"
        self.file: Path | None = gallery / "readers" / name
        try:
            publish_text(self.file, json.dumps(asdict(holder)) + "\n")
        except StoreError:
            # A reader who may not write is not waited for.
            self.file = None
        self._stop = threading.Event()
        self.release = weakref.finalize(self, _release, self.file, self._stop)
        if self.file:
            threading.Thread(target=_beat, args=(self.file, self._stop), daemon=True).start()

    @property
    def is_valid(self) -> bool:
        """Whether the generation's files are still what they were."""
        return old_file(self.gallery, self.generation.generation).exists()

    def check(self) -> None:
        """StoreError if it was given back, or the generation taken away since, as when rows of it
        were erased."""
        if not self.release.alive:
            raise StoreError(f"{self.gallery}: was closed; open the gallery again")
        if not self.is_valid:
            raise StoreError(
                f"{self.gallery}: generation {self.generation.generation} is gone, with rows that "
                "were erased or removed; open the gallery again"
            )


def _release(file: Path | None, stop: threading.Event) -> None:
    stop.set()
    if file:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def _beat(file: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(file)


def hold_current(gallery: Path) -> Hold:
    """The gallery's generation, held."""
    while True:
        hold = Hold(gallery, read_generation(gallery))
        if read_generation(gallery).generation == hold.generation.generation:
            return hold
        hold.release()


def read_generations(gallery: Path) -> dict[int, list[Path]]:
    """The generations that are read by somebody who lives, with the readers' files; those of the
    dead are removed."""
    found: dict[int, list[Path]] = {}
    for file in sorted((gallery / "readers").glob("*.hold")):
        match = NAME.fullmatch(file.name)
        if match is None:
            continue
        try:
            holder = Holder(**json.loads(file.read_bytes()))
            # Of another machine there is only the time of its file, by the file system's clock.
            seen = holder.runs()
            lives = _is_fresh(gallery, file) if seen is None else seen
        except FileNotFoundError:
            continue
        except (ValueError, TypeError):
            lives = False
        if lives:
            found.setdefault(int(match[1]), []).append(file)
        else:
            file.unlink(missing_ok=True)
    return found


def _is_fresh(gallery: Path, file: Path) -> bool:
    probe = gallery / "readers" / f"clock-{os.getpid()}"
    try:
        probe.write_bytes(b"")
        now = last_sign(probe)
        return now - last_sign(file) < DEAD_AFTER_S
    finally:
        probe.unlink(missing_ok=True)


def describe(files: list[Path]) -> str:
    """The readers, for people."""
    names = []
    for file in files:
        with contextlib.suppress(OSError, ValueError, TypeError):
            names.append(str(Holder(**json.loads(file.read_bytes()))))
    return "; ".join(names)


def wait_for(gallery: Path, before: int, timeout_s: float) -> list[Path]:
    """Until nobody reads a generation below `before`; after the timeout, those that still do."""
    deadline = time.monotonic() + timeout_s
    while True:
        reading = read_generations(gallery)
        left = [file for number, files in reading.items() if number < before for file in files]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(min(0.1, max(0.0, deadline - time.monotonic())))

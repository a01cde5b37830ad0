"""A gallery that others change while it is served: each answer is of one generation."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from distreid.errors import DistreidError, StoreError
from distreid.interface.gallery_commands import say
from distreid.interface.opened_gallery import Gallery, open_gallery
from distreid.interface.search_command import calibrated_threshold
from distreid.search.generation import read_generation
from distreid.search.marks import read_labels

Answer = TypeVar("Answer")


class Held:
    """A generation, and how many read it."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.gallery = open_gallery(folder)
        self.threshold = calibrated_threshold(self.gallery, say)
        """The least score of the same person, where a run of it was calibrated."""
        labels = self.gallery.reader.generation.labels
        self.marks = len(read_labels(folder / labels).mark_right) if labels else 0
        """How many hits are marked."""
        self.users = 0


class ServedGallery:
    """Used by many threads at once; StoreError for a folder that is no gallery."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problem = ""
        """Why the newest generation could not be taken over; mostly empty."""
        self._lock = threading.Lock()
        self._taking_over = threading.Lock()
        self._said: set[str] = set()
        self._current = Held(folder, self._say_once)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Held]:
        """The newest generation, which stays while it is read."""
        with self._lock:
            held = self._current
            held.users += 1
        try:
            yield held
        finally:
            with self._lock:
                held.users -= 1
                is_left = held.users == 0 and held is not self._current
            if is_left:
                held.gallery.close()

    def answer(self, of: Callable[[Held], Answer]) -> Answer:
        """What a function says of the newest generation; asked again where rows of that were
        erased meanwhile."""
        while True:
            with self.reading() as held:
                try:
                    return of(held)
                except StoreError:
                    self.take_over()
                    # Another request may have taken over before.
                    if held is self._current:
                        raise

    def take_over(self) -> bool:
        """Opens the newest generation, if that is another one; says whether it did."""
        with self._taking_over:
            try:
                newest = read_generation(self.folder).generation
                if newest == self._current.gallery.generation:
                    self.problem = ""
                    return False
                new = Held(self.folder, self._say_once)
            except DistreidError as error:
                self.problem = str(error)
                return False
            self.problem = ""
            with self._lock:
                old, self._current = self._current, new
                is_left = old.users == 0
            if is_left:
                old.gallery.close()
            return True

    def _say_once(self, line: str) -> None:
        """Of many generations in a row, what each would say again."""
        if line not in self._said:
            self._said.add(line)
            say(line)

    @property
    def now(self) -> Gallery:
        """The newest generation, for its number and its count of rows alone."""
        return self._current.gallery

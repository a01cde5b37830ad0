"""Images of object stores: their requests begin before they are decoded, several at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from torch.utils.data import get_worker_info

from distreid.data.archives import ranges_of, read_ahead
from distreid.data.locators import is_address
from distreid.data.manifest import Manifest
from distreid.data.objects import Range


class ReadAhead:
    """Begins the requests for a batch, and for the one that this process is given after it, so
    that none waits while another is decoded."""

    def __init__(self, manifest: Manifest, batches: Iterable[range]) -> None:
        """`batches`: all that the workers are given, in their order, by turns."""
        self.manifest = manifest
        self.batches = batches
        self.is_needed = is_address(manifest.root)
        self._coming: Iterator[range] | None = None
        self._next: range | None = None
        self._of_next: list[Range] = []

    def begin(self, rows: Sequence[int]) -> None:
        """Called with the rows of a batch before they are read; of files it does nothing."""
        if not self.is_needed:
            return
        if self._coming is None:
            worker = get_worker_info()
            first, step = (worker.id, worker.num_workers) if worker else (0, 1)
            self._coming = itertools.islice(self.batches, first, None, step)
            self._go_on(self._coming)
        if rows != self._next:
            read_ahead(self._ranges(rows))
            return
        now = self._of_next
        self._go_on(self._coming)
        read_ahead([*now, *self._of_next])

    def _go_on(self, coming: Iterator[range]) -> None:
        self._next = next(coming, None)
        self._of_next = self._ranges(self._next or ())

    def _ranges(self, rows: Sequence[int]) -> list[Range]:
        return ranges_of(map(self.manifest.file, rows))

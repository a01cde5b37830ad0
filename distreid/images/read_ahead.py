"""Images of object stores: their requests begin before they are decoded, several at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from torch.utils.data import get_worker_info

from distreid.data.archives import read_ahead
from distreid.data.locators import is_address
from distreid.data.manifest import Manifest


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

    def begin(self, rows: Sequence[int]) -> None:
        """Called with the rows of a batch before they are read; of files it does nothing."""
        if not self.is_needed:
            return
        if self._coming is None:
            worker = get_worker_info()
            first, step = (worker.id, worker.num_workers) if worker else (0, 1)
            self._coming = itertools.islice(self.batches, first, None, step)
            self._next = next(self._coming, None)
        if rows == self._next:
            self._next = next(self._coming, None)
            rows = [*rows, *(self._next or ())]
        read_ahead(map(self.manifest.file, rows))

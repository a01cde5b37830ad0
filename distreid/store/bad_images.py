"""Images that cannot be read: how many a run may have, over all its ranks and attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from distreid.data.objects import CHANGED
from distreid.errors import DataError, ImageError
from distreid.host.counts import counted
from distreid.store.plan import Plan
from distreid.store.shards import bad_images_in, done_shards, shard_file

OUT_OF_MEMORY = "no memory is left to decode it"
"""A reason that is no fault of the image."""


@dataclass(kw_only=True)
class BadImages:
    """Counts them as one rank sees them, and stops at the first that is too many."""

    run: Path
    plan: Plan
    on_bad_image: str
    """`fail`: none may be bad. `record`: as many as `max_bad` says."""
    max_bad: int | None
    """None: any number."""
    failures: dict[int, str] = field(default_factory=dict)
    """Row → why this rank could not read its image."""
    _in_shard: dict[int, int] = field(default_factory=dict)
    """A published shard's index → how many of its rows have no image."""

    def add(self, failures: Mapping[int, str]) -> None:
        """Takes a batch's failures, row to reason; ImageError if they may not be."""
        if not failures:
            return
        for row, reason in sorted(failures.items()):
            where = f"row {row}, {self.plan.manifest.file(row)}: {reason}"
            if reason == OUT_OF_MEMORY:
                raise ImageError(f"{where}; take fewer --num-workers and run again to continue")
            if reason == CHANGED:
                raise DataError(where)
            if self.on_bad_image == "fail":
                raise ImageError(f"{where}; mend or remove it, or use --on-bad-image record")
        self.failures |= failures
        self.check()

    def check(self) -> None:
        """ImageError if there are more than allowed."""
        fails = self.on_bad_image == "fail"
        most = 0 if fails else self.max_bad
        if most is not None and (bad := self.count()) > most:
            allowed = "--on-bad-image fail allows none" if fails else f"--max-bad allows {most:,}"
            raise ImageError(
                f"{self.run}: {counted(bad, 'image')} could not be read, {allowed}; allow more and "
                "run again to continue, or mend them and give another --out"
            )

    def count(self) -> int:
        """In all published shards, whoever wrote them, and in this rank's unfinished one."""
        known = set(range(len(self.plan.shards)))
        for index in (done_shards(self.run) & known) - self._in_shard.keys():
            self._in_shard[index] = bad_images_in(shard_file(self.run, index))
        unfinished = (row // self.plan.shard_rows for row in self.failures)
        own = sum(index not in self._in_shard for index in unfinished)
        return sum(self._in_shard.values()) + own

"""Before work: every rank has the same versions, sees one output folder, plan, set of images."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import distreid
from distreid.data.archives import stored_size
from distreid.data.manifest import Manifest
from distreid.errors import DataError, FailedElsewhere, StoreError, UserError
from distreid.host.atomic_files import make_folder
from distreid.job.provenance import library_versions
from distreid.ranks.group import Group
from distreid.store.plan import Plan, differences
from distreid.store.root_file import existing_plan
from distreid.store.run_copy import RunCopy

FILES_COMPARED = 10_000  # seconds on a slow network disk; of a larger set, every n-th is
NO_FILE = -1


def check_versions(group: Group) -> None:
    """The last bits of a feature depend on the libraries: UserError if two ranks' differ."""
    versions = library_versions() | {"distreid": distreid.__version__}
    of_all_ranks = group.gather((str(group.world), versions))
    first, expected = of_all_ranks[0]
    for rank, theirs in of_all_ranks:
        if differing := differences(expected, theirs):
            if not group.world.is_main:
                raise FailedElsewhere("rank 0 says which")
            raise UserError(
                f"{first} and {rank} differ in {'; '.join(differing)}; install the same on "
                "every host"
            )


def shared_plan(group: Group, run: Path) -> Plan:
    """The plan that rank 0 wrote, as this rank sees it.

    StoreError if this rank has another folder under that name, be it with the plan of a former
    run in it, or other rows in the plan.
    """
    with _mark(group, run) as mark:
        plan = existing_plan(run) if mark.exists() else None
        if plan is None:
            raise StoreError(
                f"{run}: {group.world} does not see what rank 0 writes there; "
                "--out must be a folder that all hosts share"
            )
        # That these are the fingerprint of the rows was checked as the plan was read.
        if plan.identity["manifest"] != group.on_main(lambda: plan.identity["manifest"]):
            raise StoreError(f"{run}: {group.world} reads other rows there than rank 0 has written")
        group.gather(None)
    return plan


def copied_plan(group: Group, copy: RunCopy) -> Plan:
    """The same of a run in an object store, of whose plan each host has a copy."""
    world = group.world
    if world.local_rank == 0 and not world.is_main:
        copy.fetch_root(copy.listed())
        make_folder(copy.folder / "shards")
    group.gather(None)
    plan = existing_plan(copy.folder)
    if plan is None or plan.digest != group.on_main(lambda: plan and plan.digest):
        raise StoreError(
            f"{copy.address}: {world} reads another plan there than rank 0 has written"
        )
    group.gather(None)
    return plan


@contextlib.contextmanager
def _mark(group: Group, run: Path) -> Iterator[Path]:
    """A file of a name that was never there before, made by rank 0, until all have looked."""

    def leave() -> str:
        name = f"{secrets.token_hex(8)}.tmp"  # `begin` removes what a killed job leaves
        try:
            (run / name).touch()
        except OSError as error:
            raise StoreError(f"{run}: {error.strerror}; make room, or check --out") from error
        return name

    mark = run / group.on_main(leave)
    try:
        yield mark
    finally:
        if group.world.is_main:
            with contextlib.suppress(OSError):
                mark.unlink()


def check_files(group: Group, manifest: Manifest) -> None:
    """DataError names the first image that a host sees with another size than rank 0's host.

    Of more than `FILES_COMPARED` images, as many are compared, evenly spaced.
    """
    world = group.world
    if world.local_world_size == world.world_size:
        return
    rows = np.linspace(0, len(manifest) - 1, min(len(manifest), FILES_COMPARED)).astype(np.intp)
    if world.local_rank != 0:  # one on each host does it
        rows = rows[:0]
    seen = _sizes(manifest, rows)
    host, expected = group.on_main(lambda: (socket.gethostname(), seen))
    differing = np.flatnonzero(seen != expected[: len(seen)])
    if len(differing):
        place = differing[0]
        raise DataError(
            f"row {rows[place]}, {manifest.file(rows[place])}: {_says(seen[place])} on "
            f"{socket.gethostname()}, {_says(expected[place])} on {host}, rank 0's host "
            f"({len(differing):,} of {len(rows):,} compared differ); all must see one --data"
        )
    group.gather(None)


def _sizes(manifest: Manifest, rows: NDArray[np.intp]) -> NDArray[np.int64]:
    sizes = np.full(len(rows), NO_FILE, dtype=np.int64)
    for place, row in enumerate(rows):
        with contextlib.suppress(OSError):
            sizes[place] = stored_size(manifest.file(row))
    return sizes


def _says(size: int) -> str:
    return "no such file" if size == NO_FILE else f"{size:,} bytes"

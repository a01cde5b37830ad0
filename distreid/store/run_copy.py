"""A run in an object store, and its working copy on this machine's disk.

    CACHE/runs/SCHEME/BUCKET/PREFIX/     what is mapped, verified and written: a run's folder
    CACHE/runs/…/objects.txt             of each file that is the same in the store: the object's
                                         size and version, the file's time, its name

A store has no memory map and no lock, so a job and a reader work on the copy. What the store has
comes first: it is fetched where it differs, and a file goes up whole when it is complete,
`store.h5` after all others. So nothing there looks complete that is not.

The copy of a run at `s3://bucket/runs` holds the folder of the copy of one at
`s3://bucket/runs/market`. So a copy's files are those of its own folder and of `FOLDERS`, and
nothing else is sent or removed with it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from distreid.data.archive_index import INDEX_FILE, Stamp
from distreid.data.locators import is_address, path_of
from distreid.data.objects import check_runs_address, list_folder, put, read_whole, remove
from distreid.errors import OptionError, StoreError, say_on_stderr
from distreid.host.atomic_files import check_content, make_folder, publish_bytes
from distreid.host.folder_lock import Busy, holders
from distreid.host.user_cache import user_cache
from distreid.store.plan import Plan
from distreid.store.root_file import ROOTS, existing_plan, no_run, unfinished_run
from distreid.store.run_folder import CALIBRATION, INT8_FILES, PICTURES
from distreid.store.shards import SHARD_NAME, read_shard, shard_file

RECORD = "objects.txt"
STORE, PLAN = ROOTS
TO_CONTINUE = (INDEX_FILE, *INT8_FILES)
"""What another machine needs beside the root and the shards, to continue a run."""
FOLDERS = {"shards": SHARD_NAME.fullmatch, PICTURES: re.compile(r".+\.png").fullmatch}
"""The folders in a run's, and what is the name of a file in them."""
FETCHED_AT_ONCE = 4  # shards have up to 64 MiB
OF_A_JOB = (".tmp", ".lock")


@dataclass(frozen=True)
class RunCopy:
    """A run's address and the folder of its copy."""

    address: Path
    folder: Path

    def place(self, file: Path) -> Path:
        """The address of a file of the copy."""
        return path_of(f"{self.address}/{file.relative_to(self.folder).as_posix()}")

    def of(self, folder: Path) -> RunCopy:
        """The copy of a run whose folder lies in this one's."""
        return RunCopy(self.place(folder), folder)

    @contextlib.contextmanager
    def named(self) -> Iterator[RunCopy]:
        """Itself, and lets errors name the address where they name the folder."""
        try:
            yield self
        except StoreError as error:
            said = str(error).replace(str(self.folder), str(self.address))
            raise StoreError(said) from error

    def try_writing(self) -> None:
        """StoreError, before any work, if objects cannot be written there and removed."""
        probe = self.address / "probe.tmp"
        try:
            put(probe, b"")
            remove(probe)
        except StoreError as error:
            raise StoreError(str(error).replace(str(probe), str(self.address))) from error

    def is_run(self) -> bool:
        """Whether the store has a run at the address itself."""
        return not list_folder(self.address).keys().isdisjoint(ROOTS)

    def listed(self) -> dict[str, Stamp]:
        """The run's files that the store has: `plan.h5`, `shards/000000.h5`, …"""
        found = list_folder(self.address)
        for folder, is_of_it in FOLDERS.items():
            inside = list_folder(self.address / folder)
            found |= {f"{folder}/{name}": inside[name] for name in inside if is_of_it(name)}
        return found

    def fetch_root(self, there: Mapping[str, Stamp]) -> Plan | None:
        """Makes the copy that of the store's run, but for its shards; gives its plan.

        What is of another run is removed, and all if the store has none; what the store lacks of
        this run stays, to be sent."""
        roots = [name for name in ROOTS if name in there]
        if not roots:
            for name in (*self._files(), RECORD):
                (self.folder / name).unlink(missing_ok=True)
            return None
        before = None
        with contextlib.suppress(StoreError):  # damaged, and perhaps fetched anew
            before = existing_plan(self.folder)
        wanted = (*roots, *TO_CONTINUE, *(() if self._is_changed(CALIBRATION) else (CALIBRATION,)))
        needed = {name: there[name] for name in wanted if name in there}
        self.fetch(needed)
        for name in ROOTS:
            if name not in roots:
                (self.folder / name).unlink(missing_ok=True)
        plan = existing_plan(self.folder)
        assert plan
        is_another = before is None or before.digest != plan.digest
        for name in self._files():
            if name.startswith("shards/"):
                foreign = not self._is_shard_of(plan, name)
            else:
                foreign = is_another and name not in needed
            if foreign:
                (self.folder / name).unlink(missing_ok=True)
        return plan

    def fetch_shards(self, there: Mapping[str, Stamp], say: Callable[[str], None]) -> None:
        """Fetches the shards that the copy lacks, or has of another version.

        StoreError names an object that is damaged, or cannot be read."""
        missing = self._not_the_same(
            {name: stamp for name, stamp in there.items() if name.startswith("shards/")}
        )
        if missing:
            size = sum(stamp.size for stamp in missing.values())
            say(f"copying {len(missing):,} shards ({size:,} bytes) to {self.folder}")
            self.fetch(missing)

    def send(self, file: Path) -> None:
        """Writes a file of the copy to the store, whole. StoreError if it fails: the file stays."""
        time, content = file.stat().st_mtime_ns, file.read_bytes()
        try:
            stamp = put(self.place(file), content)
        except StoreError as error:
            raise StoreError(
                f"{error}; {file} stays, and the same command continues from it"
            ) from error
        if stamp.size not in (-1, len(content)):
            raise StoreError(f"{self.place(file)}: another job writes it; run one job at a time")
        self._record(file.relative_to(self.folder).as_posix(), stamp, time)

    def send_all(self) -> None:
        """Sends what the store lacks and what was changed here since it was sent or fetched.

        What it takes to continue a run is there before its plan, and a complete run's `store.h5`
        after all others."""
        there, recorded = self.listed(), self._recorded()
        begun, complete = ((self.folder / name).exists() for name in (PLAN, STORE))
        first = [*TO_CONTINUE, PLAN, *([] if complete else [STORE])] if begun else []
        last = [*([STORE] if complete else []), *([] if begun else [PLAN])]
        others = [name for name in self._files() if name not in (*first, *last)]
        for name in (*first, *others, *last):
            file, (_, sent) = self.folder / name, recorded.get(name, (None, None))
            if not file.exists():
                if name in there:
                    remove(self.place(file))
            elif name not in there or sent != file.stat().st_mtime_ns:
                self.send(file)

    def _files(self) -> list[str]:
        """The names of the run's files that the copy has, but for its record and its lock."""
        top = (file.name for file in sorted(self.folder.glob("*")) if file.is_file())
        found = [name for name in top if name != RECORD and not name.endswith(OF_A_JOB)]
        # At an address that ends in `shards`, those lie here of a run above.
        found = [name for name in found if not SHARD_NAME.fullmatch(name)]
        for folder, is_of_it in FOLDERS.items():
            names = sorted(file.name for file in (self.folder / folder).glob("*"))
            found += [f"{folder}/{name}" for name in names if is_of_it(name)]
        return found

    def _is_shard_of(self, plan: Plan, name: str) -> bool:
        index = int(Path(name).stem)
        try:
            read_shard(self.folder, plan, plan.shards[index])
        except (StoreError, IndexError):
            return False
        return name == str(shard_file(Path(), index))

    def fetch(self, wanted: Mapping[str, Stamp]) -> None:
        """Fetches what the copy lacks, or has of another version; StoreError for what is damaged,
        or cannot be read."""
        missing = self._not_the_same(wanted)
        contents = read_whole(self.address, missing, FETCHED_AT_ONCE)
        for (name, stamp), content in zip(missing.items(), contents, strict=True):
            file = self.folder / name
            if file.suffix == ".h5":
                check_content(str(self.place(file)), content)
            make_folder(file.parent)
            publish_bytes(file, content)
            self._record(name, stamp, file.stat().st_mtime_ns)

    def _not_the_same(self, wanted: Mapping[str, Stamp]) -> dict[str, Stamp]:
        recorded = self._recorded()
        return {
            name: stamp
            for name, stamp in sorted(wanted.items())
            if not self._is_same(name, stamp, recorded.get(name))
        }

    def _is_same(self, name: str, stamp: Stamp, recorded: tuple[Stamp, int] | None) -> bool:
        """Whether the file is what the object was when it was sent or fetched."""
        try:
            file = (self.folder / name).stat()
        except FileNotFoundError:
            return False
        return (stamp, file.st_mtime_ns) == recorded and stamp.size in (-1, file.st_size)

    def _is_changed(self, name: str) -> bool:
        """Whether the file was written here since it was sent or fetched."""
        _, sent = self._recorded().get(name, (None, None))
        file = self.folder / name
        return file.exists() and file.stat().st_mtime_ns != sent

    def _record(self, name: str, stamp: Stamp, time: int) -> None:
        """Adds a line; a file's last one counts. Several processes add to it at once."""
        # What cannot be remembered is fetched once more.
        with contextlib.suppress(OSError), (self.folder / RECORD).open("ab", buffering=0) as file:
            file.write(f"{stamp.size} {stamp.mtime_ns} {time} {name}\n".encode())

    def _recorded(self) -> dict[str, tuple[Stamp, int]]:
        """Name → the object's stamp, and the file's time; a line that was cut counts nothing."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for line in (self.folder / RECORD).read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    size, version, time, name = line.split(" ", 3)
                    found[name] = Stamp(int(size), int(version)), int(time)
        return found


def copy_of(address: Path) -> RunCopy:
    """The copy of a run at an address; OptionError for an address that cannot be written."""
    text = str(path_of(os.fspath(address)))
    check_runs_address(text)
    scheme, _, place = text.partition("://")
    if {"..", RECORD} & {*place.split("/")}:
        raise OptionError(f"{text}: no prefix has '..' or {RECORD} in it; choose another")
    return RunCopy(path_of(text), user_cache() / "runs" / scheme / place)


def local_run(run: Path, *, unfinished: bool = False) -> Path:
    """The folder of a run for reading: itself, or the copy of one in a store, brought up to date.

    StoreError without a run there, if it is not complete and may not be `unfinished`, if an object
    is damaged or missing, or while a job of this machine writes it.
    """
    if not is_address(run):
        return run
    copy = copy_of(run)
    there = copy.listed()
    if not {*ROOTS} & there.keys():
        raise no_run(copy.address)
    for holder in holders(copy.folder).values():
        if holder.runs():
            raise Busy(copy.address, holder)
    plan = copy.fetch_root(there)
    assert plan
    wanted = [str(shard_file(Path(), shard.index)) for shard in plan.shards]
    missing = [name for name in wanted if name not in there]
    if STORE not in there and not unfinished:
        raise unfinished_run(copy.address, len(wanted) - len(missing), len(wanted))
    if STORE in there and missing:
        raise StoreError(f"{copy.address}/{missing[0]}: missing; run the extraction again")
    copy.fetch_shards(there, say_on_stderr)
    return copy.folder

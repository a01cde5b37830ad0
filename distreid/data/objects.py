"""Objects of stores (s3, http, …) through fsspec: listed, read by ranges, several at a time, and
written whole.

Requests run in fsspec's own thread, so that a process has up to `IN_FLIGHT` of them while it
decodes. What fails is asked for again, `TRIES` times in all. An object has a stamp: its size, and a
digest of its ETag, or of the time of its last change where there is none. What a read brings is
compared with it: a changed object is refused, never mixed with what it was.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import hashlib
import importlib
import io
import os
import re
import threading
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

from distreid.data.archive_index import STORED, Index, Stamp, build_index, normal_name
from distreid.errors import DataError, ImageError, OptionError, StoreError

IN_FLIGHT = 16  # requests of a process at once
TRIES = 5
PAUSE_S = 0.2  # before the second try; twice as long before each further one
TIMEOUT_S = 30.0  # of a request, beside the time that its bytes may take
LISTING_S = 3600.0  # of all pages of a listing together
SLOWEST = 1_000_000  # bytes in a second
CHANGED = "it, or the archive that it is in, was changed after it was listed; give another --out"
"""A reason that is no fault of the image."""
INSTALL = "pip install 'distreid[remote]'"
OLDEST = (2025, 7)  # of fsspec
# What tells a version of an object from the next, as the stores' listings and answers name it.
VERSIONS = ("etag", "generation", "blob_id", "last-modified", "lastmodified", "updated", "mtime")
WRITABLE = ("s3", "gs", "az")  # hf makes a commit of each object
AGAIN = (408, 425, 429)  # statuses of HTTP that say so, beside those of 500 and more
NOT_IMPLEMENTED = 501
LINK_LIMIT = 4096  # characters: a folder that links to itself has an end
# Where a page links to: what HTML allows around it, up to the end of its tag.
HREF = re.compile(r"""<a\s(?:[^<>]*?\s)?href\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s<>"']+))""", re.I)

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Bytes of an object, and the version that they are wanted of."""

    address: str
    first: int
    count: int
    """-1: to the end."""
    stamp: Stamp
    is_part: bool = True
    """Whether it is asked for as a range; not where the whole object is wanted."""


_systems: dict[str, Any] = {}
_started: dict[Range, concurrent.futures.Future[bytes]] = {}
_pinned: dict[str, Stamp] = {}
_queue: deque[tuple[Coroutine[Any, Any, Any], concurrent.futures.Future[Any]]] = deque()
_lanes: set[asyncio.Task[None] | None] = set()
_gates: dict[Any, asyncio.Semaphore] = {}
_of_the_parent: list[Any] = []
_lock = threading.Lock()


def _after_fork() -> None:
    """A child has connections of its own. Its parent's are kept: no destructor touches them."""
    global _lock
    _of_the_parent.append((dict(_systems), dict(_started), list(_queue), set(_lanes), dict(_gates)))
    _lock = threading.Lock()
    _systems.clear()
    _started.clear()
    _queue.clear()
    _lanes.clear()
    _gates.clear()


os.register_at_fork(after_in_child=_after_fork)


def whole(address: Path, name: bytes, stamp: Stamp) -> Range:
    """All of an object below a prefix."""
    return Range(f"{address}/{os.fsdecode(name)}", 0, stamp.size, stamp, is_part=False)


def part(address: Path, first: int, count: int) -> Range:
    """Some bytes of an object, as it was when `pin` was told."""
    return Range(str(address), first, count, _pinned[str(address)])


def pin(address: Path, stamp: Stamp) -> None:
    """From now on, parts are wanted of this version; DataError if nobody knows where it ends."""
    if stamp.size < 0:
        raise DataError(f"{address}: its server does not say its size; copy it first")
    _pinned[str(address)] = stamp


def look_up(address: Path) -> Stamp:
    """The stamp of an object as it is now; DataError if it cannot be had."""
    with _told(str(address)):
        return _wait(_start(_tried(lambda: _head(str(address)))))


def read(wanted: Range) -> bytes:
    """The bytes; fewer where the object ends. FileNotFoundError without the object, ImageError if
    they are not to be had, or are of another version."""
    future = _started.pop(wanted, None) or _start(_fetched(wanted))
    return _wait(future)


def start(wanted: Iterable[Range]) -> None:
    """Begins to read what `read` will be asked for next. What was begun before and is not wanted
    any more is given up."""
    keep = dict.fromkeys(wanted)
    for before in [each for each in _started if each not in keep]:
        _started.pop(before).cancel()
    new = [each for each in keep if each not in _started]
    _started.update(zip(new, _start_all(list(map(_fetched, new))), strict=True))


def put(address: Path, data: bytes) -> Stamp:
    """Writes an object whole, in place of one that is there; its stamp. StoreError if it fails."""
    text, more_s = str(address), len(data) / SLOWEST

    async def once() -> Stamp:
        system = _system(text)
        await _call(system, "pipe_file", text, data)
        return _stamp(await _call(system, "info", text))

    with _told(text, _ABOUT_RUNS, "write"):
        return _wait(_start(_tried(once, more_s)))


def remove(address: Path) -> None:
    """Removes an object, which may be gone already; StoreError if it fails."""
    text = str(address)
    with _told(text, _ABOUT_RUNS, "write"), contextlib.suppress(FileNotFoundError):
        _wait(_start(_tried(lambda: _call(_system(text), "rm_file", text))))


def list_folder(address: Path) -> dict[str, Stamp]:
    """Name → stamp of the objects that lie directly below a prefix, none if there is no such
    prefix or bucket; StoreError if they cannot be listed."""
    text = str(address)

    async def once() -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = await _call(_system(text), "ls", text, detail=True)
        return found

    with _told(text, _ABOUT_RUNS):
        try:
            found = _wait(_start(_tried(once, LISTING_S - TIMEOUT_S)))
        except FileNotFoundError:
            return {}
        top = _system(text)._strip_protocol(text).rstrip("/") + "/"
        return {
            about["name"].removeprefix(top): _stamp(about)
            for about in found
            if about["type"] == "file" and about["name"].startswith(top)
        }


def read_whole(address: Path, names: Mapping[str, Stamp], at_once: int) -> Iterator[bytes]:
    """The objects of these names below a prefix, in their order; StoreError for one that cannot be
    read, or is of another version."""
    wanted = [whole(address, os.fsencode(name), stamp) for name, stamp in names.items()]
    for place, each in enumerate(wanted):
        with _told(each.address, _ABOUT_RUNS):
            start(wanted[place : place + at_once])
            yield read(each)


def scan_objects(prefix: Path) -> Index:
    """The index of the objects below a prefix: of each its size, and the digest as `packed`.
    DataError if there is none, or they cannot be listed."""
    address = str(prefix)
    notes: list[str] = []
    with _told(address):
        if _is_http(address):
            found, notes = _wait(_start(_links_below(address.rstrip("/") + "/")))
        else:
            found = _wait(_start(_tried(lambda: _found_below(address), LISTING_S)))
    if not found:
        raise DataError("; ".join([f"{address}: nothing lies there; check --data", *notes]))
    if without := sum(not stamp.mtime_ns for stamp in found.values()):
        notes.append(
            f"{without:,} objects have neither an ETag nor a time: only their size is seen"
        )
    names: list[bytes] = []
    places: list[tuple[int, ...]] = []
    digest = hashlib.blake2b(digest_size=8)
    for place, (name, stamp) in enumerate(sorted(found.items())):
        if (normal := normal_name(name)) == name:
            names.append(normal)
            places.append((place, stamp.mtime_ns, stamp.size, 0, STORED))
            digest.update(b"%s %d %d\n" % (name, *stamp))
    if left_out := len(found) - len(names):
        notes.append(f"{left_out:,} objects left out whose keys are no paths")
    total = sum(max(0, stamp.size) for stamp in found.values())
    return build_index(names, places, Stamp(total, _positive(digest)), notes)


class ObjectStream(io.RawIOBase):
    """An object as a file that can be sought, for libraries that want one."""

    def __init__(self, address: Path) -> None:
        if str(address) not in _pinned:
            pin(address, look_up(address))
        self.address, self.at = address, 0
        self.size = _pinned[str(address)].size

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        """ImageError if the bytes are not to be had: an OSError would be taken for a bad file."""
        count = max(0, min(len(buffer), self.size - self.at))
        if not count:
            return 0
        data = read(part(self.address, self.at, count))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def check_runs_address(address: str) -> None:
    """OptionError if no run can be written to such an address, or as `check_address`."""
    check_address(address)
    scheme = address.partition(":")[0]
    if scheme not in WRITABLE:
        raise OptionError(
            f"{address}: a run lies in a folder, or at an address of {', '.join(WRITABLE)}; "
            f"{scheme} is for reading images alone"
        )


def check_address(address: str) -> None:
    """OptionError for what an address must not have: it is kept in the run, and printed."""
    try:
        parts = urlsplit(address)
    except ValueError as error:  # whose text may have a password
        shown = f"{address.partition(':')[0]}://…" if {"@", "?"} & {*address} else address
        raise OptionError(f"{shown}: its host cannot be read; check the address") from error
    if parts.username or parts.password:
        raise OptionError(
            f"{parts.scheme}://…@{parts.hostname}: no passwords in an address; see the manual"
        )
    if parts.query and parts.scheme != "s3":  # where `?` is a character of a key
        raise OptionError(f"{address.partition('?')[0]}?…: no queries in an address; leave it out")


def _start(work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    return _start_all([work])[0]


def _start_all(works: list[Coroutine[Any, Any, T]]) -> list[concurrent.futures.Future[T]]:
    """In their order, by one word to the thread of the loop: each wakes it, and stops this one."""
    try:
        loop = _library("fsspec.asyn").get_loop()
    except OptionError:
        for work in works:
            work.close()
        raise
    futures: list[concurrent.futures.Future[T]] = [concurrent.futures.Future() for _ in works]

    def begin() -> None:
        _queue.extend(zip(works, futures, strict=True))
        for _ in range(min(IN_FLIGHT - len(_lanes), len(_queue))):
            _lanes.add(loop.create_task(_lane()))

    loop.call_soon_threadsafe(begin)
    return futures


async def _lane() -> None:
    """One request after the other, so that an answer is followed by the next request at once."""
    while _queue:
        work, future = _queue.popleft()
        if not future.set_running_or_notify_cancel():
            work.close()
            continue
        try:
            future.set_result(await work)
        except BaseException as error:  # or whoever waits for it would do so for ever
            future.set_exception(error)
    _lanes.discard(asyncio.current_task())


def _wait(future: concurrent.futures.Future[T]) -> T:
    return future.result()


async def _fetched(wanted: Range) -> bytes:
    try:
        return await _tried(lambda: _got(wanted), max(0, wanted.count) / SLOWEST)
    except (FileNotFoundError, ImageError):
        raise
    except Exception as error:
        after = f", after {TRIES} tries" if _may_pass(error) else ""
        raise ImageError(_reason(error) + after) from error


async def _tried(once: Callable[[], Awaitable[T]], more_s: float = 0) -> T:
    """What `once` gives, tried again where that can help; its last fault."""
    loop = asyncio.get_running_loop()
    gate = _gates.setdefault(loop, asyncio.Semaphore(IN_FLIGHT))
    for tries in range(1, TRIES + 1):
        try:
            async with gate, _time_limit(TIMEOUT_S + more_s):
                return await once()
        # Up to Python 3.12 a time limit that ends with its answer cancels what comes next.
        except (Exception, asyncio.CancelledError) as error:
            if tries == TRIES or not _may_pass(error):
                raise
            await asyncio.sleep(PAUSE_S * 2 ** (tries - 1))
    raise AssertionError


def _time_limit(seconds: float) -> contextlib.AbstractAsyncContextManager[Any]:
    """asyncio's `timeout`, which Python 3.10 has as a library that aiohttp brings."""
    made: contextlib.AbstractAsyncContextManager[Any] = _timeout()(seconds)
    return made


@functools.cache
def _timeout() -> Any:
    return getattr(asyncio, "timeout", None) or _library("async_timeout").timeout


def _may_pass(error: BaseException) -> bool:
    """Whether it can help to ask again."""
    for_good = (FileNotFoundError, PermissionError, ImageError, OptionError, ImportError)
    return not isinstance(error, for_good) and type(error).__name__ != "NoCredentialsError"


async def _got(wanted: Range) -> bytes:
    """The bytes by one request."""
    address, first, count, stamp = wanted.address, wanted.first, wanted.count, wanted.stamp
    is_part = wanted.is_part
    data: bytes
    last = first + count - 1
    span = {"Range": f"bytes={first}-{last}"} if is_part else {}
    if _is_http(address):
        async with _answer("GET", address, span) as answer:
            if span and answer.status != 206:
                raise ImageError("its server does not answer with parts of a file; copy it first")
            data, now = await answer.read(), _stamp(answer.headers)
    elif address.startswith("s3:"):
        system = _system(address)
        bucket, _, key = address.partition("://")[2].partition("/")
        got = await system._call_s3("get_object", Bucket=bucket, Key=key, **span)
        async with got["Body"] as body:
            data, now = await body.read(), _stamp(got)
    else:  # these say their version by another request
        system = _system(address)
        end = min(last + 1, stamp.size) if is_part else None
        data = await _call(system, "cat_file", address, first if is_part else None, end)
        now = _stamp(await _call(system, "info", address))
    if stamp.mtime_ns not in (0, now.mtime_ns) or stamp.size not in (-1, now.size):
        raise ImageError(CHANGED)
    expected = min(count, stamp.size - first)
    if stamp.size >= 0 and len(data) != expected:
        raise ConnectionError(f"{len(data):,} bytes came of {expected:,}")
    return data


@contextlib.asynccontextmanager
async def _answer(method: str, address: str, headers: Mapping[str, str]) -> AsyncIterator[Any]:
    """aiohttp's answer to one request, whose body is read by whoever wants it; what is left of it
    is not awaited. FileNotFoundError, PermissionError, ImageError for a status that will not
    change, else OSError."""
    session = await _system(address).set_session()
    sent = {"Accept-Encoding": "identity", **headers}
    url = _library("yarl").URL(_quoted(address), encoded=True)
    no_limit = _library("aiohttp").ClientTimeout()  # `_tried` has one
    async with session.request(method, url, headers=sent, timeout=no_limit) as answer:
        status = answer.status
        if status in (404, 410):
            raise FileNotFoundError(address)
        if status in (401, 403):
            raise PermissionError(f"status {status}")
        if status >= 400:
            may_pass = status in AGAIN or (status >= 500 and status != NOT_IMPLEMENTED)
            kind = ConnectionError if may_pass else ImageError
            raise kind(f"its server answers {status} {answer.reason or ''}".rstrip())
        yield answer


async def _head(address: str) -> Stamp:
    if not _is_http(address):
        system = _system(address)
        found = await _call(system, "info", address)
        if found["type"] != "file":
            raise FileNotFoundError(address)
        return _stamp(found)
    with contextlib.suppress(ImageError):  # servers that know no HEAD
        async with _answer("HEAD", address, {}) as answer:
            if (stamp := _stamp(answer.headers)).size >= 0:
                return stamp
    async with _answer("GET", address, {"Range": "bytes=0-0"}) as answer:
        if answer.status == 206:  # else it would be all of the file
            await answer.read()  # so that the connection is used again
        return _stamp(answer.headers)


async def _found_below(address: str) -> dict[bytes, Stamp]:
    """Name below the prefix → stamp, as the store lists them."""
    system = _system(address)
    found = await _call(system, "find", address, detail=True)
    top = system._strip_protocol(address).rstrip("/") + "/"
    return {
        os.fsencode(path.removeprefix(top)): _stamp(about)
        for path, about in found.items()
        if path.startswith(top) and not path.endswith("/")
    }


async def _call(system: Any, name: str, *args: Any, **how: Any) -> Any:
    """A method of a file system, in its own way of not waiting if it has one."""
    if getattr(system, "async_impl", False):
        return await getattr(system, f"_{name}")(*args, **how)
    return await asyncio.to_thread(getattr(system, name), *args, **how)


async def _links_below(top: str) -> tuple[dict[bytes, Stamp], list[str]]:
    """The same of a server's pages that list folders, and what a person should know of them."""
    folders, files = [top], dict[str, None]()
    seen, odd, dead = {top}, set[str](), set[str]()

    async def links(folder: str) -> list[str]:
        try:
            found, left_out = await _tried(lambda: _links(folder))
        except FileNotFoundError:
            if folder == top:
                raise
            dead.add(folder)
            return []
        odd.update(left_out)
        return found

    while folders:
        pages = await asyncio.gather(*map(links, folders))
        folders = []
        for link in sorted(link for page in pages for link in page):
            if not link.endswith("/"):
                files[link] = None
            elif link not in seen:
                seen.add(link)
                folders.append(link)

    async def looked_up(url: str) -> Stamp | None:
        try:
            return await _tried(lambda: _head(url))
        except FileNotFoundError:
            dead.add(url)
            return None

    stamps = await asyncio.gather(*map(looked_up, files))
    found = {
        os.fsencode(link.removeprefix(top)): stamp
        for link, stamp in zip(files, stamps, strict=True)
        if stamp is not None
    }
    notes = [
        f"{len(which):,} links left out that {why} (first: {min(which).removeprefix(top)})"
        for which, why in ((dead, "lead nowhere"), (odd, "have a query or are no paths"))
        if which
    ]
    return found, notes


async def _links(folder: str) -> tuple[list[str], list[str]]:
    """The addresses below a folder that its page links to, unquoted; and those that are left out,
    since they climb, have a query or an empty part, or are very long."""
    async with _answer("GET", folder, {}) as answer:
        if "html" not in answer.headers.get("Content-Type", "html").lower():
            return [], []
        page = await answer.text(errors="replace")
    base = _quoted(folder)
    place, here = urlsplit(base)[:2], unquote(urlsplit(base).path)
    found, left_out = [], []
    for href in {unescape("".join(quoted)).strip() for quoted in HREF.findall(page)}:
        try:
            link = urlsplit(urljoin(base, href))
        except ValueError:
            continue
        path = unquote(link.path)
        if link[:2] != place or not path.startswith(here) or path == here:
            continue  # of another place, or a way to sort the page
        name = path.removeprefix(here)
        no_name = {"", ".", ".."} & {*name.removesuffix("/").split("/")}
        if link.query or no_name or ".." in href.split("/") or len(folder + name) >= LINK_LIMIT:
            left_out.append(folder + name)
        else:
            found.append(folder + name)
    return found, left_out


def _quoted(address: str) -> str:
    scheme, _, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{slash}{quote(path)}"


def _is_http(address: str) -> bool:
    return address.startswith("http")


def _stamp(about: Mapping[str, Any]) -> Stamp:
    """Of what a store's listing, or its answer, says of an object."""
    said = {str(key).lower(): value for key, value in about.items() if value not in (None, "")}
    version = next((said[key] for key in VERSIONS if key in said), None)
    of_part = str(said.get("content-range", said.get("contentrange", ""))).rpartition("/")[2]
    sizes = (said.get("size"), of_part, said.get("content-length"), said.get("contentlength"))
    size = next((int(each) for each in map(str, sizes) if each.isdigit()), -1)
    if version is None:
        return Stamp(size, 0)
    text = str(version).strip('"').encode()
    return Stamp(size, _positive(hashlib.blake2b(text, digest_size=8)))


def _positive(digest: Any) -> int:
    return int.from_bytes(digest.digest(), "little") >> 1 or 1


def _system(address: str) -> Any:
    """fsspec's file system of a scheme, one in each process. Its own tries are switched off:
    `_tried` is for all stores the same."""
    scheme = address.partition(":")[0]
    with _lock:
        if scheme not in _systems:
            options: dict[str, Any] = {"use_listings_cache": False}
            if scheme == "s3":
                options["config_kwargs"] = {
                    # Made anew for each request, and checked, they are a tenth of its cost.
                    "user_agent": "distreid",
                    "parameter_validation": False,
                    "max_pool_connections": IN_FLIGHT,
                    "connect_timeout": TIMEOUT_S,
                    "read_timeout": TIMEOUT_S,
                    "retries": {"max_attempts": 0},
                }
            fsspec = _library("fsspec")
            # Processes that were forked wait for ever for the thread of an earlier one.
            if tuple(map(int, fsspec.__version__.split(".")[:2])) < OLDEST:
                raise OptionError(f"fsspec {fsspec.__version__} is too old: {INSTALL}")
            _systems[scheme] = fsspec.filesystem(scheme, **options)
            _systems[scheme].retries = 1
        return _systems[scheme]


class _About(NamedTuple):
    """What errors say of an address that the user gave."""

    error: type[DataError | StoreError]
    check: str


_ABOUT_DATA = _About(DataError, "check --data")
_ABOUT_RUNS = _About(StoreError, "check the address of the run")


@contextlib.contextmanager
def _told(address: str, about: _About = _ABOUT_DATA, to_do: str = "read") -> Iterator[None]:
    """Turns what stores raise to one line."""
    try:
        yield
    except ImageError as error:
        if about is _ABOUT_RUNS and str(error) == CHANGED:
            raise about.error(f"{address}: changed while it was read; try again") from error
        raise about.error(f"{address}: {error}; {about.check}") from error
    except (OptionError, DataError, StoreError):
        raise
    except ImportError as error:
        ours = f"; {INSTALL}" if address.startswith(("s3", "http")) else ""
        raise OptionError(f"{address}: {_one_line(error)}{ours}") from error
    except FileNotFoundError as error:
        raise about.error(f"{address}: no such bucket or object; {about.check}") from error
    except Exception as error:
        reason = _reason(error, to_do)
        raise about.error(f"{address}: {reason}; try again, or {about.check}") from error


def _reason(error: BaseException, to_do: str = "read") -> str:
    if isinstance(error, PermissionError):
        return f"access is refused: are there credentials, and are they allowed to {to_do} it"
    if type(error).__name__ == "NoCredentialsError":
        return "no credentials are found; set them as its store wants it"
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return f"no answer within {TIMEOUT_S:g} s"
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160].rstrip(". ") or type(error).__name__


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OptionError(f"{name.partition('.')[0]} is not there: {INSTALL}") from error

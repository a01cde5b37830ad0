"""A rank's connection to the others: messages and signs of life, through torch's key-value store.

Only a thread of its own talks to the store. So the main thread can wait with a limit, and a
signal interrupts it at once, whatever has become of the network. Every second the thread
says which row its rank has reached. Rank 0 listens to everybody and everybody to rank 0:
when a rank has ended, rank 0 ends, and then all do.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import distributed as dist

from distreid.errors import FailedElsewhere, LaunchError, UserError

T = TypeVar("T")

ROLL_CALL_S = 300.0  # hosts may load Python from a slow disk, or be started one by one
BEAT_S = 1.0
SILENCE_BEATS = 120  # sorting a hundred million paths keeps a rank's thread from speaking
PARTING_BEATS = 3
POLL_S = 0.05
CHUNK = 4 << 20  # the store takes values of up to 8 MiB
AGAIN = "run the same command again to continue"

# How a rank can have ended.
DONE = "done"
FAILED = "failed"
STOPPED = "stopped"


@dataclass
class Peer:
    """What is known of another rank."""

    rank: int
    host: str = "?"
    row: int = -1
    """The last row that it has computed; -1 before the first."""
    ended: str = ""
    """`DONE`, `FAILED` (it has said why) or `STOPPED` (by a signal), or empty while it runs."""
    beat: int = -1
    """The number of its last sign of life."""
    heard: int = 0
    """The number of this rank's own beat when that came. No clock: while the whole job is
    suspended nobody falls silent."""

    def hear(self, said: bytes, now: int) -> None:
        """Takes in what it has said last, as of this rank's beat `now`."""
        host, row, ended, beat = json.loads(said)
        if beat != self.beat:
            self.heard = now
        self.host, self.row, self.ended, self.beat = host, row, ended, beat

    def silent(self, beats: int, now: int) -> bool:
        """Whether it neither speaks nor has said farewell."""
        return not self.ended and now - self.heard >= beats

    def missed(self, now: int) -> str:
        """Who is silent, where, since when, and how far it had come."""
        reached = f"its last row was {self.row}" if self.row >= 0 else "it had computed no row"
        seconds = round((now - self.heard) * BEAT_S)
        return f"rank {self.rank} on {self.host} has not been heard for {seconds} s; {reached}"


class Connection:
    """The connection of one rank. Made, `join`ed, and left with `part`.

    `launcher` is the process that started this one and is to outlive it, if there is such.
    """

    def __init__(self, rank: int, world_size: int, launcher: int | None = None) -> None:
        self.rank = rank
        self.peers = [Peer(r) for r in range(world_size)]
        self.row = -1
        """To be set by the rank: the last row that it has computed."""
        self._store: dist.Store | None = None
        self._beats = 0
        self._ended = ""
        self._lost: UserError | None = None
        self._answered = time.monotonic()
        self._launcher = launcher
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], futures.Future[Any]] | None]
        self._calls = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def join(self, connect: Callable[[], dist.Store]) -> None:
        """Waits until all ranks are here; LaunchError names those that do not come."""
        self._ask(lambda: self._roll_call(connect()), 3 * ROLL_CALL_S)

    def send(self, key: str, value: object) -> None:
        """Leaves a value for whoever asks for the key."""
        self.check()
        content = pickle.dumps(value)
        chunks = [content[start : start + CHUNK] for start in range(0, len(content), CHUNK)]
        for number, chunk in enumerate(chunks):
            self._ask(lambda n=number, c=chunk: self._joined.set(f"{key}/{n}", c))  # type: ignore[misc]
        self._ask(lambda: self._joined.set(key, str(len(chunks))))

    def receive(self, keys: Sequence[str]) -> list[Any]:
        """Waits until all the keys have values; raises as `check` does meanwhile."""
        self.check()
        while not self._ask(lambda: self._joined.check(list(keys))):
            time.sleep(POLL_S)
            self.check()
        return [self._ask(lambda key=key: self._fetch(key)) for key in keys]  # type: ignore[misc]

    def check(self) -> None:
        """Raises if another rank has ended, or cannot be heard any more.

        FailedElsewhere if that rank, or rank 0, says why; LaunchError otherwise.
        """
        self._check_launcher()
        if time.monotonic() - self._answered > SILENCE_BEATS * BEAT_S:
            # Unless the whole job was suspended: then the thread answers.
            self._ask(lambda: None, PARTING_BEATS * BEAT_S)
        if self._lost:
            raise self._lost

    def part(self, ended: str, *, wait: bool) -> None:
        """Says how this rank ended. Waiting, listens until each other one has ended too, or is
        silent: so who was lost is known, and the store outlives its last reader."""
        self._ended = ended
        if self._store:
            with contextlib.suppress(LaunchError):
                self._ask(lambda: self._beat(self.peers), PARTING_BEATS * BEAT_S)
                deadline = time.monotonic() + 2 * PARTING_BEATS * BEAT_S
                while wait and self._present() and time.monotonic() < deadline:
                    time.sleep(POLL_S)
                    self._ask(lambda: self._listen(self.peers), PARTING_BEATS * BEAT_S)
        self._calls.put(None)
        # Python aborts if a thread comes back from torch while it ends.
        self._thread.join(BEAT_S)

    def lost(self) -> str | None:
        """After parting: who has ended without a word, if anybody."""
        silent = (p for p in self._others() if p.silent(PARTING_BEATS, self._beats))
        return next((peer.missed(self._beats) for peer in silent), None)

    def speaks(self) -> bool:
        """After parting by a signal: whether it is this rank that tells the user, for all."""
        others = self._others()
        return not any(p.ended == FAILED or (p.ended and p.rank < self.rank) for p in others)

    def _present(self) -> bool:
        return any(not p.ended and not p.silent(PARTING_BEATS, self._beats) for p in self._others())

    @property
    def _joined(self) -> dist.Store:
        assert self._store is not None
        return self._store

    def _others(self) -> list[Peer]:
        return [p for p in self.peers if p.rank != self.rank]

    def _ask(self, work: Callable[[], T], limit_s: float | None = None) -> T:
        """Has the thread do it, and waits for it."""
        answer: futures.Future[T] = futures.Future()
        self._calls.put((work, answer))
        deadline = time.monotonic() + (SILENCE_BEATS * BEAT_S if limit_s is None else limit_s)
        while time.monotonic() < deadline:
            try:
                return answer.result(BEAT_S)
            except futures.TimeoutError:
                self._check_launcher()
            except RuntimeError as error:
                raise _store_is_gone(error) from error
        raise LaunchError(f"rank 0's host does not answer any more; {AGAIN}")

    def _check_launcher(self) -> None:
        if self._launcher not in (None, os.getppid()):
            raise LaunchError(f"torchrun on {socket.gethostname()} has ended; {AGAIN}")

    # What follows runs in the thread.

    def _serve(self) -> None:
        due = time.monotonic()
        while True:
            with contextlib.suppress(queue.Empty):
                if (call := self._calls.get(timeout=BEAT_S)) is None:
                    return
                work, answer = call
                try:
                    answer.set_result(work())
                except Exception as error:
                    answer.set_exception(error)
            if self._store and time.monotonic() >= due:
                due = time.monotonic() + BEAT_S
                lost = self._watch()  # goes on while this rank ends: the others listen
                self._lost = self._lost or lost

    def _watch(self) -> UserError | None:
        watched = self.peers if self.rank == 0 else self.peers[:1]
        try:
            self._beat(watched)
        except RuntimeError as error:
            return _store_is_gone(error)
        if any(peer.ended in (FAILED, STOPPED) for peer in watched):
            return FailedElsewhere("another rank has ended")
        silent = (peer for peer in watched if peer.silent(SILENCE_BEATS, self._beats))
        return next((LaunchError(f"{p.missed(self._beats)}; {AGAIN}") for p in silent), None)

    def _beat(self, watched: Sequence[Peer]) -> None:
        self._beats += 1
        sign = [socket.gethostname(), self.row, self._ended, self._beats]
        self._joined.set(f"sign/{self.rank}", json.dumps(sign))
        self._listen(watched)

    def _listen(self, watched: Sequence[Peer]) -> None:
        said = self._joined.multi_get([f"sign/{peer.rank}" for peer in watched])
        for peer, sign in zip(watched, said, strict=True):
            peer.hear(sign, self._beats)
        self._answered = time.monotonic()

    def _fetch(self, key: str) -> Any:
        count = int(self._joined.get(key))
        return pickle.loads(b"".join(self._joined.get(f"{key}/{n}") for n in range(count)))

    def _roll_call(self, store: dist.Store) -> None:
        """Finds the ranks of this start, in a store that may know those of a former one.

        torchrun keeps its store when it restarts the ranks. So every rank writes a word that
        it has made up; rank 0 reads out those it finds, again and again, with a name for this
        start; who hears its own word gives its first sign of life under that name.
        """
        word = secrets.token_hex(8)
        store.set(f"distreid/here/{self.rank}", word)
        deadline = time.monotonic() + ROLL_CALL_S
        missing = [0]
        while time.monotonic() < deadline:
            if self.rank == 0:
                missing = self._read_out(store, word)
            elif not self._store and store.check(["distreid/roll"]):
                name, words = json.loads(store.get("distreid/roll"))
                if words.get(str(self.rank)) == word:
                    self._store = dist.PrefixStore(name, store)
                    self._beat(self.peers[self.rank :][:1])
            if self._store and self._store.check(["complete"]):
                return
            time.sleep(POLL_S)
        raise LaunchError(
            f"rank {', '.join(map(str, missing))} of {len(self.peers)} has not come within "
            f"{ROLL_CALL_S / 60:.0f} minutes; see what its host says"
        )

    def _read_out(self, store: dist.Store, name: str) -> list[int]:
        """As rank 0; gives the ranks that have not answered yet."""
        keys = {rank: f"distreid/here/{rank}" for rank in range(len(self.peers))}
        words = {rank: store.get(k).decode() for rank, k in keys.items() if store.check([k])}
        store.set("distreid/roll", json.dumps([name, words]))
        if not self._store:
            self._store = dist.PrefixStore(name, store)
            self._beat(self.peers[:1])
        missing = [r for r in keys if not self._store.check([f"sign/{r}"])]
        if not missing:
            self._store.set("complete", "")
        return missing


def _store_is_gone(error: RuntimeError) -> LaunchError:
    reason = str(error).splitlines()[0][:120]
    return LaunchError(f"rank 0, or torchrun on its host, has ended ({reason}); {AGAIN}")

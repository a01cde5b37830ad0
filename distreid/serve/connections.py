"""HTTP connections that cannot be held for nothing, and whose refusals are read: the server's own,
with a clock.

uvicorn closes a connection that is idle after an answer, but waits for ever for a first request,
for the end of a request's head, and for a client that does not read. Where it refuses a request
whose rest is still being sent it closes at once, which TCP answers to the rest with a reset: the
client loses the answer that says why.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from distreid.serve.limits import ANSWER_S, BODY_S, HEAD_S, MAX_CONNECTIONS, MAX_HEAD_BYTES
from distreid.serve.problems import MEDIA, problem_of


class _Lingering:
    """A transport whose `close` reads on, and drops it, where more of a request is on its way."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport, self._connection = transport, connection
        self.lingers = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        is_sending = self._connection.conn.their_state in (h11.SEND_BODY, h11.ERROR)
        if not is_sending or self.is_closing():
            self._transport.close()
            return
        self.lingers = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()


class Connection(H11Protocol):
    """Of one client."""

    _looks: asyncio.TimerHandle | None = None
    _was_idle = _was_closing = False
    _seen: object = None
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio's. One too many is closed without a word."""
        super().connection_made(transport)
        self.transport: Any = _Lingering(transport, self)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._looks = self.loop.call_later(HEAD_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        if self._looks:
            self._looks.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        if not self.transport.lingers:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's, for what h11 does not take for a request. A problem as all others are."""
        status, detail = 400, msg
        if getattr(sys.exc_info()[1], "error_status_hint", None) == 431:
            status = 431
            detail = f"a head of more than {MAX_HEAD_BYTES:,} bytes; ask for less at once"
        problem = problem_of(status, detail)
        body = json.dumps(problem).encode()
        headers = [("Content-Type", MEDIA), ("Content-Length", f"{len(body)}")]
        headers += [("Connection", "close")]
        for event in (
            h11.Response(status_code=status, headers=headers, reason=problem["title"].encode()),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()

    def on_response_complete(self) -> None:
        """uvicorn's: from now on the next request is waited for."""
        self._was_idle = False
        super().on_response_complete()

    def _look(self) -> None:
        """Closes what asked for nothing since the last look, and cuts off who does not read."""
        now, cycle = self.loop.time(), self.cycle
        is_idle = cycle is None or cycle.response_complete
        is_closing = self.transport.is_closing()
        if cycle is not self._seen:
            self._seen, self._since = cycle, now
        is_late = not is_idle and now - self._since > BODY_S + ANSWER_S + HEAD_S
        if is_late or (is_closing and self._was_closing):
            self.transport.abort()
            return
        if is_idle and (self._was_idle or cycle is None):
            self.transport.close()
            is_closing = True
        self._was_idle, self._was_closing = is_idle, is_closing
        self._looks = self.loop.call_later(HEAD_S, self._look)

"""The socket that a service listens on."""

from __future__ import annotations

import asyncio
import socket

from distreid.serve.serve_command import listening


def test_an_answers_packets_leave_at_once() -> None:
    async def is_set() -> bool:
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            told.set_result(bool(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))
            writer.close()

        listener = listening("127.0.0.1", 0)
        async with await asyncio.start_server(answer, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            found = await told
            writer.close()
            await writer.wait_closed()
        return found

    assert asyncio.run(is_set())

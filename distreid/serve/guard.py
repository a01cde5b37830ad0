"""What every request passes before it is answered: names, tokens, sizes, times, and the count."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from distreid.serve.access import OPEN_PATHS, Access, plain_headers
from distreid.serve.limits import (
    ANSWER_S,
    BODY_S,
    MAX_BODY_BYTES,
    MAX_JSON_BYTES,
    MAX_REQUESTS,
    MAX_TENSOR_JSON_BYTES,
)
from distreid.serve.meters import Meters
from distreid.serve.problems import Problem, path_of, problem_response
from distreid.serve.request_parts import IN_A_FORM
from distreid.serve.request_rate import RequestRate

HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
UNCOUNTED = (  # answered also where all else is refused
    *("/healthz", "/readyz", "/metrics"),
    *("/v2/health/live", "/v2/health/ready"),
)
ASKS = ("/v1/search", "/v1/features", "/v1/session")  # posts that change nothing; inference too
METHODS = ("GET", "HEAD", "POST", "DELETE")  # others are counted as one


class Guard:
    """An ASGI application around another one."""

    def __init__(
        self, app: ASGIApp, access: Access, meters: Meters, rate: RequestRate | None = None
    ) -> None:
        self.app, self.access, self.meters, self.rate = app, access, meters, rate
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = 0
        request = HTTPConnection(scope)
        path, headers = path_of(request), plain_headers(request)

        async def send_guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = message["status"]
                own = [*message.get("headers", []), *HEADERS]
                if not any(name.lower() == b"cache-control" for name, _ in own):
                    own.append((b"cache-control", b"no-store"))
                message = {**message, "headers": own}
            await send(message)

        self.running += 1
        try:
            self._check(scope, path, headers)
            body = _Body(receive, _most_bytes(path, headers))
            await asyncio.wait_for(self.app(scope, body.receive, send_guarded), BODY_S + ANSWER_S)
        except (Problem, asyncio.TimeoutError) as error:
            if not begun:
                status = error.status if isinstance(error, Problem) else 503
                text = str(error) or "it took too long; ask for less at once"
                more = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
                # What of a body was not read would be taken for the next request.
                more |= {"Connection": "close"}
                await problem_response(path, status, text, more)(scope, receive, send_guarded)
        finally:
            self.running -= 1
            route = getattr(scope.get("route"), "path", "other")
            is_known = route != "other" and scope["method"] in METHODS
            method = scope["method"] if is_known else "other"
            self.meters.requests.labels(method, route, str(begun or 499)).inc()

    def _check(self, scope: Scope, path: str, headers: Mapping[str, str]) -> None:
        """Problem for what is not let in."""
        if not self.access.may_call(host := headers.get("host", "")):
            raise Problem(
                421,
                f"called {host or 'by no name'}: a service that only this machine reaches is "
                "called localhost; a proxy before it sends `Host: localhost`",
            )
        if not path.isprintable():
            # A route would answer a path with a line break as the one without.
            raise Problem(404, "no such path")
        if headers.get("content-type", "").lower().startswith("image/"):
            raise Problem(415, IN_A_FORM)  # before it is too large for a body in JSON
        method = scope["method"]
        asks = method == "POST" and (path in ASKS or path.endswith("/infer"))
        is_change = not (asks or method in ("GET", "HEAD"))
        if method not in ("GET", "HEAD") and headers.get("sec-fetch-site") in (
            "cross-site",
            "same-site",
        ):
            raise Problem(403, "asked by a page of another site")
        client = (scope.get("client") or ("", 0))[0]
        if self.rate and path not in UNCOUNTED and not self.rate.takes(client):
            raise Problem(429, f"more than {self.rate.rate:g} requests a second; ask less often")
        if self.running > MAX_REQUESTS and path not in UNCOUNTED:
            raise Problem(503, f"{MAX_REQUESTS} requests are being answered; try again later")
        if path not in OPEN_PATHS:
            role = self.access.role(headers)
            if role is None:
                raise Problem(401, "a token is wanted: Authorization: Bearer TOKEN")
            if is_change and role != "change":
                raise Problem(403, "this token may search; changing wants one of the other role")


class _Body:
    """A request's body, of bounded size and arriving in bounded time."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most, self._size, self._done = receive, most, 0, False
        self._until = asyncio.get_running_loop().time() + BODY_S

    async def receive(self) -> Message:
        """ASGI's; Problem for a body that is too large or too slow."""
        if self._done:
            return await self._receive()
        left = self._until - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(left, 0.001))
        except asyncio.TimeoutError:
            raise Problem(408, f"the body did not arrive within {BODY_S:.0f} s") from None
        self._size += len(message.get("body", b""))
        if self._size > self._most:
            raise Problem(413, f"a body of more than {self._most:,} bytes; send less at once")
        self._done = not message.get("more_body", False)
        return message


def _most_bytes(path: str, headers: Mapping[str, str]) -> int:
    """Of a body, by what it is said to be."""
    if path.endswith("/infer"):
        is_binary = "inference-header-content-length" in headers
        return MAX_BODY_BYTES if is_binary else MAX_TENSOR_JSON_BYTES
    has_images = headers.get("content-type", "").lower().startswith("multipart/")
    return MAX_BODY_BYTES if has_images else MAX_JSON_BYTES

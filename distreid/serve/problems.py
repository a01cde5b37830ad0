"""Errors as application/problem+json (RFC 9457): what is wrong, and what to do."""

from __future__ import annotations

import http
import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection

from distreid.errors import DataError, OptionError, StoreError, UserError, printable
from distreid.serve.limits import RETRY_S

MEDIA = "application/problem+json"
SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
LOG = logging.getLogger("distreid.serve")
ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"description": says, "content": {MEDIA: {"schema": SCHEMA}}}
    for code, says in {
        400: "It cannot be meant, or is no image",
        401: "No token, or an unknown one",
        403: "The token is of the other role",
        404: "No such row, or none is served",
        408: "The body came too slowly",
        413: "The body is too large",
        415: "The body is of another kind, such as an image that is in no form",
        421: "The service is not called so",
        422: "A field is not as described",
        429: "Too many requests of this client; see Retry-After",
        431: "The head, which has the URL, is too large",
        503: "Too much at once; see Retry-After",
    }.items()
}
"""What every route may answer beside what it says itself."""


class Problem(Exception):
    """An answer that is an error; its text says what to do."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Busy(Problem):
    """More is asked than the service holds: come back later."""

    def __init__(self, detail: str) -> None:
        super().__init__(503, f"{detail}; try again later")


def problem_of(status: int, detail: str) -> dict[str, Any]:
    """What an answer says that is an error."""
    title = http.HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": status, "detail": printable(detail)}


def problem_response(
    path: str, status: int, detail: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer; with 429 and 503 goes when to come back. Below /v2 it says `error` too, which is
    what clients of that protocol look for."""
    later = {"Retry-After": str(RETRY_S)} if status in (429, 503) else {}
    said = problem_of(status, detail)
    return JSONResponse(
        said | ({"error": said["detail"]} if path == "/v2" or path.startswith("/v2/") else {}),
        status,
        later | dict(headers or {}),
        MEDIA,
    )


def path_of(request: HTTPConnection) -> str:
    """As the routes have it: without the part that a proxy before the service was reached by."""
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", ""))


def add_handlers(app: FastAPI) -> None:
    """Turns every exception into such an answer."""

    async def of_validation(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, (RequestValidationError, ValidationError))
        return problem_response(path_of(request), 422, validation_text(error))

    async def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        path = path_of(request)
        detail = f"{request.method} {path}: {error.detail}"
        return problem_response(path, error.status_code, detail, error.headers)

    async def of_problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return problem_response(path_of(request), error.status, str(error))

    async def of_left(request: Request, error: Exception) -> JSONResponse:
        return problem_response(path_of(request), 400, "the client has left")  # nobody reads it

    async def of_user(request: Request, error: Exception) -> JSONResponse:
        mistake = isinstance(error, (OptionError, DataError))
        status = 400 if mistake else 503 if isinstance(error, StoreError) else 422
        return problem_response(path_of(request), status, str(error))

    async def of_fault(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises it again, so that the server's log has its traceback.
        return problem_response(path_of(request), 500, "a fault of the service; its log says more")

    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(ValidationError, of_validation)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Problem, of_problem)
    app.add_exception_handler(ClientDisconnect, of_left)
    app.add_exception_handler(UserError, of_user)
    app.add_exception_handler(Exception, of_fault)


def validation_text(error: RequestValidationError | ValidationError) -> str:
    """The first fault of a request's fields."""
    first = error.errors()[0]
    said = first["msg"].removeprefix("Value error, ")
    if first["type"] == "model_type":
        said = "an object of JSON is wanted"
    place = ".".join(str(part) for part in first["loc"] if part not in ("query", "path", "body"))
    return f"{place}: {said}" if place else said

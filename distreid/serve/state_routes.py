"""How the service is, for machines that look after it; and the page's session."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from distreid.serve.access import COOKIE
from distreid.serve.messages import State
from distreid.serve.problems import ERRORS, Problem
from distreid.serve.request_parts import read_json
from distreid.serve.service import service_of

ROUTES = APIRouter(responses=ERRORS)


@ROUTES.post("/v1/session", response_model=State)
async def session(request: Request, response: Response) -> State:
    """Takes `{"token": …}`, and keeps it in a cookie that no script sees: for the page."""
    content = await read_json(request)
    token = content.get("token") if isinstance(content, dict) else None
    access = service_of(request).access
    if access.tokens is None:
        return State(status="no token is wanted")
    role = access.role_of(token) if isinstance(token, str) else None
    if role is None:
        raise Problem(401, "an unknown token")
    secure = request.url.scheme == "https"
    path = request.scope.get("root_path") or "/"
    response.set_cookie(
        COOKIE, str(token), path=path, httponly=True, samesite="strict", secure=secure
    )
    return State(status=role)


@ROUTES.head("/healthz", include_in_schema=False)
@ROUTES.get("/healthz", response_model=State)
async def healthz() -> State:
    """Whether the process lives."""
    return State(status="ok")


@ROUTES.head("/readyz", include_in_schema=False)
@ROUTES.get("/readyz", response_model=State)
async def readyz(request: Request) -> State:
    """Whether model and gallery answer."""
    if problem := service_of(request).problem:
        raise Problem(503, problem)
    return State(status="ready")


@ROUTES.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    service = service_of(request)
    service.count()
    return Response(service.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

"""The page for people, what it is made of, and the interface described for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
from fastapi import APIRouter, Request, Response

PAGE = Path(__file__).parent / "page_files"
PAGE_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        f"/{name}": (name, "text/javascript; charset=utf-8")
        for name in ("page.js", "box.js", "export.js", "care.js")
    },
}
ROUTES = APIRouter()


@ROUTES.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The interface for people, made of its OpenAPI description."""
    template = _templates().get_template("docs.html")
    content = template.render(api=request.app.openapi(), dumped=_dumped)
    return Response(content, media_type="text/html; charset=utf-8")


@ROUTES.get("/", include_in_schema=False)
@ROUTES.get("/page.css", include_in_schema=False)
@ROUTES.get("/page.js", include_in_schema=False)
@ROUTES.get("/box.js", include_in_schema=False)
@ROUTES.get("/export.js", include_in_schema=False)
@ROUTES.get("/care.js", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page, and what it is made of."""
    name, kind = PAGE_FILES[request.scope["route"].path]
    return Response((PAGE / name).read_bytes(), media_type=kind)


@ROUTES.get("/favicon.ico", include_in_schema=False)
async def icon() -> Response:
    """None: browsers ask for it."""
    return Response(status_code=204)


def _templates() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.FileSystemLoader(PAGE), autoescape=True)


def _dumped(value: Any) -> str:
    return json.dumps(value, indent=2)

"""The HTTP application: its routes, what guards them, and what runs beside them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI

from distreid.interface.loaded_model import Model
from distreid.serve import (
    change_routes,
    inference_protocol,
    page_routes,
    search_routes,
    state_routes,
)
from distreid.serve.access import OPEN_PATHS, Access
from distreid.serve.guard import Guard
from distreid.serve.problems import add_handlers
from distreid.serve.request_rate import RequestRate
from distreid.serve.served_gallery import ServedGallery
from distreid.serve.service import Service

GROUPS = (search_routes, change_routes, inference_protocol, state_routes, page_routes)


def make_app(
    gallery: ServedGallery | None,
    model: Model | None,
    access: Access,
    rate: RequestRate | None = None,
) -> FastAPI:
    """The application, for a server of ASGI."""
    from distreid import __version__

    service = Service(gallery, model, access)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.count()
        running = asyncio.ensure_future(service.run())
        yield
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    app = FastAPI(
        title="distreid",
        version=__version__,
        description="Search of a gallery of persons, and features of images.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    if access.tokens is not None:
        app.openapi = lambda: _with_token(app)  # type: ignore[method-assign]
    for group in GROUPS:
        app.include_router(group.ROUTES)
    app.add_middleware(Guard, access=access, meters=service.meters, rate=rate)
    add_handlers(app)
    return app


def _with_token(app: FastAPI) -> dict[str, Any]:
    """The description of the API, which says where a token is wanted. FastAPI keeps it."""
    if app.openapi_schema is None:
        description = FastAPI.openapi(app)
        bearer = {"type": "http", "scheme": "bearer", "description": "a line of --token-file"}
        description["components"]["securitySchemes"] = {"token": bearer}
        description["security"] = [{"token": []}]
        for path in description["paths"].keys() & {*OPEN_PATHS}:
            for operation in description["paths"][path].values():
                operation["security"] = []
    return FastAPI.openapi(app)

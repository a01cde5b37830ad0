"""The HTTP application: its routes, what guards them, and what runs beside them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from distreid.interface.loaded_model import Model
from distreid.serve import (
    change_routes,
    inference_protocol,
    page_routes,
    search_routes,
    state_routes,
)
from distreid.serve.access import Access
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
    for group in GROUPS:
        app.include_router(group.ROUTES)
    app.add_middleware(Guard, access=access, meters=service.meters, rate=rate)
    add_handlers(app)
    return app

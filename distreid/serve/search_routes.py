"""Asking a gallery: search, features, rows, pictures. Nothing here changes it."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Depends, Query, Request, Response
from PIL import Image

from distreid.data.locators import locate
from distreid.data.manifest import NO_CAMERA, NO_PERSON
from distreid.errors import ImageError
from distreid.images.preprocess import pixels_of
from distreid.interface.opened_gallery import Gallery
from distreid.report.frames_picture import framed
from distreid.report.plots import BLUE
from distreid.search.gallery import Filter
from distreid.serve.access import plain_headers
from distreid.serve.limits import (
    FRAME_HEIGHT,
    FRAME_WIDTH,
    MAX_TOP,
    MAX_WIDTH,
    MAX_WORDS,
    MIN_WIDTH,
)
from distreid.serve.messages import (
    ROW_LIMIT,
    AboutGallery,
    Asked,
    AskedByRow,
    Features,
    Found,
    ListedRow,
    ListedRows,
    ListedRun,
    RowId,
    Word,
)
from distreid.serve.problems import ERRORS, Problem
from distreid.serve.request_parts import (
    LISTS,
    check_parameters,
    form_schema,
    kind_of,
    read_form,
    read_json,
    unless_left,
)
from distreid.serve.searching import Wanted, place_of_row, thumbnail
from distreid.serve.served_gallery import Held
from distreid.serve.service import Service, service_of

NPY = "application/x-npy"
LISTED_CAMERAS = 200
LISTED_RUNS = 100
ROUTES = APIRouter(responses=ERRORS, dependencies=[Depends(check_parameters)])


@ROUTES.post(
    "/v1/search",
    response_model=Found,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                **form_schema(Asked),
                "application/json": {"schema": AskedByRow.model_json_schema()},
            },
        }
    },
)
async def search(request: Request) -> Found:
    """Who is this: by images of a form, or by a row or a feature in JSON."""
    service = service_of(request)
    _ = service.gallery  # a Problem without one, before images are computed
    if kind_of(request) == "multipart/form-data":
        images, fields = await read_form(request, LISTS)
        asked = Asked.model_validate(fields)
        features = await unless_left(request, service.features(images))
        wanted = Wanted(asked=asked, features=features)
    else:
        by_row = AskedByRow.model_validate(await read_json(request))
        given = None if by_row.feature is None else np.array(by_row.feature)
        wanted = Wanted(asked=by_row, row=by_row.row, features=given)
    return await unless_left(request, service.search(wanted))


@ROUTES.post(
    "/v1/features",
    response_model=Features,
    openapi_extra={"requestBody": {"required": True, "content": form_schema(None)}},
)
async def features(request: Request) -> Response:
    """Unit vectors of images, in JSON, or with `Accept: application/x-npy` as that."""
    service = service_of(request)
    images, fields = await read_form(request, ())
    if fields:
        raise Problem(422, f"{min(fields)}: features have no such field")
    found = await unless_left(request, service.features(images))
    if NPY in request.headers.get("accept", ""):
        stream = io.BytesIO()
        np.save(stream, found, allow_pickle=False)
        return Response(stream.getvalue(), media_type=NPY)
    content = Features(features=found.tolist(), dim=found.shape[1])
    return Response(content.model_dump_json(), media_type="application/json")


@ROUTES.get(
    "/v1/images/{row}",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}},
)
async def image(
    request: Request,
    row: RowId,
    width: Annotated[int | None, Query(ge=MIN_WIDTH, le=MAX_WIDTH)] = None,
    frame: bool = False,
) -> Response:
    """The picture of a row as a JPEG without metadata, never wider than it is. With `frame`, of a
    box the whole frame with the box drawn in it, 1,280 pixels at most; of any other row that is
    its picture."""
    service = service_of(request)
    gallery = service.gallery
    jpeg = await service.in_thread(
        lambda: gallery.answer(lambda held: _jpeg(_image_file(held, row), width, frame))
    )
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=60"})


@ROUTES.get("/v1/gallery", response_model=AboutGallery)
async def about(request: Request) -> AboutGallery:
    """What is served."""
    service = service_of(request)
    gallery, may_change = service.gallery, service.access.role(plain_headers(request)) == "change"
    return await service.in_thread(
        lambda: gallery.answer(lambda held: _about(service, held, may_change))
    )


@ROUTES.get("/v1/rows", response_model=ListedRows)
async def rows(
    request: Request,
    first: Annotated[int, Query(ge=0, le=ROW_LIMIT)] = 0,
    top: Annotated[int, Query(ge=1, le=MAX_TOP)] = 100,
    persons: Annotated[list[Word] | None, Query(max_length=MAX_WORDS)] = None,
    cameras: Annotated[list[Word] | None, Query(max_length=MAX_WORDS)] = None,
) -> ListedRows:
    """Rows from an id on, of these persons and cameras."""
    service = service_of(request)
    gallery = service.gallery
    which = Filter(
        persons=None if persons is None else tuple(persons),
        cameras=None if cameras is None else tuple(cameras),
    )
    return await service.in_thread(
        lambda: gallery.answer(lambda held: _listed(held.gallery, first, top, which))
    )


def _listed(gallery: Gallery, first: int, top: int, which: Filter) -> ListedRows:
    reader = gallery.reader
    found = []
    for part, before in reader.based(reader.parts(which)):
        places = part.places[np.searchsorted(part.ids[part.places], first) :]
        found.append(before + places[: top + 1].astype(np.int64))
        if sum(map(len, found)) > top:
            break
    place = np.concatenate([*found, np.empty(0, np.int64)])[: top + 1]
    ids = np.concatenate([np.asarray(run.columns.row) for run in reader.runs])[place].tolist()
    listed = zip(
        ids,
        *(
            [
                None if number == unknown else name
                for number, name in zip(
                    reader.column(f"{what}_id", place).tolist(),
                    reader.names(what, place).tolist(),
                    strict=True,
                )
            ]
            for what, unknown in (("person", NO_PERSON), ("camera", NO_CAMERA))
        ),
        reader.column("time", place).tolist(),
        strict=True,
    )
    return ListedRows(
        rows=[
            ListedRow(
                row=row,
                person=person,
                camera=camera,
                time=None if math.isnan(time) else time,
                image=thumbnail(row),
            )
            for row, person, camera, time in listed
        ][:top],
        following=ids[top] if len(ids) > top else None,
        generation=gallery.generation,
    )


def _about(service: Service, held: Held, may_change: bool) -> AboutGallery:
    reader = held.gallery.reader
    cameras = reader.words("camera") - {str(NO_CAMERA)}
    in_order = sorted(cameras, key=lambda name: (not name.isdecimal(), len(name), name))
    return AboutGallery(
        generation=held.gallery.generation,
        rows=len(held.gallery),
        hidden=len(reader.hidden),
        marks=held.marks,
        runs=[
            ListedRun(run=Path(each.run).name, rows=each.count, owned=each.owned)
            for each in reader.generation.segments[-LISTED_RUNS:]
        ],
        may_change=may_change,
        dim=held.gallery.dim,
        threshold=held.threshold,
        takes_images=service.model is not None,
        cameras=in_order[:LISTED_CAMERAS],
        space=reader.generation.space,
    )


def _image_file(held: Held, row: int) -> Path:
    return held.gallery.reader.file(place_of_row(held, row))


def _jpeg(file: Path, width: int | None, in_frame: bool) -> bytes:
    try:
        if in_frame and locate(file).box is not None:
            size = min(width or FRAME_WIDTH, FRAME_WIDTH), FRAME_HEIGHT
            return _encoded(framed(file, BLUE, *size))
        pixels = pixels_of(file, exif_transpose=True)
    except FileNotFoundError:
        raise Problem(404, "the picture is not where it was when the row was added") from None
    except ImageError as error:
        raise Problem(404, f"the picture cannot be read any more: {error}") from error
    picture = Image.fromarray(pixels)
    if width and width < picture.width:
        height = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, height))
    return _encoded(picture)


def _encoded(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    # A JPEG has at most 65,535 pixels a side, which only a strip of a picture exceeds.
    picture.thumbnail((65_500, 65_500))
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()

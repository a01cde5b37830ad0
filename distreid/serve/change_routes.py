"""Changing a gallery: images are added, rows removed, hits marked; each is a new generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Header, Request, Response

from distreid.search.changes import mark_hits, remove
from distreid.search.gallery import checked_queries
from distreid.search.marks import Marks
from distreid.search.sent_images import SentImages
from distreid.serve.limits import MAX_KEY
from distreid.serve.messages import (
    Added,
    AskedMarks,
    AskedMarksByRow,
    Gone,
    KnownOfImages,
    Marked,
    RowId,
)
from distreid.serve.problems import ERRORS, Problem
from distreid.serve.request_parts import (
    check_parameters,
    form_schema,
    kind_of,
    read_form,
    read_json,
    unless_left,
)
from distreid.serve.searching import place_of_row
from distreid.serve.service import service_of

NPZ = "application/octet-stream"
ROUTES = APIRouter(responses=ERRORS, dependencies=[Depends(check_parameters)])
Value = TypeVar("Value")


@ROUTES.post(
    "/v1/images",
    response_model=Added,
    status_code=201,
    openapi_extra={"requestBody": {"required": True, "content": form_schema(KnownOfImages)}},
)
async def add(
    request: Request,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=MAX_KEY)] = None,
) -> Added:
    """Adds images with what is known of them, answered when they are durable. With an
    `Idempotency-Key` the same request can be sent again for 24 hours, and adds nothing twice."""
    service = service_of(request)
    _ = service.gallery
    assert service.writer
    images, fields = await read_form(request, ("person", "camera", "time"))
    known = KnownOfImages.model_validate(fields)
    count = len(images)
    kept = await unless_left(request, service.queue.made(images, service.kept))
    sent = SentImages(
        key=idempotency_key or "",
        images=kept,
        features=await unless_left(request, service.features(kept)),
        persons=_of_each("person", known.person, count),
        cameras=_of_each("camera", known.camera, count),
        times=_of_each("time", known.time or [None], count),
    )
    done = await service.writer.add(sent)
    service.count()
    rows = [*range(done.first_row, done.first_row + done.count)]
    return Added(rows=rows, generation=done.generation)


@ROUTES.delete("/v1/rows/{row}", response_model=Gone)
async def delete(request: Request, row: RowId, erase: bool = False) -> Gone:
    """Hides a row, or erases it from every byte of the gallery."""
    service = service_of(request)
    gallery, writer = service.gallery, service.writer
    assert writer

    def removed() -> Gone:
        with gallery.reading() as held:
            place_of_row(held, row, hidden=erase)  # what is hidden can be erased still
        done = remove(gallery.folder, writer.manner, rows=[row], erase=erase)
        gallery.take_over()
        return Gone(
            rows=done.rows,
            erased=done.erased,
            generation=gallery.now.generation,
            still_in=list(done.elsewhere),
        )

    done = await writer.change(removed)
    service.count()
    return done


@ROUTES.post(
    "/v1/marks",
    response_model=Marked,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                **form_schema(AskedMarks),
                "application/json": {"schema": AskedMarksByRow.model_json_schema()},
            },
        }
    },
)
async def mark(request: Request) -> Marked:
    """Keeps which hits of a query are right and wrong. The query is a row or a feature in JSON, or
    the images of a form, which show one person."""
    service = service_of(request)
    gallery, writer = service.gallery, service.writer
    assert writer
    row, feature = None, np.empty(0)
    if kind_of(request) == "multipart/form-data":
        images, fields = await read_form(request, ("right", "wrong", "unmarked"))
        asked: AskedMarks = AskedMarks.model_validate(fields)
        feature = (await unless_left(request, service.features(images))).mean(axis=0)
    else:
        asked = by_row = AskedMarksByRow.model_validate(await read_json(request))
        row, feature = by_row.row, np.array(by_row.feature or [], np.float64)

    if row is not None and row in (*asked.right, *asked.wrong):
        raise Problem(422, f"row {row}: is the query itself, of which it says nothing")

    def marked() -> Marked:
        with gallery.reading() as held:
            of_query = feature
            if row is not None:
                place_of_row(held, row)
                of_query = held.gallery.features([row])[0]
            for each in (*asked.right, *asked.wrong):
                place_of_row(held, each)
            unit = checked_queries(of_query, held.gallery.dim)[0].astype(np.float32)
        marks = Marks(
            feature=unit,
            row=row,
            right=asked.right,
            wrong=asked.wrong,
            unmarked=asked.unmarked,
        )
        mark_hits(gallery.folder, marks, writer.manner)
        gallery.take_over()
        with gallery.reading() as held:
            return Marked(marks=held.marks, generation=held.gallery.generation)

    done = await writer.change(marked)
    service.count()
    return done


@ROUTES.get("/v1/labels", response_class=Response, responses={200: {"content": {NPZ: {}}}})
async def labels(request: Request) -> Response:
    """All marks as the file that `distreid evaluate` and `distreid calibrate` take, an .npz."""
    service = service_of(request)
    gallery = service.gallery

    def content() -> bytes:
        with gallery.reading() as held:
            entry = held.gallery.reader.generation.labels
            if entry is None:
                raise Problem(404, "no hit was marked yet")
            return (gallery.folder / entry).read_bytes()

    attached = {"Content-Disposition": 'attachment; filename="labels.npz"'}
    return Response(await service.in_thread(content), media_type=NPZ, headers=attached)


def _of_each(name: str, given: Sequence[Value], count: int) -> list[Value]:
    """One value for each image."""
    if len(given) not in (1, count):
        raise Problem(422, f"{name}: {len(given)} for {count} images; give one, or one for each")
    return [*given] * (count if len(given) == 1 else 1)

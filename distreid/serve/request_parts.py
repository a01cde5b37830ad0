"""What a request carries: a form with images, JSON; and whether its client is still there."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from distreid.serve.limits import ANSWER_S, MAX_BODY_BYTES, MAX_IMAGES, MAX_JSON_BYTES
from distreid.serve.problems import Problem

Result = TypeVar("Result")
IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM")
IN_A_FORM = (
    "images are sent in a form, as its field `image` (multipart/form-data; curl -F image=@FILE)"
)
LISTS = ("cameras", "persons", "not_persons")
"""What may be given several times."""


def kind_of(request: Request) -> str:
    """The media type of its body, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def check_parameters(request: Request) -> None:
    """Problem for a parameter of the URL that the route does not have, or that is given twice and
    no list: what was meant by it would else not be done, without a word."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    counts = Counter(name for name, _ in request.query_params.multi_items())
    for name, count in counts.items():
        if name not in known:
            there = f"; there are {', '.join(known)}" if known else ""
            raise Problem(422, f"{name}: no such parameter{there}")
        if count > 1 and name not in LISTS:
            raise Problem(422, f"{name}: given twice")


async def read_form(request: Request, lists: Sequence[str]) -> tuple[list[bytes], dict[str, Any]]:
    """The images of a form, and its other fields; those that are `lists` may be given several
    times."""
    if kind_of(request) != "multipart/form-data":
        raise Problem(415, IN_A_FORM)
    try:
        async with contextlib.aclosing(request.stream()) as stream:
            parser = MultiPartParser(
                request.headers, stream, max_files=MAX_IMAGES, max_part_size=MAX_JSON_BYTES
            )
            parser.spool_max_size = MAX_BODY_BYTES  # in memory: nothing that is sent is on a disk
            form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, error.message) from error
    except UnicodeError as error:
        raise Problem(400, "the form is not of its charset; send it in UTF-8") from error
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(form.close)
        images: list[bytes] = []
        fields: dict[str, Any] = {}
        for name, value in form.multi_items():
            if name == "image":
                if not isinstance(value, UploadFile):
                    raise Problem(422, "image: a file is wanted, with a filename")
                images.append(await value.read())
            elif isinstance(value, UploadFile):
                raise Problem(422, f"{name}: files are named image")
            elif name in lists:
                fields.setdefault(name, []).append(value)
            elif name in fields:
                raise Problem(422, f"{name}: given twice")
            else:
                fields[name] = value
    if not images:
        raise Problem(422, "image: one or more are wanted")
    return images, fields


async def read_json(request: Request) -> Any:
    """A body in JSON."""
    content = await request.body()
    if content.startswith(IMAGE_STARTS):
        raise Problem(415, IN_A_FORM)
    return parse_json(content)


def parse_json(content: bytes) -> Any:
    """Without NaN and infinity; Problem for what is no JSON, or names a field twice."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise Problem(422, f"{max(names, key=names.count)}: given twice")
        return found

    try:
        return json.loads(content, parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Problem(400, f"no JSON: {why}") from error


async def unless_left(request: Request, answer: Awaitable[Result]) -> Result:
    """The answer, unless the client leaves before: then it is cancelled, and not computed if that
    has not been begun."""
    working = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait(
            (working, leaving), timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED
        )
        if working.done():
            return working.result()
        raise Problem(503, "it took too long; ask for less at once")
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def form_schema(fields: type[BaseModel] | None) -> dict[str, Any]:
    """How OpenAPI describes a form of images with these fields."""
    image = {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_IMAGES,
        "items": {"type": "string", "format": "binary"},
    }
    schema = {} if fields is None else fields.model_json_schema()
    return {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "additionalProperties": False,
                "properties": {"image": image} | schema.get("properties", {}),
            }
        }
    }

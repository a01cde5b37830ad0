"""The Open Inference Protocol, version 2, which KServe and Triton speak: images in, features out.

Of its extensions the binary one is there: numbers as bytes behind the JSON, whose length the header
`Inference-Header-Content-Length` tells. https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
and Triton's document of the extension say what is sent.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from distreid.host.counts import whole_number
from distreid.serve.limits import MAX_IMAGES
from distreid.serve.problems import ERRORS, Problem
from distreid.serve.request_parts import parse_json, unless_left
from distreid.serve.service import Service, service_of

NAME, VERSION = "distreid", "1"
MODEL = f"/v2/models/{NAME}"
HEADER_LENGTH = "inference-header-content-length"
BINARY = "application/octet-stream"
ROUTES = APIRouter(responses=ERRORS)
Text = Annotated[str, Field(max_length=200)]
Parameters = dict[str, bool | int | float | str]


class Input(BaseModel):
    """`images`, (N, 3, H, W): RGB as the network takes it, before it is normalised."""

    model_config = ConfigDict(extra="forbid")

    name: Literal["images"]
    datatype: Literal["UINT8"]
    shape: Annotated[list[Annotated[int, Field(ge=1, le=2**31)]], Field(min_length=4, max_length=4)]
    data: list[Any] | None = None
    """Numbers, nested or in a row; null where they follow as bytes."""
    parameters: Parameters = {}
    """`binary_data_size`: how many bytes follow."""


class WantedOutput(BaseModel):
    """`features`, (N, D)."""

    model_config = ConfigDict(extra="forbid")

    name: Literal["features"]
    parameters: Parameters = {}
    """`binary_data`: whether they are to come as bytes."""


class AskedInference(BaseModel):
    """One batch."""

    model_config = ConfigDict(extra="forbid")

    id: Text | None = None
    inputs: Annotated[list[Input], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[WantedOutput], Field(max_length=1)] = []
    parameters: Parameters = {}
    """`binary_data_output`: the same for all outputs that say nothing."""


class Output(BaseModel):
    """Unit features, FP32."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | None = None
    parameters: Parameters | None = None


class Inference(BaseModel):
    """What was computed."""

    model_name: str = NAME
    model_version: str = VERSION
    id: str | None = None
    outputs: list[Output]


class Metadata(BaseModel):
    """Of a tensor; −1 where the size is the request's."""

    name: str
    datatype: str
    shape: list[int]


class AboutModel(BaseModel):
    """What the model takes and gives."""

    name: str = NAME
    versions: list[str] = [VERSION]
    platform: str
    inputs: list[Metadata]
    outputs: list[Metadata]


class AboutServer(BaseModel):
    """Who answers."""

    name: str
    version: str
    extensions: list[str]


class IsLive(BaseModel):
    """Whether the process lives."""

    live: bool


class IsReady(BaseModel):
    """Whether it, or its model, answers."""

    ready: bool


@ROUTES.get("/v2", response_model=AboutServer)
async def about_server() -> AboutServer:
    """The service, in the protocol's words."""
    from distreid import __version__

    return AboutServer(name=NAME, version=__version__, extensions=["binary_tensor_data"])


@ROUTES.get("/v2/health/live", response_model=IsLive)
async def live() -> IsLive:
    """Whether the process lives."""
    return IsLive(live=True)


@ROUTES.get("/v2/health/ready", response_model=IsReady)
@ROUTES.get(f"{MODEL}/ready", response_model=IsReady)
@ROUTES.get(f"{MODEL}/versions/{VERSION}/ready", response_model=IsReady)
async def ready(request: Request) -> IsReady:
    """Whether features are computed."""
    service = service_of(request)
    _ = service.queue
    if service.problem:
        raise Problem(503, service.problem)
    return IsReady(ready=True)


@ROUTES.get(MODEL, response_model=AboutModel)
@ROUTES.get(f"{MODEL}/versions/{VERSION}", response_model=AboutModel)
async def about_model(request: Request) -> AboutModel:
    """The model's inputs and outputs."""
    service = service_of(request)
    _ = service.queue
    assert service.model
    shape = [-1, *_size(service)]
    return AboutModel(
        platform=f"distreid_{service.model.engine}",
        inputs=[Metadata(name="images", datatype="UINT8", shape=shape)],
        outputs=[Metadata(name="features", datatype="FP32", shape=[-1, service.model.dim])],
    )


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": AskedInference.model_json_schema()},
            BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@ROUTES.post(f"{MODEL}/infer", response_model=Inference, openapi_extra=_BODY)
@ROUTES.post(f"{MODEL}/versions/{VERSION}/infer", response_model=Inference, openapi_extra=_BODY)
async def infer(request: Request) -> Response:
    """Features of images, the job's own."""
    service = service_of(request)
    queue, body = service.queue, await request.body()
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(400, "Content-Encoding: compressed bodies are not taken")
    length = request.headers.get(HEADER_LENGTH)
    asked, pixels = await service.in_thread(lambda: _read(service, body, length))
    found = await unless_left(request, queue.features_of_pixels(pixels))
    return _answer(asked, found)


def _size(service: Service) -> tuple[int, int, int]:
    assert service.model
    preprocess = service.model.preprocess
    return 3, preprocess.height, preprocess.width


def _read(service: Service, body: bytes, length: str | None) -> tuple[AskedInference, torch.Tensor]:
    """What is asked, and (N, 3, H, W) uint8."""
    end = len(body)
    if length is not None:
        number = whole_number(length)
        if number is None or not 0 <= number <= end:
            raise Problem(400, f"{HEADER_LENGTH}: not within the body's {end:,} bytes")
        end = number
    asked: AskedInference = AskedInference.model_validate(parse_json(body[:end]))
    images = asked.inputs[0]
    wanted = _size(service)
    if tuple(images.shape[1:]) != wanted or images.shape[0] > MAX_IMAGES:
        sizes = " × ".join(map(str, wanted))
        raise Problem(
            422,
            f"images: {images.shape} is their shape; at most {MAX_IMAGES} of {sizes} are wanted",
        )
    count = math.prod(images.shape)
    rest = body[end:]
    if images.data is None:
        said = images.parameters.get("binary_data_size")
        if length is None or said != len(rest) or len(rest) != count:
            raise Problem(
                422, f"images: {count:,} bytes are wanted behind the JSON, {len(rest):,} are there"
            )
        values = np.frombuffer(bytearray(rest), np.uint8)
    else:
        if rest:
            raise Problem(422, "images: numbers in the JSON, and bytes behind it; one of the two")
        values = _numbers(images.data, count)
    return asked, torch.from_numpy(values.reshape(images.shape))


def _numbers(data: list[Any], count: int) -> NDArray[np.uint8]:
    try:
        values = np.asarray(data)
    except ValueError:
        values = np.empty(0)
    if values.size != count or values.dtype.kind not in "iu":
        raise Problem(422, f"data: {count:,} whole numbers are wanted")
    if values.min() < 0 or values.max() > 255:
        raise Problem(422, "data: from 0 to 255")
    return values.astype(np.uint8)


def _answer(asked: AskedInference, features: NDArray[np.float32]) -> Response:
    binary = asked.parameters.get("binary_data_output", False)
    if asked.outputs:
        binary = asked.outputs[0].parameters.get("binary_data", binary)
    output = Output(name="features", datatype="FP32", shape=list(features.shape))
    content = features.astype("<f4").tobytes() if binary is True else b""
    if content:
        output.parameters = {"binary_data_size": len(content)}
    else:
        output.data = features.ravel().tolist()
    said = Inference(id=asked.id, outputs=[output]).model_dump(exclude_none=True)
    head = json.dumps(said).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))} if content else {}
    return Response(head + content, 200, headers, BINARY if content else "application/json")

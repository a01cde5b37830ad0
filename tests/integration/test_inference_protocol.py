"""The Open Inference Protocol: a Triton client gets the job's features from `distreid serve`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from running_service import refused, serving
from small_runs import make_run

import distreid
from distreid.cli import main
from distreid.data.source import SAMPLE_FOLDER
from distreid.serve.inference_protocol import MODEL
from distreid.serve.limits import MAX_IMAGES, MAX_TENSOR_JSON_BYTES

QUERIES = sorted((SAMPLE_FOLDER / "query").glob("*.jpg"))[:11]


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serving("--checkpoint", "sample") as (client, _):
        yield client


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    model = distreid.load_model("sample")
    return torch.stack([model.pixels(file.read_bytes()) for file in QUERIES]).numpy()


@pytest.fixture(scope="module")
def features() -> NDArray[np.float32]:
    return distreid.load_model("sample").features(QUERIES)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("asks_output", [True, False])
def test_a_triton_client_gets_the_job_s_features(
    client: httpx.Client,
    images: NDArray[np.uint8],
    features: NDArray[np.float32],
    binary: bool,
    asks_output: bool,
) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
    asking = triton.InferenceServerClient(client.base_url.netloc.decode())
    assert asking.is_server_live() and asking.is_server_ready()
    assert asking.is_model_ready("distreid") and asking.is_model_ready("distreid", "1")
    assert asking.get_server_metadata()["name"] == "distreid"
    about = asking.get_model_metadata("distreid")
    assert about["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 3, 256, 128]}]
    assert about["outputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 512]}]
    count = len(images) if binary else 3
    given = triton.InferInput("images", [count, 3, 256, 128], "UINT8")
    given.set_data_from_numpy(images[:count], binary_data=binary)
    outputs = [triton.InferRequestedOutput("features", binary_data=binary)] if asks_output else None
    found = asking.infer("distreid", [given], outputs=outputs, request_id="mine")
    assert found.as_numpy("features").tobytes() == features[:count].tobytes()
    assert found.get_response()["id"] == "mine"
    wrong = triton.InferInput("images", [1, 3, 8, 8], "UINT8")
    wrong.set_data_from_numpy(np.zeros((1, 3, 8, 8), np.uint8))
    with pytest.raises(triton.InferenceServerException, match="of 3 × 256 × 128 are wanted"):
        asking.infer("distreid", [wrong])
    asking.close()


def asked(images: NDArray[np.uint8], **more: Any) -> dict[str, Any]:
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape)}
    return {"inputs": [tensor | {"data": images.ravel().tolist()} | more]}


def test_numbers_may_be_nested_and_mistakes_are_said(
    client: httpx.Client, images: NDArray[np.uint8], features: NDArray[np.float32]
) -> None:
    one = images[:1]
    nested = client.post(f"{MODEL}/versions/1/infer", json=asked(one, data=one.tolist())).json()
    values = np.array(nested["outputs"][0]["data"], np.float32)
    assert values.tobytes() == features[:1].tobytes() and nested["model_version"] == "1"

    def wrong(status: int, says: str, **more: Any) -> None:
        answer = client.post(f"{MODEL}/infer", json=asked(one, **more))
        refused(answer, status, says)
        assert answer.json()["error"] == answer.json()["detail"]

    flat = one.ravel().tolist()
    wrong(422, "inputs.0.name: ", name="pictures")
    wrong(422, "inputs.0.datatype: ", datatype="FP32")
    wrong(422, "98,304 whole numbers", data=flat[:-1])
    wrong(422, "98,304 whole numbers", data=[0.5, *flat[1:]])
    wrong(422, "98,304 whole numbers", data=["a", *flat[1:]])
    wrong(422, "98,304 whole numbers", data=[[1], [2, 3]])
    wrong(422, "98,304 whole numbers", data=[10**30, *flat[1:]])
    wrong(422, "from 0 to 255", data=[256, *flat[1:]])
    wrong(422, "98,304 bytes are wanted behind the JSON, 0 are there", data=None)
    wrong(422, f"at most {MAX_IMAGES}", shape=[65, 3, 256, 128])
    wrong(422, "inputs.0.shape.0: ", shape=[-1, 3, 256, 128])
    wrong(413, "send less", data=[0] * (MAX_TENSOR_JSON_BYTES // 2))
    head = json.dumps(asked(one, data=None, parameters={"binary_data_size": one.size})).encode()
    for length, body in (
        (len(head), head + one.tobytes()[:-1]),
        (len(head), head + one.tobytes() + b"0"),
        (len(head) + one.size + 1, head + one.tobytes()),
        (len(head) - 1, head + one.tobytes()),
        ("-1", head),
        ("²", head),
    ):
        headers = {b"Inference-Header-Content-Length": str(length).encode()}
        answer = client.post(f"{MODEL}/infer", content=body, headers=headers)
        assert answer.status_code in (400, 422), answer.text
    compressed = {"Content-Encoding": "gzip"}
    answer = client.post(f"{MODEL}/infer", content=b"\x1f\x8b", headers=compressed)
    refused(answer, 400, "compressed bodies are not taken")
    refused(client.get("/v2/models/other"), 404, "GET /v2/models/other")
    assert client.get("/readyz").status_code == 200


def test_without_a_checkpoint_it_is_not_ready(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1)
    assert main(["gallery", "create", str(tmp_path / "g"), "--run", str(run)]) == 0
    with serving(tmp_path / "g") as (client, _):
        assert client.get("/v2/health/live").json() == {"live": True}
        for address in ("/v2/health/ready", f"{MODEL}/ready", MODEL):
            refused(client.get(address), 404, "no checkpoint is served")

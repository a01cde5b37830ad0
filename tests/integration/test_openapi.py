"""Whatever schemathesis makes of the OpenAPI description, no answer is a fault of the service, and
each is as the description says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
from running_service import serving

import distreid
from distreid.cli import main

schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis")
from schemathesis import checks  # noqa: E402
from schemathesis.specs.openapi import checks as openapi_checks  # noqa: E402

CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]
EXAMPLES = 25  # of what fits the description, and of what does not, for each operation


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("api")
    distreid.extract_features("sample", "sample", folder / "run", num_workers=0, evaluate=False)
    assert main(["gallery", "create", str(folder / "g"), "--run", str(folder / "run")]) == 0
    with serving(folder / "g", "--checkpoint", "sample") as (client, process):
        yield client
        assert process.poll() is None


def test_every_answer_is_as_described(client: httpx.Client) -> None:
    description = schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")
    tried: set[str] = set()
    faults: list[str] = []
    for found in description.get_all_operations():
        operation = found.ok()
        tried.add(f"{operation.method.upper()} {operation.path}")
        for mode in schemathesis.GenerationMode:

            @hypothesis.given(operation.as_strategy(generation_mode=mode))
            @hypothesis.settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=[*hypothesis.HealthCheck],
            )
            def answered(case: Any) -> None:
                case.call_and_validate(checks=CHECKS, timeout=60)

            try:
                answered()
            except hypothesis.errors.Unsatisfiable:
                pass  # what takes nothing cannot be asked wrongly
            except Exception as error:
                # A group of failures has them as `exceptions`.
                each = getattr(error, "exceptions", (error,))
                faults += [f"{operation.method} {operation.path}: {one}" for one in each]
    assert not faults, "\n\n".join(faults)
    assert len(tried) >= 20, tried


def test_every_route_is_described_and_nothing_was_broken(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    described = {(method, path) for path, methods in paths.items() for method in methods}
    assert {
        ("post", "/v1/search"),
        ("post", "/v1/features"),
        ("post", "/v1/images"),
        ("delete", "/v1/rows/{row}"),
        ("post", "/v1/marks"),
        ("post", "/v2/models/distreid/infer"),
    } <= described
    assert client.get("/readyz").status_code == 200
    assert 'status="5' not in client.get("/metrics").text

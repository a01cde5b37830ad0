"""Exports for Triton on a real server, asked by its own client.

The server has no ONNX backend, so that half of an export is read as text.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, wait_until
from numpy.typing import NDArray

import distreid
from distreid.data.source import SAMPLE_FOLDER
from distreid.export.export_options import ExportOptions
from distreid.export.exporting import export
from distreid.export.probe import Probe
from distreid.store import FeatureStore

SERVER = REPOSITORY / ".venv/triton/bin/tritonserver"
CLIENTS = 8
needs_server = pytest.mark.skipif(
    not SERVER.exists(), reason="no Triton server here: tests/tools/triton_server installs one"
)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the sample's network."""
    out = tmp_path_factory.mktemp("triton") / "export"
    export(ExportOptions(checkpoint="sample", format="triton", out=out), lambda line: None)
    return out


def free_port() -> int:
    """A port that nothing listens on, below those that Linux gives to outgoing connections.

    The server binds it only after it has loaded its models, when another test's connection may
    have taken any port that Linux gives out.
    """
    for port in np.random.default_rng().permutation(np.arange(20000, 32768)).tolist():
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return int(port)
    raise AssertionError("no free port")


def answers(port: int) -> bool:
    """Whether a server is there: it says so in its log before it tries to bind the port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextlib.contextmanager
def serving(repository: Path, log: Path) -> Iterator[str]:
    """The address of a server that is ready."""
    port = free_port()
    options = ["--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false"]
    with log.open("w") as said:
        process = subprocess.Popen(
            [SERVER, f"--model-repository={repository}", *options, "--allow-metrics=false"],
            stdout=said,
            stderr=said,
        )
    try:
        wait_until(lambda: answers(port), process)
        yield f"127.0.0.1:{port}"
    except Exception:
        print(log.read_text(errors="replace")[-4000:], f"\nexit status: {process.poll()}")
        raise
    finally:
        process.terminate()
        process.wait()


def ask(
    address: str, model: str, name: str, kind: str, values: NDArray[Any]
) -> NDArray[np.float32]:
    """The features that a model answers; tritonclient's error if it refuses."""
    http = pytest.importorskip("tritonclient.http")
    given = http.InferInput(name, list(values.shape), kind)
    given.set_data_from_numpy(values)
    with http.InferenceServerClient(address, network_timeout=300) as client:
        found: NDArray[np.float32] = client.infer(model, [given]).as_numpy("features")
    return found


@needs_server
def test_a_server_gives_the_features_of_the_job(repositories: Path, tmp_path: Path) -> None:
    probe = Probe.read(repositories)
    distreid.extract_features("sample", "sample", tmp_path / "run", num_workers=0, evaluate=False)
    store = FeatureStore.open(tmp_path / "run")
    stored = store.features(np.arange(len(store.manifest)))

    with serving(repositories / "python_backend", tmp_path / "log.txt") as address:

        def one_client(seed: int) -> float:
            """The least cosine over batches of all sizes, which the server joins with others'."""
            random, least = np.random.default_rng(seed), 1.0
            for size in (1, 2, 7, 8, 16, 32):
                rows = random.integers(0, len(probe.images), size)
                found = ask(address, "distreid", "images", "UINT8", probe.images[rows])
                assert found.shape == (size, 512)
                least = min(least, float((found * probe.exact[rows]).sum(axis=1).min()))
            return least

        with ThreadPoolExecutor(CLIENTS) as clients:
            assert min(clients.map(one_client, range(CLIENTS))) >= 0.99999

        rows = np.arange(0, len(stored), 25)
        files = [(SAMPLE_FOLDER / store.manifest.path[row].decode()).read_bytes() for row in rows]
        found = ask(address, "distreid_files", "files", "BYTES", np.array([files], dtype=object).T)
        assert float((found * stored[rows]).sum(axis=1).min()) >= 0.99999

        with pytest.raises(Exception, match="not an image: no image of a known kind"):
            ask(address, "distreid_files", "files", "BYTES", np.array([[b"no"]], dtype=object))
        again = ask(
            address, "distreid_files", "files", "BYTES", np.array([files[:1]], dtype=object)
        )
        assert np.allclose(again, found[:1], atol=1e-5)


def test_the_onnx_backend_has_the_same_network_and_its_ports(repositories: Path) -> None:
    theirs = repositories / "onnx_backend" / "distreid"
    text = (theirs / "config.pbtxt").read_text()
    assert 'backend: "onnxruntime"' in text
    assert '{ name: "images", data_type: TYPE_UINT8, dims: [ 3, 256, 128 ] }' in text
    assert '{ name: "features", data_type: TYPE_FP32, dims: [ 512 ] }' in text
    ours = repositories / "python_backend" / "distreid"
    assert (theirs / "1/model.onnx").read_bytes() == (ours / "1/model.onnx").read_bytes()

"""Images and manifests: what can be said of them without a registry, and a build where it works."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import LIMIT_S, REPOSITORY

from distreid.job.options import add_extract_options
from distreid.serve.serve_command import add_serve_options

LAUNCH = REPOSITORY / "launch"
CONTAINERFILE = (LAUNCH / "Containerfile").read_text()
TARGETS = ("extract", "serve", "notebook")
BASE = "docker.io/library/python:3.12-slim"


def stages() -> dict[str, str]:
    parts = re.split(r"^FROM \S+ AS (\w+)$", CONTAINERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def manifests() -> list[dict[str, Any]]:
    return [*yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())]


def test_no_target_runs_as_root_and_servers_have_a_health_check() -> None:
    assert list(stages()) == ["base", "engines", *TARGETS]
    for name in TARGETS:
        assert re.search(r"^USER 1000$", stages()[name], re.MULTILINE), name
        assert "ENTRYPOINT" in stages()[name]
        assert ("HEALTHCHECK" in stages()[name]) == (name != "extract")
    assert f"ARG BASE={BASE}" in CONTAINERFILE and "ARG TORCH_INDEX=\n" in CONTAINERFILE


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (REPOSITORY / ".containerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (.*)$", CONTAINERFILE, flags=re.MULTILINE):
        for name in line.split()[:-1]:
            assert (REPOSITORY / name).exists(), name
            assert f"!{name}" in ignored, name


def test_kubernetes_takes_the_manifests() -> None:
    pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    command = Path(sys.executable).with_name("kubernetes-validate")
    done = subprocess.run(
        [command, "--strict", LAUNCH / "kubernetes.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [each["kind"] for each in manifests()] == ["Service", "Job", "Deployment", "Service"]


def test_pods_are_locked_down_and_their_options_exist() -> None:
    serve, extract = argparse.ArgumentParser(), argparse.ArgumentParser()
    add_serve_options(serve)
    add_extract_options(extract)
    pods = [each["spec"]["template"]["spec"] for each in manifests() if each["kind"] != "Service"]
    for pod, known in zip(pods, (extract, serve), strict=True):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        args = container["args"]
        if "-m" in args:
            assert args[args.index("-m") + 1] == "distreid.extract"
            args = args[args.index("-m") + 2 :]
        known.parse_args(args)
    composed = yaml.safe_load((LAUNCH / "compose.yaml").read_text())["services"]
    serve.parse_args(composed["serve"]["command"])
    assert composed["serve"]["read_only"] and composed["serve"]["cap_drop"] == ["ALL"]
    scraped = yaml.safe_load((LAUNCH / "prometheus.yaml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"] == [{"targets": ["serve:8000"]}]


def podman(*words: str | Path) -> str:
    done = subprocess.run(
        ["podman", *words], capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0, f"{words}: {done.stderr[-5000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, str]]:
    """The three images, built, and afterwards removed with their layers."""
    base = os.environ.get("DISTREID_CONTAINERS")
    if not base:
        pytest.skip(f"minutes, 20 GB and podman: DISTREID_CONTAINERS={BASE} (podman pull it first)")
    if not shutil.which("podman"):
        pytest.skip("no podman: apt-get install podman")
    if subprocess.run(["podman", "image", "exists", base], check=False).returncode:
        pytest.skip(
            f"podman has no {base}: podman pull it, or tests/tools/container_base makes one"
        )
    words = os.environ.get("DISTREID_CONTAINERS_BUILD", "").split()
    tags = {name: f"localhost/distreid-{name}:of-a-test" for name in TARGETS}
    try:
        for name, tag in tags.items():
            podman(
                *("build", *words, "--format", "docker", "--build-arg", f"BASE={base}"),
                *("--target", name, "--tag", tag, "--file", LAUNCH / "Containerfile", REPOSITORY),
            )
        yield tags
    finally:
        subprocess.run(["podman", "rmi", "--force", *tags.values()], check=False)


@pytest.fixture(scope="module")
def locked(images: dict[str, str]) -> Iterator[tuple[str, ...]]:
    """The words of a container that may nothing, and whose /work is a volume with a run of the
    sample in it, extracted by such a container."""
    volume = podman("volume", "create").strip()
    words = (
        *("--rm", "--read-only", "--tmpfs", "/tmp:noexec", "--cap-drop", "ALL"),
        *(
            "--security-opt",
            "no-new-privileges",
            "--network",
            "none",
            "--volume",
            f"{volume}:/work",
        ),
    )
    try:
        extract = ("extract", "--data", "sample", "--checkpoint", "sample", "--out", "/work/run")
        podman("run", *words, images["extract"], *extract)
        yield words
    finally:
        podman("volume", "rm", "--force", volume)


@contextlib.contextmanager
def running(*words: str) -> Iterator[str]:
    """The id of a container whose health check has passed."""
    container = podman("run", "--detach", *words).strip()
    try:
        deadline = time.monotonic() + LIMIT_S
        check = ["podman", "healthcheck", "run", container]
        while subprocess.run(check, capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, podman("logs", container)
            time.sleep(1)
        yield container
    finally:
        podman("rm", "--force", "--ignore", container)


WEIGHED = """
from pathlib import Path
print(sum(
    file.stat().st_size
    for folder in Path("/opt/distreid/lib").glob("python3*/site-packages")
    for part in ("torch", "torch-*", "torchvision*", "nvidia*", "triton*", "cuda*")
    for file in folder.glob(f"{part}/**/*")
    if file.is_file()
))
"""


def without_torch(image: str) -> float:
    """The gigabytes of an image without torch, torchvision, Triton and what is CUDA's."""
    weighed = ("--entrypoint", "python3", image, "-c", WEIGHED)
    torch = podman("run", "--rm", "--network", "none", *weighed)
    whole = podman("image", "inspect", "--format", "{{.Size}}", image)
    return (int(whole) - int(torch)) / 1e9


def test_images_are_small_but_for_torch(images: dict[str, str]) -> None:
    for name, image in images.items():
        size = without_torch(image)
        print(f"{name}: {size:.3f} GB without torch and CUDA")
        assert size < 0.8, name


def test_a_container_may_nothing(images: dict[str, str], locked: tuple[str, ...]) -> None:
    for image in images.values():
        tried = "id -u; grep -E 'Cap(Prm|Bnd)|NoNewPrivs' /proc/self/status; ! touch /opt/x"
        said = podman("run", *locked, "--entrypoint", "sh", image, "-c", tried).split()
        none = "0" * 16
        assert said == ["1000", "CapPrm:", none, "CapBnd:", none, "NoNewPrivs:", "1"]


def test_the_service_answers_in_its_container(
    images: dict[str, str], locked: tuple[str, ...]
) -> None:
    created = ("gallery", "create", "/work/gallery", "--run", "/work/run", "--copy")
    podman("run", *locked, images["extract"], *created)
    served = ("/work/gallery", "--checkpoint", "sample", "--no-token")
    with running(*locked, images["serve"], *served) as container:
        asked = (
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/v1/search',"
            """ b'{"row": 0, "top": 3}').read().decode())"""
        )
        answer = json.loads(podman("exec", container, "python3", "-c", asked))
        assert len(answer["hits"]) == 3
        podman("stop", "--time", "40", container)


SCRIPTS = """
import re, urllib.request
home = "http://127.0.0.1:8888"
with urllib.request.urlopen(f"{home}/lab/tree/first_look.ipynb?token=t") as page:
    for script in re.findall('<script [^>]*src="([^"]+)"', page.read().decode()):
        urllib.request.urlopen(home + script).close()
        print(script)
"""


def test_the_notebook_runs_in_its_container(
    images: dict[str, str], locked: tuple[str, ...]
) -> None:
    with running(*locked, images["notebook"], "--IdentityProvider.token=t") as container:
        assert ".js" in podman("exec", container, "python3", "-c", SCRIPTS)
        podman("exec", container, "jupyter", "execute", "/work/first_look.ipynb")

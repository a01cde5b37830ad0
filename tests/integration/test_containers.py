"""Images and manifests: what can be said of them without a registry, and a build where it works."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

from distreid.job.options import add_extract_options
from distreid.serve.serve_command import add_serve_options

LAUNCH = REPOSITORY / "launch"
CONTAINERFILE = (LAUNCH / "Containerfile").read_text()
BASE = "docker.io/library/python:3.12-slim"


def stages() -> dict[str, str]:
    parts = re.split(r"^FROM \S+ AS (\w+)$", CONTAINERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def manifests() -> list[dict[str, Any]]:
    return [*yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())]


def test_no_target_runs_as_root_and_servers_have_a_health_check() -> None:
    assert list(stages()) == ["base", "extract", "serve", "notebook"]
    for name in ("extract", "serve", "notebook"):
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


def test_the_image_of_the_service_is_built_and_answers(tmp_path: Path) -> None:
    """With podman, where the base image is there already: no test asks a registry."""
    podman = shutil.which("podman")
    if not podman:
        pytest.skip("no podman: apt-get install podman")

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([podman, *words], capture_output=True, text=True, check=False)

    if run("image", "exists", BASE).returncode:
        pytest.skip(f"podman has no {BASE}: podman pull {BASE}")
    tag = "localhost/distreid-serve-of-a-test"
    file = LAUNCH / "Containerfile"
    built = run("build", "--target", "serve", "--tag", tag, "--file", file, REPOSITORY)
    assert built.returncode == 0, built.stderr
    locked = ("--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none")
    features = (
        "import os, distreid; from distreid.data.source import SAMPLE_FOLDER as s;"
        "assert os.getuid() == 1000;"
        "print(distreid.load_model('sample').features(next(s.glob('query/*.jpg'))).shape)"
    )
    done = run("run", *locked, "--entrypoint", "python3", tag, "-c", features)
    assert done.returncode == 0 and "(512,)" in done.stdout, done.stderr

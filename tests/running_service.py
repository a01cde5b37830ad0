"""`distreid serve` as a process at a free port, for tests, and what they send and expect."""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
from conftest import LIMIT_S, REPOSITORY

START = """
import sys
import distreid.serve.limits
from distreid.cli import main
vars(distreid.serve.limits).update({limits})
sys.exit(main())
"""


@contextlib.contextmanager
def serving(
    *words: str | Path, trusted: Path | None = None, limits: Mapping[str, float] | None = None
) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """A client of a service that is ready, and its process; the client trusts a certificate. The
    service may have other `distreid.serve.limits`, so that a test need not wait for long ones."""
    command = [sys.executable, "-c", START.format(limits=dict(limits or {}))]
    command += ["serve", *map(str, words), "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        said = ""
        for line in process.stderr:
            said += line
            if "serving at " in line:
                break
        assert "serving at " in said, said
        address = said.rsplit("serving at ", 1)[1].strip()
        verify = ssl.create_default_context(cafile=trusted) if trusted else True
        with httpx.Client(
            base_url=address, timeout=LIMIT_S, trust_env=False, verify=verify
        ) as client:
            yield client, process
    finally:
        process.kill()
        process.communicate()


def sent(*files: Path | bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [
        ("image", ("a.jpg", file if isinstance(file, bytes) else file.read_bytes()))
        for file in files
    ]


def refused(answer: httpx.Response, status: int, says: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    content = answer.json()
    assert content["status"] == status and says in content["detail"], content

"""The SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256(*files: Path) -> str:
    """Of their bytes, one file after the other, hex."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()

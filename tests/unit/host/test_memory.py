"""Memory that a forward pass frees is kept for the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from distreid.inference import extractor as inference
from distreid.models.checkpoint import load_model

def faults_of_a_batch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    extractor(images_BCHW)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{change}
extractor = inference.Extractor(
    load_model("sample"), inference.Augmentation(flip=False), precision="fp32",
    device=torch.device("cpu"), threads=2,
)
images_BCHW = torch.zeros((64, 3, 256, 128), dtype=torch.uint8)
faults_of_a_batch()  # takes it
print(min(faults_of_a_batch() for _ in range(3)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_batch_takes_the_memory_of_the_one_before() -> None:
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", PROGRAM.format(change=change)]))
        for change in ("", "inference.keep_freed_memory = lambda: None")
    )
    assert 10 * kept < given_back

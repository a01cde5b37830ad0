"""Compilers and converters of networks say much, and tell what matters by exceptions: they are kept
quiet."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from unittest import mock

import torch


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps from the user what Python code warns, logs and prints."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def quiet_converter() -> Iterator[None]:
    """`quiet`, also below Python, where torch prints the graph that it could not convert, thousands
    of lines."""
    with quiet(), mock.patch.object(torch._C, "_jit_onnx_log", create=True):
        yield

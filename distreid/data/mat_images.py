"""The images in CUHK03's cuhk-03.mat, read where they are: nothing is unpacked.

A manifest names one by a path as `cuhk-03.mat#detected/1_001_2_06.png`: after the `#` the part
of the file, then the name that torchreid gives the image when it unpacks it: the pair of
cameras, the person in it, the view, the image, each counted from 1.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distreid.errors import ImageError

PATH = re.compile(r"(.*\.mat)#(\w+)/(\d+)_(\d+)_\d_(\d+)\.png", re.DOTALL)


def in_mat(file: Path) -> bool:
    """Whether a path names an image inside a .mat file."""
    return PATH.fullmatch(os.fspath(file)) is not None


def file_of(image: Path) -> Path:
    """The file that holds an image: the .mat file, or the image's own."""
    match = PATH.fullmatch(os.fspath(image))
    return Path(match[1]) if match else image


def read(file: Path) -> bytes:
    """The image as PNG bytes; raises FileNotFoundError or ImageError."""
    match = PATH.fullmatch(os.fspath(file))
    if match is None:
        raise ImageError("no image in a .mat file has such a name")
    mat, part, pair, person, image = match.groups()
    try:
        with h5py.File(mat, "r") as hdf5:
            cells = hdf5[hdf5[part][0, int(pair) - 1]]
            pixels = pixels_of(hdf5[cells[int(image) - 1, int(person) - 1]])
    except FileNotFoundError:
        raise
    except (OSError, KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise ImageError(f"not to be read from {mat} ({' '.join(str(error).split())})") from error
    if pixels is None:
        raise FileNotFoundError(f"{mat} has no image {part} {pair}_{person}, {image}")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def pixels_of(cell: h5py.Dataset) -> NDArray[np.uint8] | None:
    """A cell's image, (h, w, 3) uint8; None if the cell is empty.

    MATLAB's columns come first, so that h5py sees every array transposed.
    """
    if cell.ndim != 3:  # an empty cell holds its size, two zeros
        return None
    return np.ascontiguousarray(cell[()].T)

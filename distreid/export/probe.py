"""What an export is tried with: images, and the features that the job has for them.

It is kept beside the export, so that another machine can try it again without the checkpoint.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from distreid.data.manifest import GALLERY, NO_PERSON, QUERY, Manifest
from distreid.errors import StoreError
from distreid.host.machine import cores
from distreid.images.loader import ImageRows
from distreid.images.preprocess import Preprocess
from distreid.inference.extractor import Extractor
from distreid.inference.views import Augmentation
from distreid.models.architecture import Size, resized
from distreid.models.checkpoint import Model

FILE = "gate.npz"
LIMIT = 128
"""Images at most: 12 MB at 256 × 128, and some seconds for most networks."""
OF_A_PERSON = {QUERY: 3, GALLERY: 9}
"""Images at most."""
MADE = ("black", "white", "noise")


@dataclass(frozen=True, kw_only=True)
class Probe:
    """K images, of which the last are `MADE`, and what the job computes of them by torch in
    fp32."""

    images: NDArray[np.uint8]
    """(K, 3, H, W) RGB."""
    exact: NDArray[np.float32]
    """(K, D) of norm 1."""
    names: NDArray[np.str_]
    person_id: NDArray[np.int64]
    camera_id: NDArray[np.int64]
    side: NDArray[np.str_]
    """`query`, `gallery`, or empty where there is no label."""
    cameras: NDArray[np.int64]
    """(K,) for a network that takes them; else (0,)."""

    def save(self, folder: Path) -> None:
        """As `FILE`."""
        np.savez_compressed(folder / FILE, **vars(self))

    @classmethod
    def read(cls, folder: Path) -> Probe:
        """What `save` wrote; StoreError if it is not there, or damaged."""
        try:
            with np.load(folder / FILE, allow_pickle=False) as found:
                return cls(**{name: found[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise StoreError(f"{folder / FILE}: missing or damaged; export again") from error

    @property
    def real(self) -> slice:
        """Of the images that nobody made up."""
        return slice(0, len(self.images) - len(MADE))

    def with_labels(self) -> bool:
        """Whether mAP can be computed."""
        return bool((self.side == QUERY).any() and (self.side == GALLERY).any())


def make_probe(
    model: Model, augmentation: Augmentation, manifest: Manifest, source: Size | None = None
) -> Probe:
    """Of at most `LIMIT` images of the manifest, as large as `source` or as the network takes
    them; StoreError names one that cannot be read."""
    architecture = model.architecture
    rows, side = chosen_rows(manifest)
    taken = architecture.preprocess
    given = taken if source is None else resized(taken, source)
    images = np.concatenate([pixels(manifest, given, rows), _made(given)])
    made = len(MADE)
    cameras = np.empty(0, np.int64)
    if architecture.cameras is not None:
        count = architecture.cameras * architecture.viewpoints
        cameras = np.arange(len(images), dtype=np.int64) % count
    extract = Extractor(
        model, augmentation, precision="fp32", device=torch.device("cpu"), threads=cores()
    )
    exact, _ = extract(
        torch.from_numpy(images) if source is None else taken.resize(np.moveaxis(images, 1, -1)),
        torch.from_numpy(cameras) if len(cameras) else None,
    )
    return Probe(
        images=images,
        exact=exact.numpy(),
        names=np.array([str(manifest.file(int(row)).name) for row in rows] + list(MADE)),
        person_id=np.concatenate([manifest.person_id[rows], np.full(made, NO_PERSON)]),
        camera_id=np.concatenate([manifest.camera_id[rows], np.zeros(made, np.int64)]),
        side=np.array([*side, *[""] * made]),
        cameras=cameras,
    )


def chosen_rows(manifest: Manifest) -> tuple[NDArray[np.intp], list[str]]:
    """Some persons' queries and gallery, so that mAP has a meaning; without labels, images evenly
    spaced, and no sides."""
    of_side = {side: manifest.rows(side) for side in (QUERY, GALLERY)}
    persons = np.intersect1d(
        manifest.person_id[of_side[QUERY]], manifest.person_id[of_side[GALLERY]]
    )
    rows: list[int] = []
    sides: list[str] = []
    for person in np.random.default_rng(0).permutation(persons[persons != NO_PERSON]):
        for side, of in of_side.items():
            some = of[manifest.person_id[of] == person][: OF_A_PERSON[side]]
            if len(rows) + len(some) <= LIMIT:
                rows += some.tolist()
                sides += [side] * len(some)
    if rows:
        return np.array(rows, np.intp), sides
    count = min(len(manifest), LIMIT)
    even: NDArray[np.intp] = np.linspace(0, len(manifest) - 1, count, dtype=np.intp)
    return even, [""] * count


def pixels(manifest: Manifest, preprocess: Preprocess, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    """(N, 3, H, W) of these rows; StoreError names one that cannot be read."""
    images = ImageRows(manifest, preprocess)
    batches = [images[range(int(row), int(row) + 1)] for row in rows]
    for batch in batches:
        for row, why in batch.failures.items():
            raise StoreError(f"row {row}, {manifest.file(row)}: {why}; take other --data")
    return torch.cat([batch.images_BCHW for batch in batches]).contiguous().numpy()


def _made(preprocess: Preprocess) -> NDArray[np.uint8]:
    """(3, 3, H, W): `MADE`."""
    size = 3, preprocess.height, preprocess.width
    noise = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    return np.stack([np.zeros(size, np.uint8), np.full(size, 255, np.uint8), noise])

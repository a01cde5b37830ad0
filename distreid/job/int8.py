"""An int8 run: its network is made once, on rank 0, and tried on labelled images before."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from distreid.data.manifest import GALLERY, NO_PERSON, QUERY, Status
from distreid.data.source import open_data
from distreid.errors import EngineError, OptionError
from distreid.evaluation.quick_map import quick_map
from distreid.host.counts import counted
from distreid.images.loader import ImageRows
from distreid.inference.extractor import CPU_ROWS, Extractor
from distreid.inference.onnx_conversion import convert
from distreid.inference.openvino_engine import OpenVINO
from distreid.inference.quantisation import (
    LEAST_CALIBRATION,
    Quantised,
    calibration_rows,
    quantise,
)
from distreid.inference.views import Augmentation
from distreid.job.rank_work import Job
from distreid.models.checkpoint import Model

SIDES = (QUERY, GALLERY)
AT_ONCE = 64  # images in memory


def quantised_network(
    job: Job, model: Model, extractor: Extractor
) -> tuple[Quantised, dict[str, str]]:
    """The network in int8, and what a run's identity says of it: its SHA-256, and the fingerprint
    of the rows that it was calibrated on, both in hex.

    OptionError where there are too few images, or where it costs more mAP than it may on those
    that have labels. EngineError if the network cannot be quantised.
    """
    options, architecture = job.options, model.architecture
    if options.calibrate_on is None:
        raise OptionError(
            "--precision int8: --calibrate-on DATA is missing, some hundred images such as those "
            "to come, best with labels"
        )
    if architecture.cameras is not None:
        raise EngineError("a network that takes cameras is not quantised")
    manifest = open_data(options.calibrate_on)
    if len(manifest) < LEAST_CALIBRATION:
        raise OptionError(
            f"--calibrate-on {options.calibrate_on}: {len(manifest)} images, where at least "
            f"{LEAST_CALIBRATION} are wanted"
        )
    images = ImageRows(manifest, architecture.preprocess)
    chosen = calibration_rows(len(manifest))
    job.log.print(f"       calibrating int8 on {len(chosen)} images of {manifest.root} …")
    quantised = calibrated(model, extractor.augmentation, images, chosen)
    said = {"network": quantised.sha256(), "calibrated_on": manifest.fingerprint()}
    _check_loss(job, extractor, quantised, images)
    return quantised, said


def calibrated(
    model: Model, augmentation: Augmentation, images: ImageRows, chosen: NDArray[np.intp]
) -> Quantised:
    """The network in int8, by the ranges that it has on the chosen rows; those that cannot be
    read, and those of the last pass that is not full, are left out. EngineError if it cannot be
    quantised, OptionError if no pass is full."""
    found = [images[range(row, row + 1)] for row in chosen.tolist()]
    good = [one.images_BCHW for one in found if one.status_B[0] == Status.OK]
    batches = [
        torch.cat(good[first : first + CPU_ROWS]).movedim(1, -1).contiguous().numpy()
        for first in range(0, len(good) - CPU_ROWS + 1, CPU_ROWS)
    ]
    if not batches:
        raise OptionError(
            f"{images.manifest.root}: {counted(len(good), 'image')} that can be read, where int8 "
            f"wants {CPU_ROWS} at least to see its ranges on"
        )
    attention = any("attn" in name for name, _ in model.network.named_modules())
    return quantise(convert(model, augmentation, CPU_ROWS).graph, batches, attention)


def _check_loss(job: Job, extractor: Extractor, quantised: Quantised, images: ImageRows) -> None:
    """OptionError if int8 loses more mAP on these images than it may; without labels, says how
    far its features are from fp32's."""
    options, manifest = job.options, images.manifest
    labelled = [rows[manifest.person_id[rows] != NO_PERSON] for rows in map(manifest.rows, SIDES)]
    some = np.concatenate(labelled) if all(map(len, labelled)) else calibration_rows(len(manifest))
    job.log.print(f"       its loss, on {len(some):,} images …")
    exact_ND, norm_N = _features(extractor, images, some)
    first = images[range(CPU_ROWS)].images_BCHW
    extractor.load_engine(OpenVINO.name, first, quantised=quantised)
    int8_ND, int8_norm_N = _features(extractor, images, some)
    cosine = (exact_ND * int8_ND).sum(axis=1)
    cosine = cosine[np.isfinite(cosine)]
    low, middle = np.quantile(cosine, [0.01, 0.5])
    job.log.print(
        f"       int8: cosine to fp32 {middle:.4f} in the middle, {low:.4f} for the worst "
        f"hundredth, {cosine.min():.4f} the least"
    )
    if not all(map(len, labelled)):
        return
    split = [len(labelled[0])]
    persons, cameras = (
        [ids[rows] for rows in labelled] for ids in (manifest.person_id, manifest.camera_id)
    )
    before, after = (
        quick_map(np.split(features, split), np.split(norms, split), persons, cameras)
        for features, norms in ((exact_ND, norm_N), (int8_ND, int8_norm_N))
    )
    words = f"mAP {100 * before:.2f} % in fp32, {100 * after:.2f} % in int8"
    if not 100 * (before - after) <= options.max_map_loss:
        raise OptionError(
            f"--precision int8: {words} on {manifest.root}, more than --max-map-loss "
            f"{options.max_map_loss} points less; use fp32, or allow it"
        )
    job.log.print(f"       {words}")


def _features(
    extractor: Extractor, images: ImageRows, rows: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(N, D), and (N,) norms; NaN where an image cannot be read."""
    features, norms = [], []
    for some in np.array_split(rows, range(AT_ONCE, len(rows), AT_ONCE)):
        batch = [images[range(row, row + 1)] for row in some]
        found, norm = extractor(torch.cat([one.images_BCHW for one in batch]))
        bad = np.array([one.status_B[0] != Status.OK for one in batch])
        found[torch.from_numpy(bad)] = torch.nan
        features.append(found.numpy())
        norms.append(norm.numpy())
    return np.concatenate(features), np.concatenate(norms)

"""The mAP of features in memory, for what has to be decided before a run is made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distreid.evaluation.evaluate import evaluate_features
from distreid.evaluation.protocol import PRESETS
from distreid.evaluation.ranking import LabelledFeatures

PROTOCOL = PRESETS["fastreid"]  # by cosine, as a search ranks


def quick_map(
    features: Sequence[NDArray[np.float32]],
    norms: Sequence[NDArray[np.float32]],
    person_id: Sequence[NDArray[np.int64]],
    camera_id: Sequence[NDArray[np.int64]],
) -> float:
    """Of queries and gallery, in this order: features (N, D), and (N,) of each; the images whose
    features are NaN are left out."""
    sides = []
    for features_ND, norm_N, person_N, camera_N in zip(
        features, norms, person_id, camera_id, strict=True
    ):
        good = np.isfinite(features_ND).all(axis=1)
        sides.append(
            LabelledFeatures(
                pieces=[features_ND[good]],
                norm=norm_N[good],
                person_id=person_N[good],
                camera_id=camera_N[good],
            )
        )
    return evaluate_features(sides[0], sides[1], [PROTOCOL]).scores[0].mAP

"""How well groups agree with persons that are known.

All figures are in 0..1, and 1 where the groups are the persons. Units are counted as
detections that are given: nothing is missed, and nothing is found that is not there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from distreid.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of N units whose person is known."""

    units: int
    persons: int
    groups: int
    v_measure: float
    """The harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg, EMNLP 2007)."""
    homogeneity: float
    completeness: float
    purity: float
    """The share of units whose person is the most frequent of their group."""
    pairwise_f1: float
    """Of the pairs of units that are one group and of those that are one person."""
    idf1: float
    """With each group taken for one person at most, and each person for one group, as matches
    most units (Ristani et al., ECCV workshops 2016, arXiv:1609.01775)."""
    association: float
    """HOTA's association accuracy: the mean over units of what its group and its person share,
    divided by what either has (Luiten et al., IJCV 2021, arXiv:2009.07736, equation 15)."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def agreement(persons: NDArray[np.int64], groups: NDArray[np.int64]) -> Agreement | None:
    """Of (N,) numbers of both kinds; None without a unit. OptionError without scikit-learn."""
    if not len(persons):
        return None
    try:
        from sklearn.metrics import homogeneity_completeness_v_measure, pair_confusion_matrix
    except ImportError as error:
        raise OptionError(
            "scores of groups: scikit-learn is not installed; pip install 'distreid[link]'"
        ) from error
    _, person_N = np.unique(persons, return_inverse=True)
    _, group_N = np.unique(groups, return_inverse=True)
    shape = int(person_N.max()) + 1, int(group_N.max()) + 1
    shared = np.zeros(shape, np.int64)
    np.add.at(shared, (person_N, group_N), 1)
    of_person, of_group = shared.sum(axis=1), shared.sum(axis=0)
    homogeneity, completeness, v_measure = homogeneity_completeness_v_measure(persons, groups)
    pairs = pair_confusion_matrix(persons, groups)
    both, either = int(pairs[1, 1]), int(pairs[1, 1] * 2 + pairs[0, 1] + pairs[1, 0])
    matched = shared[linear_sum_assignment(shared, maximize=True)].sum()
    own = shared[person_N, group_N]
    return Agreement(
        units=len(persons),
        persons=shape[0],
        groups=shape[1],
        v_measure=float(v_measure),
        homogeneity=float(homogeneity),
        completeness=float(completeness),
        purity=float(shared.max(axis=0).sum() / len(persons)),
        pairwise_f1=2 * both / either if either else 1.0,
        idf1=float(matched / len(persons)),
        association=float((own / (of_person[person_N] + of_group[group_N] - own)).mean()),
    )

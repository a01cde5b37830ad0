"""What is the matter with a score that means little, in a line each, and what is meant instead."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import JUNK, NO_CAMERA, Manifest
from distreid.data.split_folders import LABEL_NAMES
from distreid.evaluation.metrics import QueryScores
from distreid.evaluation.protocol import Protocol
from distreid.evaluation.ranking import LabelledFeatures, Ranker

SAME_FEATURE = 1e-6  # cosine distance under which two features count as one
NORM_SLACK = 1e-2  # of float16, the coarsest that a store holds
LOOKED_AT = 64  # queries whose best hits are looked at
NAMES_LOOKED_AT = 5000
SYSU = ({3, 6}, {1, 2, 4, 5})  # cameras of the queries and of the gallery


def of_matches(
    query: LabelledFeatures,
    gallery: LabelledFeatures,
    scores: QueryScores,
    instead: str,
    leaves_out: Sequence[str] = (),
) -> list[str]:
    """Why no query has a match; nothing if one has. `instead` names the column that counts those
    of the query's own camera; a benchmark may leave out more."""
    if (scores.matches > 0).any():
        return []
    persons = query.person_id[query.person_id != JUNK]
    shared = np.isin(persons, gallery.person_id).sum()
    text = f"0 of {len(query):,} queries have a match"
    cameras = np.unique(np.concatenate([query.camera_id, gallery.camera_id]))
    if not len(persons):
        text += ": every query's person is -1, which is junk"
    elif shared and leaves_out:
        text += f": the protocol leaves out every one ({'; '.join(leaves_out)})"
    elif shared and len(cameras) == 1:
        text += f" in another camera: all camera ids are equal{instead}"
    elif shared:
        text += f" in another camera: every match is in the query's own{instead}"
    else:
        text += ": query and gallery have no person in common"
    return [text]


def of_features(query: LabelledFeatures, gallery: LabelledFeatures) -> list[str]:
    """Features that cannot be meant."""
    found = []
    cosine_G = np.concatenate([piece @ query.features[0] for piece in gallery.pieces])
    if cosine_G.min() > 1 - SAME_FEATURE:
        found.append("all gallery features are the same: was the checkpoint trained?")
    if cosine_G.max() > 1 + NORM_SLACK:
        found.append("a similarity is above 1: the features are not L2-normalised")
    return found


def of_rank1(
    query: LabelledFeatures,
    gallery: LabelledFeatures,
    rank1: float,
    counting: Protocol,
    leaves_out: Sequence[str] = (),
) -> list[str]:
    """What a Rank-1 of 0 or 100 % may come from."""
    if rank1 == 0:
        return [
            "Rank-1 is 0: no query finds its person first. Are persons numbered anew in query and "
            "gallery, or are features in another order than their labels? distreid protocols lists "
            "the rules of known data sets"
        ]
    if rank1 < 1 or not gallery.pieces:
        return []
    some = query.at(np.arange(min(LOOKED_AT, len(query))))
    cosine_QG = np.concatenate([some.features @ np.asarray(p).T for p in gallery.pieces], axis=1)
    if gallery.tracks is not None:
        return []
    Ranker(some.labels(), gallery.labels(), counting, leaves_out).leave_out(0, cosine_QG)
    same = int((np.fmax.reduce(cosine_QG, axis=1) > 1 - SAME_FEATURE).sum())
    if 2 * same < len(some):
        return []
    return [
        f"Rank-1 is 100 %, and {same:,} of {len(some):,} queries looked at find their own feature "
        "under another name: is each image in query and in gallery? distreid inspect names images "
        "of the same bytes; --protocol leave-one-out leaves out a query's own file"
    ]


def of_cameras(
    query: LabelledFeatures, gallery: LabelledFeatures, scores: QueryScores, counting: Protocol
) -> list[str]:
    """Persons of one camera alone, where their own camera is left out; cameras as in SYSU-MM01."""
    found = []
    cameras = [set(side.camera_id.tolist()) for side in (query, gallery)]
    if all(side and side <= known for side, known in zip(cameras, SYSU, strict=True)):
        found.append(
            "cameras 3 and 6 search in 1, 2, 4 and 5, as in SYSU-MM01: that is scored by "
            "--protocol sysu-mm01-all-single"
        )
    if counting.camera_rule == "none" or not (scores.matches > 0).any():
        return found
    rows = [np.stack([side.person_id, side.camera_id]) for side in (query, gallery)]
    pairs = np.unique(np.concatenate(rows, axis=1), axis=1)
    known = pairs[:, (pairs[0] >= 0) & (pairs[1] != NO_CAMERA)]
    persons, counts = np.unique(known[0], return_counts=True)
    asked = np.isin(persons, query.person_id)
    alone = int((counts[asked] == 1).sum())
    if asked.any() and 2 * alone >= asked.sum():
        found.append(
            f"{alone:,} of {int(asked.sum()):,} persons are in one camera alone, where the camera "
            "rule leaves no match: --camera-rule none, or --protocol leave-one-out, counts them"
        )
    return found


def of_names(manifest: Manifest, rows: NDArray[np.intp]) -> list[str]:
    """Persons that folders or a table tell, and file names otherwise."""
    rows = rows[:NAMES_LOOKED_AT]
    names = [os.path.basename(os.fsdecode(manifest.path[row])) for row in rows]
    for pattern in LABEL_NAMES:
        matches = [pattern.match(name) for name in names]
        if 2 * sum(match is not None for match in matches) < len(names) or not names:
            continue
        told = [
            (int(match["person"]), int(manifest.person_id[row]), name)
            for match, row, name in zip(matches, rows, names, strict=True)
            if match and manifest.person_id[row] >= 0
        ]
        # Persons may be numbered anew: each of one numbering is one of the other.
        by_name: dict[int, set[int]] = {}
        by_label: dict[int, set[int]] = {}
        for named, labelled, _ in told:
            by_name.setdefault(named, set()).add(labelled)
            by_label.setdefault(labelled, set()).add(named)
        wrong = [each for each in told if len(by_name[each[0]]) > 1 or len(by_label[each[1]]) > 1]
        if 2 * len(wrong) >= len(told) and wrong:
            named, labelled, name = wrong[0]
            return [
                f"{len(wrong):,} of {len(told):,} file names tell other persons than the labels "
                f"({name}: {named} by its name, {labelled} by its label): which is meant? "
                "--pattern reads names, --columns a table"
            ]
        break
    return []

"""A complete store to scores, in the conventions that papers quote."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.manifest import (
    GALLERY,
    JUNK,
    MULTI_QUERY,
    NO_CAMERA,
    NO_PERSON,
    QUERY,
    TRACKLET,
    Status,
)
from distreid.errors import DataError, OptionError
from distreid.evaluation import diagnosis
from distreid.evaluation.by_benchmark import (
    ask,
    effective_counting,
    notes_on,
    own_files,
    rank,
    refuse_distances_of_tracklets,
)
from distreid.evaluation.confidence import (
    Confidence,
    Interval,
    QueryValues,
    bootstrap,
    query_values,
)
from distreid.evaluation.identification import (
    Identification,
    by_person,
    identifications,
    mean_of_draws,
)
from distreid.evaluation.metrics import QueryScores, Ranks, cmc
from distreid.evaluation.person_search import search_frames
from distreid.evaluation.protocol import PRESETS, Protocol, preset_of
from distreid.evaluation.protocols.known import of_layout
from distreid.evaluation.protocols.rule import Benchmark
from distreid.evaluation.ranking import (
    FILE,
    Found,
    LabelledFeatures,
    View,
    multi_query,
    score_queries,
)
from distreid.evaluation.tracklets import first_rows, pool
from distreid.host.counts import counted
from distreid.nearest.neighbours import Progress, no_progress
from distreid.nearest.similarity import COSINE, Pieces, Similarity
from distreid.store import FeatureStore

RANKS = (1, 5, 10)  # whose figures are named
RANKS_OF_BENCHMARKS = (*RANKS, 20)
NO_CAMERA_RULE = "no camera rule"  # the name of the column that is added where it leaves nothing
SAME_CAMERA = f"; the column '{NO_CAMERA_RULE}' counts them"
WANTED = (
    "scores want images of known persons in query and gallery: extract with a --layout, --pattern "
    "or CSV that names them"
)
NOTHING_LEFT_OUT = {"bad_queries": 0, "bad_gallery": 0, "unlabelled_queries": 0}
SIDE_BY_SIDE = ("torchreid", "fastreid", "layumi")  # transreid ranks and counts as fastreid does


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The figures of one protocol, shares in 0..1; NaN where no query can be scored."""

    protocol: Protocol
    cmc: NDArray[np.float64]
    """(depth,) Rank-1, Rank-2, …"""
    mAP: float
    mINP: float
    queries: int
    """How many queries the sums were divided by."""
    per_query: QueryScores
    first_ranks: Ranks
    """(Q,), or (Q, draws) on single-shot galleries; 0 where there is no match."""
    values: QueryValues
    """What the intervals and comparisons of rank1, mAP and mINP are made of."""
    benchmark: Benchmark | None = None
    """Whose queries, gallery and draws these are; None for all query rows in all gallery rows."""
    rows: NDArray[np.intp] | None = None
    """(Q,) the queries' manifest rows, of a benchmark. With draws, `per_query` and `first_ranks`
    are those of the first draw that a query is in."""
    draws: list[Scores] = field(default_factory=list)
    """Of each draw, whose mean the figures are."""
    identification: list[Identification] = field(default_factory=list)
    """Of a benchmark that is open-set."""
    balanced_rank1: float | None = None
    """The mean over persons of their Rank-1, of a benchmark that asks for it."""

    @property
    def name(self) -> str:
        """What the column of the score table is called."""
        return self.protocol.name if self.benchmark is None else self.benchmark.name

    @property
    def ap(self) -> NDArray[np.float64]:
        """(Q,) of each query, by what the mAP is made of, 0 without a match; with draws, of the
        first draw that it is in."""
        return self.per_query.ap_by(self.protocol.ap)

    def spread(self, measure: Callable[[Scores], float]) -> float:
        """The standard deviation of a figure over the draws; NaN without."""
        return float(np.std([measure(each) for each in self.draws])) if self.draws else math.nan

    @cached_property
    def confidence(self) -> Confidence:
        """95 % intervals over persons; computed when asked for. Of a figure that there is not,
        there is none."""
        found = bootstrap(self.values)
        if math.isnan(self.mAP):
            none = Interval(value=math.nan, low=math.nan, high=math.nan)
            found = replace(found, intervals=found.intervals | {"mAP": none})
        return found

    def rank(self, k: int) -> float:
        """Rank-k; NaN beyond the depth."""
        return float(self.cmc[k - 1]) if k <= len(self.cmc) else math.nan


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Every score of a store, and what it was computed from."""

    scores: list[Scores]
    counts: dict[str, int]
    """queries, valid_queries, queries_without_match, gallery, junk, distractors (gallery rows
    of persons in no query), bad_queries, bad_gallery, unlabelled_queries."""
    diagnosis: list[str] = field(default_factory=list)
    """What is wrong with the data, in words, if the scores mean little."""

    @property
    def of_a_search(self) -> Scores:
        """Of the protocols side by side, the one that ranks as a search does: by cosine, each query
        that can be found counting once. fastreid and transreid are the same. Where the camera rule
        leaves no match, that without the rule. The first, where none of these is there."""
        names = (NO_CAMERA_RULE, "fastreid", "transreid")
        return min(
            self.scores,
            key=lambda s: names.index(s.name) if s.name in names else len(names),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; a score that does not exist is null."""
        return {
            "scores": [_score_json(scores) for scores in self.scores],
            "counts": self.counts,
            "diagnosis": self.diagnosis,
        }


def _score_json(scores: Scores) -> dict[str, Any]:
    """What was added since version 0.1.0 is absent where it is not used."""
    named = {} if scores.benchmark is None else {"benchmark": scores.benchmark.name}
    found: dict[str, Any] = {
        **named,
        "protocol": scores.protocol.to_json(),
        "queries": scores.queries,
        **_figures(scores, RANKS if scores.benchmark is None else RANKS_OF_BENCHMARKS),
        "cmc": [_value(share) for share in scores.cmc],
        "confidence": scores.confidence.to_json(),
    }
    if scores.draws:
        found["draws"] = [
            _figures(each, RANKS_OF_BENCHMARKS) | {"queries": each.queries} for each in scores.draws
        ]
    if scores.identification:
        found["open_set"] = [each.to_json() for each in scores.identification]
    if scores.balanced_rank1 is not None:
        found["balanced_rank1"] = _value(scores.balanced_rank1)
    return found


def _figures(scores: Scores, named: Sequence[int]) -> dict[str, Any]:
    ranks: dict[str, Any] = {f"rank{k}": _value(scores.rank(k)) for k in named}
    return {**ranks, "mAP": _value(scores.mAP), "mINP": _value(scores.mINP)}


def summarise(
    per_query: QueryScores, first_ranks: Ranks, protocol: Protocol, person_id: NDArray[np.int64]
) -> Scores:
    """The figures of a protocol from the scores of all its queries, and whom they show."""
    values = query_values(person_id, per_query, first_ranks, protocol)
    valid = per_query.matches > 0
    queries = int(valid.sum()) if protocol.denominator == "valid" else len(valid)
    ap = per_query.ap_by(protocol.ap)
    draws = first_ranks.size // max(1, len(first_ranks))
    return Scores(
        protocol=protocol,
        cmc=cmc(first_ranks, queries * draws, protocol.depth),
        mAP=float(ap.sum() / queries) if queries else math.nan,
        mINP=float(per_query.inp.sum() / queries) if queries else math.nan,
        queries=queries,
        per_query=per_query,
        first_ranks=first_ranks,
        values=values,
    )


def evaluate(
    store: FeatureStore,
    protocols: Sequence[Protocol | Benchmark] | None = None,
    similarity: Similarity = COSINE,
    progress: Progress = no_progress,
    distance_QG: NDArray[Any] | None = None,
) -> Evaluation:
    """Scores a store by each protocol: all query rows in all gallery rows, or what a benchmark
    says.

    `similarity` says in which precision and where. `distance_QG` are distances of all query rows
    to all gallery rows, by which every protocol ranks then. Without protocols, those of
    `side_by_side`. Rows whose image could not be read, and queries without a person, are left out
    and counted. DataError, which says why, if the rows have no query, no gallery, or no persons, a
    benchmark lacks a column, or a protocol wants multi-query rows and there are none.
    """
    if not protocols:
        protocols = side_by_side(store)
        if distance_QG is not None:  # which are not of multi-query features
            protocols = [each for each in protocols if each.name != "layumi-multi"]
    if distance_QG is not None:
        protocols = given(protocols)
    usual = [each for each in protocols if isinstance(each, Protocol)]
    parts = [_usual(store, usual, similarity, progress, distance_QG)] if usual else []
    parts += [
        score_benchmark(store, each, similarity, progress, distance_QG)
        for each in protocols
        if isinstance(each, Benchmark)
    ]
    if not parts:
        raise DataError(f"{store.run}: not evaluated: {cannot_evaluate(store)}; {WANTED}")
    return Evaluation(
        scores=[scores for part in parts for scores in part.scores],
        counts=parts[0].counts,
        diagnosis=list(dict.fromkeys(line for part in parts for line in part.diagnosis)),
    )


def _usual(
    store: FeatureStore,
    protocols: Sequence[Protocol],
    similarity: Similarity,
    progress: Progress,
    distance_QG: NDArray[Any] | None,
) -> Evaluation:
    """All query rows in all gallery rows."""
    if why := cannot_evaluate(store):
        raise DataError(f"{store.run}: not evaluated: {why}; {WANTED}")
    if distance_QG is not None:
        refuse_distances_of_tracklets(store.manifest)
        for axis, split in enumerate((QUERY, GALLERY)):
            place = np.searchsorted(store.manifest.rows(split), usable_rows(store, split))
            if len(place) < distance_QG.shape[axis]:
                distance_QG = distance_QG.take(place, axis)
    columns = {name for protocol in protocols for name in protocol.columns}
    if absent := sorted(columns - {"camera", "camera_id"} - store.manifest.extra.keys()):
        raise DataError(
            f"{store.run}: --exclude-same: no column {absent[0]}; there are "
            + ", ".join(["camera", *store.manifest.extra])
        )
    several = None
    if len(usable_rows(store, MULTI_QUERY)):
        several = labelled(store, MULTI_QUERY, columns)
    elif any(each.query == "multi" for each in protocols):
        raise DataError(
            f"{store.run}: not evaluated: no multi-query image with a person; "
            "extract with --multi-query, or evaluate with --query single"
        )
    query, gallery = labelled(store, QUERY, columns), labelled(store, GALLERY, columns)
    query, gallery = with_own_files(store, query, gallery)
    found = evaluate_features(
        query,
        gallery,
        protocols,
        several=several,
        similarity=similarity,
        progress=progress,
        distance_QG=distance_QG,
    )
    if FILE in query.columns:
        there = int(np.isin(query.columns[FILE], gallery.columns[FILE]).sum())
        said = f"{counted(there, 'query is', 'queries are')} in the gallery: none finds itself"
        found = replace(found, diagnosis=[*found.diagnosis, said])
    named = diagnosis.of_names(store.manifest, usable_rows(store, QUERY))
    found = replace(found, diagnosis=[*found.diagnosis, *named])
    return replace(found, counts=found.counts | _left_out(store))


def with_own_files(
    store: FeatureStore, query: LabelledFeatures, gallery: LabelledFeatures
) -> tuple[LabelledFeatures, LabelledFeatures]:
    """All query and gallery rows with the column by which a query does not find itself, if some are
    in both."""
    rows = usable_rows(store, QUERY), usable_rows(store, GALLERY)
    file_Q, file_G = own_files(store.manifest, *rows)
    if file_Q is None or file_G is None:
        return query, gallery
    return (
        replace(query, columns=query.columns | {FILE: file_Q}),
        replace(gallery, columns=gallery.columns | {FILE: file_G}),
    )


def score_benchmark(
    store: FeatureStore,
    benchmark: Benchmark,
    similarity: Similarity = COSINE,
    progress: Progress = no_progress,
    distance_QG: NDArray[Any] | None = None,
) -> Evaluation:
    """The figures of one benchmark, the mean over its draws where there are some."""
    if benchmark.frames:
        return _score_person_search(store, benchmark, progress, distance_QG is not None)
    asked = ask(store, benchmark)
    ranked = rank(store, benchmark, asked, similarity, progress, distance_QG)
    query = ranked.query
    views = asked.views or [View(queries=np.arange(len(query)), rows=np.arange(0))]
    draws = [
        _of_benchmark(benchmark, found, query.person_id[view.queries])
        for view, found in zip(views, ranked.found, strict=True)
    ]
    places = [view.queries for view in views]
    scores = _mean_of_draws(draws, places, query.person_id) if asked.views else draws[0]
    scores = replace(scores, benchmark=benchmark, rows=asked.queries)
    scores = replace(scores, protocol=effective_counting(benchmark))
    return Evaluation(
        scores=[scores],
        counts=_counts(query, ranked.gallery, scores.per_query) | NOTHING_LEFT_OUT,
        diagnosis=_diagnosed(query, ranked.gallery, scores, distance_QG is None)
        + diagnosis.of_names(store.manifest, asked.query_images)
        + _own_draws(store, benchmark)
        + notes_on(store.manifest, benchmark),
    )


def _score_person_search(
    store: FeatureStore, benchmark: Benchmark, progress: Progress, by_distances: bool
) -> Evaluation:
    if by_distances:
        raise OptionError(f"--distance-matrix: {benchmark.name} ranks features")
    found = search_frames(store, benchmark, progress)
    ranks = found.scores.first_rank
    scores = summarise(found.scores, ranks, benchmark.counting, found.person_id)
    return Evaluation(
        scores=[replace(scores, benchmark=benchmark, rows=found.rows)],
        counts=found.counts,
        diagnosis=found.notes,
    )


def _own_draws(store: FeatureStore, benchmark: Benchmark) -> list[str]:
    """Where no project's code says how to draw, and the data set's list is not there."""
    draw = benchmark.draw
    if draw is None or draw.take == 1 or not draw.listed or draw.listed in store.manifest.extra:
        return []
    return [
        f"{benchmark.name}: the draws are distreid's own (random.sample), for the data set's list "
        "of permutations is not there"
    ]


def _of_benchmark(benchmark: Benchmark, found: Found, person_id: NDArray[np.int64]) -> Scores:
    """The figures of one draw, or of all."""
    scores = summarise(found.scores, found.first_ranks, benchmark.counting, person_id)
    valid = found.scores.matches > 0
    if benchmark.unmatched_ap == "none" and scores.queries > valid.sum():
        scores = replace(scores, mAP=math.nan)
    if benchmark.open_set:
        scores = replace(scores, identification=identifications(found, person_id))
    if benchmark.by_person:
        counted = valid | (benchmark.counting.denominator == "all")
        right = found.scores.first_rank[counted] == 1
        scores = replace(scores, balanced_rank1=by_person(right, person_id[counted]))
    return scores


def _mean_of_draws(
    draws: list[Scores], places: list[NDArray[np.intp]], person_id: NDArray[np.int64]
) -> Scores:
    """The mean of each figure; a query weighs as often as it is in a draw, by that draw's size."""
    queries = len(person_id)
    weight_Q = np.zeros(queries)
    sums = {name: np.zeros(queries) for name in draws[0].values.values}
    columns = {
        name: np.zeros(queries, values.dtype) for name, values in vars(draws[0].per_query).items()
    }
    first_ranks = np.zeros((queries, *draws[0].first_ranks.shape[1:]), np.int64)
    for scores, place in reversed(list(zip(draws, places, strict=True))):
        for name, column in columns.items():
            column[place] = getattr(scores.per_query, name)
        first_ranks[place] = scores.first_ranks
        share = scores.values.counted / max(1, scores.queries)
        weight_Q[place] += share
        for name, values in scores.values.values.items():
            sums[name][place] += share * values
    weighs = np.where(weight_Q > 0, weight_Q, 1.0)
    balanced: list[Any] = [each.balanced_rank1 for each in draws]
    return replace(
        draws[0],
        cmc=np.mean([each.cmc for each in draws], axis=0),
        mAP=float(np.mean([each.mAP for each in draws])),
        mINP=float(np.mean([each.mINP for each in draws])),
        queries=int((weight_Q > 0).sum()),
        per_query=QueryScores(**columns),
        first_ranks=first_ranks,
        values=QueryValues(
            person_id=person_id,
            counted=weight_Q > 0,
            values={name: total / weighs for name, total in sums.items()},
            weight=weight_Q,
        ),
        draws=draws,
        identification=mean_of_draws([each.identification for each in draws]),
        balanced_rank1=None if None in balanced else float(np.mean(balanced)),
    )


def evaluate_features(
    query: LabelledFeatures,
    gallery: LabelledFeatures,
    protocols: Sequence[Protocol],
    *,
    several: LabelledFeatures | None = None,
    similarity: Similarity = COSINE,
    progress: Progress = no_progress,
    distance_QG: NDArray[Any] | None = None,
) -> Evaluation:
    """Scores labelled features by each protocol; `several` are those of the multi-query rows.

    Where neither side knows a camera, the camera rule is `none`. Where it leaves no query a match
    that has one without it, as with one camera for all, scores without it are added.
    """
    has_cameras = (query.camera_id != NO_CAMERA).any() and (gallery.camera_id != NO_CAMERA).any()
    if not has_cameras:
        protocols = [
            protocol if protocol.exclude_same else replace(protocol, camera_rule="none")
            for protocol in protocols
        ]
    passes: dict[tuple[object, ...], tuple[QueryScores, Ranks]] = {}

    def scored(protocol: Protocol) -> Scores:
        key = _ranking_of(protocol)
        if key not in passes:
            asked = query
            if protocol.query == "multi":
                assert several is not None
                asked = multi_query(query, several, protocol)
            passes[key] = score_queries(asked, gallery, protocol, similarity, progress, distance_QG)
        return summarise(*passes[key], protocol, query.person_id)

    scores = [scored(protocol) for protocol in protocols]
    first = scores[0].per_query
    if _rule_leaves_nothing(query, gallery, scores):
        usual = [each for each in protocols if each.name in ("fastreid", "transreid")]
        scores.append(
            scored(
                replace(
                    (usual or protocols)[0],
                    name=NO_CAMERA_RULE,
                    as_in="",
                    camera_rule="none",
                    exclude_same="",
                )
            )
        )
    return Evaluation(
        scores=scores,
        counts=_counts(query, gallery, first),
        diagnosis=_diagnosed(query, gallery, scores[0], distance_QG is None),
    )


def _diagnosed(
    query: LabelledFeatures, gallery: LabelledFeatures, scores: Scores, by_features: bool
) -> list[str]:
    """What is the matter with a score, if it means little."""
    per_query, counting = scores.per_query, scores.protocol
    leaves_out = () if scores.benchmark is None else scores.benchmark.leaves_out
    found = diagnosis.of_matches(
        query, gallery, per_query, SAME_CAMERA if scores.benchmark is None else "", leaves_out
    )
    if by_features:
        found += diagnosis.of_features(query, gallery)
    if scores.benchmark is None:
        found += diagnosis.of_cameras(query, gallery, per_query, counting)
    if by_features and not found:
        found += diagnosis.of_rank1(query, gallery, scores.rank(1), counting, leaves_out)
    return found


def _rule_leaves_nothing(
    query: LabelledFeatures, gallery: LabelledFeatures, scores: Sequence[Scores]
) -> bool:
    if any((each.per_query.matches > 0).any() for each in scores):
        return False
    persons = query.person_id[(query.person_id != JUNK) & (query.person_id != NO_PERSON)]
    return bool(np.isin(persons, gallery.person_id).any())


def given(protocols: Sequence[Protocol | Benchmark]) -> list[Protocol | Benchmark]:
    """The protocols as they rank by distances that are there already. OptionError for one that
    moves features, or is of multi-query features, which have none."""
    return [
        replace(each, distance="given", features="normalised")
        if isinstance(each, Protocol)
        else replace(each, counting=replace(each.counting, distance="given", features="normalised"))
        for each in protocols
    ]


def side_by_side(store: FeatureStore) -> list[Protocol | Benchmark]:
    """The protocols that are shown unless others are asked for: the benchmarks of the layout, or
    else the usual ways of counting, first that of the project which the checkpoint is of, if it has
    one."""
    if benchmarks := of_layout(store.manifest):
        return list(benchmarks)
    preset = preset_of(store.plan.provenance.get("peer"))
    own = preset and preset.name
    same = "fastreid" if own == "transreid" else own
    names = ([own] if own else []) + [name for name in SIDE_BY_SIDE if name != same]
    names += ["layumi-multi"] if len(usable_rows(store, MULTI_QUERY)) else []
    return [PRESETS[name] for name in names]


def cannot_evaluate(store: FeatureStore) -> str:
    """Why a store has no scores; empty if it has."""
    for split in (QUERY, GALLERY):
        rows = store.manifest.rows(split)
        if len(rows) == 0:
            persons = (store.manifest.person_id != NO_PERSON).any()
            alone = "; --protocol leave-one-out wants persons alone" if persons else ""
            return f"no row is marked as {split}{alone}"
        if (store.manifest.person_id[rows] == NO_PERSON).all():
            return f"the {split} rows have no person ids"
        if (store.status[rows] != Status.OK).all():
            return f"none of the {split} images could be read"
        if len(usable_rows(store, split)) == 0:
            return f"no {split} image that could be read has a person id"
    return ""


def labelled(store: FeatureStore, split: str, columns: Collection[str] = ()) -> LabelledFeatures:
    """The rows of a split that can be used: readable, and of a query, with a person; with those of
    these further columns that there are.

    Where the data has tracklets, a row here is the mean of one."""
    rows = usable_rows(store, split)
    if TRACKLET in store.manifest.extra:
        features, norm = pool(store, _usable_images(store, split))
        pieces: Pieces = [features]
    else:
        pieces, norm = store.pieces(rows), store.norm[rows]
    return LabelledFeatures(
        pieces=pieces,
        norm=norm,
        person_id=store.manifest.person_id[rows],
        camera_id=store.manifest.camera_id[rows],
        columns={
            name: column[rows] for name, column in store.manifest.extra.items() if name in columns
        },
    )


def usable_rows(store: FeatureStore, split: str) -> NDArray[np.intp]:
    """The manifest rows that `labelled` takes, in its order; of a tracklet, its first."""
    return first_rows(store, _usable_images(store, split))


def _usable_images(store: FeatureStore, split: str) -> NDArray[np.intp]:
    rows = store.manifest.rows(split)
    usable = store.status[rows] == Status.OK
    if split != GALLERY:
        usable &= store.manifest.person_id[rows] != NO_PERSON
    wanted: NDArray[np.intp] = rows[usable]
    return wanted


def _ranking_of(protocol: Protocol) -> tuple[object, ...]:
    """Protocols that are equal in this share one ranking."""
    shots = (protocol.gallery_shots, protocol.seed if protocol.gallery_shots == "single" else 0)
    moved = (protocol.rerank, protocol.expand)
    junk = protocol.junk if moved != ("none", "none") else ""
    rule = protocol.camera_rule, protocol.exclude_same
    by = "given" if protocol.distance == "given" else protocol.by_cosine
    return by, rule, protocol.query, shots, moved, junk


def _counts(
    query: LabelledFeatures, gallery: LabelledFeatures, scores: QueryScores
) -> dict[str, int]:
    valid = int((scores.matches > 0).sum())
    junk = gallery.person_id == JUNK
    return {
        "queries": len(query),
        "valid_queries": valid,
        "queries_without_match": len(query) - valid,
        "gallery": len(gallery),
        "junk": int(junk.sum()),
        "distractors": int((~np.isin(gallery.person_id, query.person_id) & ~junk).sum()),
        "bad_queries": 0,
        "bad_gallery": 0,
        "unlabelled_queries": 0,
    }


def _left_out(store: FeatureStore) -> dict[str, int]:
    """How many of a store's rows are not among its labelled features."""
    queries, in_gallery = store.manifest.rows(QUERY), store.manifest.rows(GALLERY)
    return {
        "bad_queries": int((store.status[queries] != Status.OK).sum()),
        "bad_gallery": int((store.status[in_gallery] != Status.OK).sum()),
        "unlabelled_queries": int((store.manifest.person_id[queries] == NO_PERSON).sum()),
    }


def _value(share: float) -> float | None:
    return None if math.isnan(share) else float(share)

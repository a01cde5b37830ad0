"""How a score is computed: every convention by name, and whose numbers it reproduces.

Imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from distreid.errors import OptionError

CHOICES = {
    "ap": ("standard", "trapezoid"),
    "denominator": ("valid", "all"),
    "camera_rule": ("cross", "none"),
    "distance": ("cosine", "euclidean", "sqeuclidean", "given"),
    "features": ("normalised", "raw"),
    "query": ("single", "multi"),
    "gallery_shots": ("all", "single"),
    "junk": ("dropped", "masked"),
    "rerank": ("none", "zhong", "transreid", "fastreid"),
    "expand": ("none", "aqe"),
}

MOST_DEPTH = 100_000  # each rank of the CMC curve is a number of every protocol's scores


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One convention; it goes with every figure. OptionError if a value is not known."""

    name: str
    as_in: str = ""
    """The projects whose numbers it reproduces."""
    ap: str = "standard"
    """`standard`: the mean of the precisions at the matches. `trapezoid`: the area under the
    precision-recall curve by trapezoids. See `metrics`."""
    denominator: str = "valid"
    """`valid`: queries with a match. `all`: all queries; one without a match counts as 0."""
    camera_rule: str = "cross"
    """`cross`: gallery rows of the query's person and camera are left out. `none`: they are not."""
    exclude_same: str = ""
    """Instead of the camera rule: gallery rows of the query's person that are equal to it in all of
    these columns are left out, such as `camera,clothes`."""
    distance: str = "cosine"
    """`euclidean` and its square rank alike; of normalised features, as the cosine does. `given`:
    a matrix that is there already."""
    features: str = "normalised"
    """`raw`: as the model gives them, which only a distance tells from normalised ones."""
    query: str = "single"
    """`multi`: the mean of the multi-query features of the query's person and camera."""
    gallery_shots: str = "all"
    """`single`: CMC on galleries with one random image of each person, averaged over 10 draws,
    as for CUHK03 before 2017; AP stays on the whole gallery, as in torchreid."""
    junk: str = "dropped"
    """`dropped` when the data is read, or `masked` in the ranking. A ranking without re-ranking
    or expansion is the same; with them, masked junk is among the neighbours."""
    rerank: str = "none"
    """k-reciprocal re-ranking of normalised features: a name of `rerank.RERANKINGS`."""
    expand: str = "none"
    """`aqe`: α-weighted expansion of queries and gallery by their neighbours, before the rest."""
    seed: int = 0
    """Of the single-shot draws."""
    depth: int = 50
    """The largest k of Rank-k."""

    def __post_init__(self) -> None:
        for field, choices in CHOICES.items():
            if (value := getattr(self, field)) not in choices:
                flag = "--" + field.replace("_", "-")
                raise OptionError(f"{flag} {value}: choose one of {', '.join(choices)}")
        moved = (self.rerank, self.expand, self.query) != ("none", "none", "single")
        if self.distance == "given" and moved:
            raise OptionError(
                "--distance-matrix: distances are ranked as they are, without --rerank, --expand "
                "and --query multi"
            )
        if not self.by_cosine and (self.rerank, self.expand) != ("none", "none"):
            raise OptionError("--rerank and --expand want --features normalised")
        if self.exclude_same and (self.camera_rule == "none" or not all(self.columns)):
            raise OptionError(
                f"--exclude-same {self.exclude_same}: columns separated by commas, without "
                "--camera-rule none"
            )
        if not 1 <= self.depth <= MOST_DEPTH:
            raise OptionError(f"--depth {self.depth}: from 1 to {MOST_DEPTH:,}")
        if not 0 <= self.seed < 2**32:
            raise OptionError(f"--seed {self.seed}: from 0 to {2**32 - 1:,}")

    def to_json(self) -> dict[str, Any]:
        """Plain values; what version 0.1.0 did not know is absent where it is not used."""
        values = asdict(self)
        if not self.exclude_same:
            del values["exclude_same"]
        return values

    @property
    def columns(self) -> list[str]:
        """Those of `exclude_same`."""
        return self.exclude_same.split(",") if self.exclude_same else []

    @property
    def by_cosine(self) -> bool:
        """Whether it ranks as the cosine does."""
        return self.distance == "cosine" or self.features == "normalised"

    @property
    def words(self) -> tuple[str, str, str]:
        """Which queries count, which AP, and what ranks, for people."""
        ranked_by = "cosine" if self.by_cosine else "raw, Euclidean"
        if self.distance == "given":
            ranked_by = "given distances"
        return f"{self.denominator} queries", f"{self.ap} AP", ranked_by


PRESETS = {
    "torchreid": Protocol(
        name="torchreid", as_in="torchreid", distance="sqeuclidean", features="raw"
    ),
    "fastreid": Protocol(name="fastreid", as_in="fast-reid"),
    "transreid": Protocol(
        name="transreid", as_in="TransReID, CLIP-ReID", distance="sqeuclidean"
    ),
    "layumi": Protocol(
        name="layumi", as_in="Person_reID_baseline_pytorch", ap="trapezoid", denominator="all",
        junk="masked",
    ),
    "layumi-multi": Protocol(
        name="layumi-multi",
        as_in="Person_reID_baseline_pytorch --multi",
        ap="trapezoid",
        denominator="all",
        junk="masked",
        query="multi",
    ),
    "cuhk03-classic": Protocol(
        name="cuhk03-classic", as_in="torchreid --use-metric-cuhk03", gallery_shots="single",
        distance="sqeuclidean", features="raw", depth=20,
    ),
}  # fmt: skip


def preset_of(peer: str | None) -> Protocol | None:
    """The preset that reproduces a project's numbers, if there is one."""
    return next((preset for preset in PRESETS.values() if peer in preset.as_in.split(", ")), None)

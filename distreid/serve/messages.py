"""What is asked and answered, as OpenAPI describes it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from distreid.data.image_table import MOST_SECONDS
from distreid.search.gallery import Filter
from distreid.serve.limits import MAX_DIM, MAX_IMAGES, MAX_TOP, MAX_WORD, MAX_WORDS

ROW_LIMIT = 2**63 - 1


def _number(given: Any) -> Any:
    if isinstance(given, bool):  # which is 0 or 1 for pydantic
        raise ValueError("a number is wanted, not true or false")
    return given


NO_CONTROL = r"^[^\x00-\x1f\x7f]*$"


def _one_line(given: str) -> str:
    if not re.fullmatch(NO_CONTROL, given):
        raise ValueError("a name has no control characters")
    return given


Row = Annotated[int, BeforeValidator(_number), Field(ge=0, le=ROW_LIMIT)]
RowId = Annotated[int, Path(ge=0, le=ROW_LIMIT)]
Word = Annotated[str, Field(min_length=1, max_length=MAX_WORD)]
Words = Annotated[list[Word], Field(max_length=MAX_WORDS)]
Finite = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Moment = Annotated[Finite, Field(ge=-MOST_SECONDS, le=MOST_SECONDS)]
Cosine = Annotated[float, BeforeValidator(_number), Field(ge=-1, le=1)]
Feature = Annotated[list[Finite], Field(min_length=1, max_length=MAX_DIM)]
Rows = Annotated[list[Row], Field(max_length=MAX_TOP)]
# The pattern stands in OpenAPI alone: pydantic's own message would show it to people.
Label = Annotated[
    str,
    AfterValidator(_one_line),
    Field(max_length=MAX_WORD, json_schema_extra={"pattern": NO_CONTROL}),
]
Labels = Annotated[list[Label], Field(min_length=1, max_length=MAX_IMAGES)]


class Asked(BaseModel):
    """What of the gallery is wanted; the names are those of `distreid search`."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    top: Annotated[int, BeforeValidator(_number), Field(ge=1, le=MAX_TOP)] = 10
    cameras: Words | None = None
    persons: Words | None = None
    not_persons: Words | None = None
    since: Finite | None = None
    until: Finite | None = None
    threshold: Cosine | None = None
    fuse: Literal["mean", "max", "rank"] | None = None

    @model_validator(mode="after")
    def _scores_are_cosines(self) -> Asked:
        if self.fuse == "rank" and self.threshold is not None:
            raise ValueError("the scores of fuse rank are no cosines: give no threshold")
        return self

    @model_validator(mode="after")
    def _since_is_not_later(self) -> Asked:
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError("since is later than until")
        return self

    def filter(self) -> Filter:
        """Which rows may be found."""
        words = {
            name: None if given is None else tuple(given)
            for name in ("cameras", "persons", "not_persons")
            for given in (getattr(self, name),)
        }
        return Filter(**words, since=self.since, until=self.until)


class OneQuery(BaseModel):
    """A row of the gallery, or a feature."""

    row: Row | None = None
    feature: Feature | None = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> OneQuery:
        if (self.row is None) == (self.feature is None):
            raise ValueError("a row or a feature is wanted, one of the two")
        return self


class AskedByRow(Asked, OneQuery):
    """A search by a row of the gallery, or by a feature."""


class AskedMarks(BaseModel):
    """Which hits of a query are right, and which are wrong; rows by their ids."""

    model_config = ConfigDict(extra="forbid")

    right: Rows = []
    wrong: Rows = []
    unmarked: Rows = []
    """Whose marks are taken back."""

    @model_validator(mode="after")
    def _each_once(self) -> AskedMarks:
        rows = [*self.right, *self.wrong, *self.unmarked]
        if not rows:
            raise ValueError("no row is marked; give right, wrong or unmarked")
        if len({*rows}) < len(rows):
            raise ValueError("a row is named twice")
        return self


class AskedMarksByRow(AskedMarks, OneQuery):
    """Of a query that is a row of the gallery, or a feature."""


class KnownOfImages(BaseModel):
    """What is known of images that are added: one value for all, or one for each."""

    model_config = ConfigDict(extra="forbid")

    person: Labels = [""]
    """Names or numbers; empty: not known."""
    camera: Labels = [""]
    time: Annotated[list[Moment], Field(max_length=MAX_IMAGES)] | None = None
    """Seconds since 1970."""


class Hit(BaseModel):
    """A row that was found."""

    row: int
    score: float
    person: str | None
    """Null where nobody is known."""
    camera: str | None
    time: float | None
    """Seconds since 1970, where it is known."""
    image: str
    """The address of a thumbnail."""
    frame: str | None
    """Of a box, the address of its frame, in which it is drawn."""
    same: bool | None
    """Whether the score reaches the threshold; null without one, and of the row that is searched
    for."""


class Answer(BaseModel):
    """The hits of one query, the best first."""

    hits: list[Hit]
    exact: bool


class Found(BaseModel):
    """One query's hits, or of several images a list each."""

    hits: list[Hit] | None = None
    answers: list[Answer] | None = None
    exact: bool
    generation: int
    threshold: float | None
    unmatched: list[str]
    """What was asked for that no row of the gallery has, such as `camera 7`."""


class Features(BaseModel):
    """Unit vectors, one for each image, in the order of the images."""

    features: list[list[float]]
    dim: int


class ListedRow(BaseModel):
    """A row that can be found."""

    row: int
    person: str | None
    """Null where nobody is known."""
    camera: str | None
    time: float | None
    image: str


class ListedRows(BaseModel):
    """Rows in the order of their ids."""

    rows: list[ListedRow]
    following: int | None
    """The id from which the next ones are to be asked for; null after the last."""
    generation: int


class ListedRun(BaseModel):
    """A run of the gallery."""

    run: str
    rows: int
    owned: bool
    """Whether the gallery has a copy of its own."""


class AboutGallery(BaseModel):
    """What is served."""

    generation: int
    rows: int
    """That can be found."""
    hidden: int
    marks: int
    """Of hits, right or wrong."""
    runs: list[ListedRun]
    """The last of them where there are many."""
    may_change: bool
    """Whether whoever asks may add and remove."""
    dim: int
    threshold: float | None
    takes_images: bool
    """Whether there is a checkpoint, so that images can be sent."""
    cameras: list[str]
    """Their names, or numbers; the first of them where there are many."""
    space: dict[str, Any]


class Gone(BaseModel):
    """What a removal did."""

    rows: int
    erased: bool
    generation: int
    still_in: list[str]
    """Runs that are not the gallery's own, and still hold the erased row."""


class Added(BaseModel):
    """Images that are rows of the gallery now, in their order."""

    rows: list[int]
    generation: int


class Marked(BaseModel):
    """What the gallery keeps of marks."""

    marks: int
    """All that it has."""
    generation: int


class State(BaseModel):
    """In a word."""

    status: str

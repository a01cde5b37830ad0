"""The identity's two parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import REPOSITORY

from distreid.data.source import open_data
from distreid.errors import StoreError
from distreid.job.options import ExtractOptions
from distreid.job.runs import Computed, make_plan
from distreid.models.checkpoint import load_model
from distreid.store.identity import (
    FEATURE_SPACE,
    HORIZONTAL_FIRST,
    HOW_COMPUTED,
    TALL_VERTICALLY_FIRST,
    feature_space,
    how_computed,
)
from distreid.store.root_file import read_plan

COMPUTED = Computed(engine="openvino", compile="default")  # which no run has at once


def identity(computed: Computed = COMPUTED, **options: object) -> dict[str, object]:
    asked = ExtractOptions(data="sample", checkpoints=("sample",), out=REPOSITORY, **options)  # type: ignore[arg-type]
    return make_plan(asked, open_data("sample"), load_model("sample"), {}, computed).identity


def test_every_key_is_of_exactly_one_part() -> None:
    assert not set(FEATURE_SPACE) & set(HOW_COMPUTED)
    found = identity()
    assert feature_space(found) | how_computed(found) == found
    assert {*FEATURE_SPACE, *HOW_COMPUTED} - found.keys() == {
        *("imported", "file", "int8", "exported", "merged", "crop", "video"),
    }


def test_views_are_of_the_feature_space_and_precision_is_not() -> None:
    plain, flipped = identity(), identity(flip=True)
    half = identity(replace(COMPUTED, precision="bf16"))
    assert feature_space(plain) == feature_space(half) != feature_space(flipped)
    assert how_computed(plain) == how_computed(flipped) != how_computed(half)


def test_engine_and_compilation_are_no_part_of_the_feature_space() -> None:
    by_torch, other = identity(Computed()), identity()
    assert feature_space(by_torch) == feature_space(other)
    assert "engine" not in by_torch and other["engine"] == "openvino"
    assert set(other["versions"]) - set(by_torch["versions"]) == {"openvino"}  # type: ignore[call-overload]


def test_an_old_store_has_both_parts_too() -> None:
    plan = read_plan(REPOSITORY / "tests/data/version_0_1_0/complete/store.h5")
    assert "passes" not in how_computed(plan.identity)
    assert feature_space(plan.identity)["dim"] == 512


@pytest.mark.parametrize(
    ("pillow", "order"), [("9.5.0", HORIZONTAL_FIRST), ("12.3.0", HORIZONTAL_FIRST),
                          ("13.0.0", TALL_VERTICALLY_FIRST)]
)  # fmt: skip
def test_an_old_store_was_resized_as_its_pillow_does(pillow: str, order: str) -> None:
    plan = read_plan(REPOSITORY / "tests/data/version_0_1_0/complete/store.h5")
    old = plan.identity | {"versions": plan.identity["versions"] | {"Pillow": pillow}}
    assert "resize" not in old
    assert feature_space(old)["resize"] == order
    assert identity()["resize"] == HORIZONTAL_FIRST
    assert "Pillow" not in identity()["versions"]  # type: ignore[operator]


def test_a_key_that_is_not_known_is_refused() -> None:
    with pytest.raises(StoreError, match="an identity with colour, which this distreid does not"):
        feature_space(identity() | {"colour": "RGB"})

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distreid.data.manifest import NO_CAMERA, NO_PERSON, Manifest, build_manifest, text_column
from distreid.errors import DataError


def example() -> Manifest:
    return build_manifest(
        root=Path("/data"),
        layout="csv",
        path=[b"a.jpg", b"b/c.jpg", b"d.jpg"],
        person_id=[1, 2, 3],
        camera_id=[1, 1, 2],
        split=["query", "gallery", "gallery"],
        extra={"time": ["noon", "", "night"]},
    )


def test_a_column_left_out_is_not_known_in_every_row() -> None:
    manifest = build_manifest(root=Path("/"), layout="folder", path=[b"a", b"b"])
    assert manifest.person_id.tolist() == [NO_PERSON] * 2
    assert manifest.camera_id.tolist() == [NO_CAMERA] * 2
    assert manifest.split.tolist() == [b"", b""]


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(DataError, match="camera_id"):
        replace(example(), camera_id=np.array([1, 2]))


def test_rows_of_a_split_are_its_row_numbers() -> None:
    assert example().rows("gallery").tolist() == [1, 2]
    assert example().rows("train").tolist() == []


def test_the_fingerprint_ignores_where_the_folder_lies_and_how_wide_a_column_is() -> None:
    manifest = example()
    moved = replace(manifest, root=Path("/elsewhere"), path=manifest.path.astype("S99"))
    assert moved.fingerprint() == manifest.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"path": text_column([b"b/c.jpg", b"a.jpg", b"d.jpg"])},
        {"path": text_column([b"a.jpgb", b"/c.jpg", b"d.jpg"])},
        {"person_id": np.array([1, 2, 4])},
        {"camera_id": np.array([1, 2, 2])},
        {"split": text_column([b"query", b"query", b"gallery"])},
        {"extra": {"time": text_column([b"noon", b"", b"noon"])}},
        {"extra": {"hour": text_column([b"noon", b"", b"night"])}},
    ],
    ids=["order", "boundary", "person", "camera", "split", "extra value", "extra name"],
)
def test_the_fingerprint_tells_every_change_of_a_row(change: dict[str, object]) -> None:
    assert replace(example(), **change).fingerprint() != example().fingerprint()  # type: ignore[arg-type]

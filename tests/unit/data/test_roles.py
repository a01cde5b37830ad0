"""Rows that are listed as query and as gallery."""

from pathlib import Path

from distreid.data.manifest import Manifest, build_manifest
from distreid.data.roles import listed_twice, merged


def listed(*rows: tuple[str, int, str]) -> Manifest:
    """Path, person and split of each."""
    return build_manifest(
        root=Path("/data"),
        layout="csv",
        path=[path.encode() for path, _, _ in rows],
        person_id=[person for _, person, _ in rows],
        split=[split for _, _, split in rows],
    )


def test_one_image_of_both_splits_becomes_one_row_at_its_first_place() -> None:
    manifest = listed(
        ("a", 1, "gallery"), ("b", 2, "query"), ("c", 3, "gallery"), ("a", 1, "query"),
        ("b", 2, "gallery"),
    )  # fmt: skip
    pairs = listed_twice(manifest)
    assert pairs == [(0, 3), (1, 4)]
    found, kept = merged(manifest, pairs)
    assert found.path.tolist() == [b"a", b"b", b"c"] and kept.tolist() == [0, 1, 2]
    assert found.split.tolist() == [b"query+gallery", b"query+gallery", b"gallery"]
    assert found.notes[-1].startswith("2 images are listed as query and as gallery: one row each")


def test_what_differs_or_stands_in_one_split_several_times_stays() -> None:
    manifest = listed(
        ("a", 1, "query"), ("a", 1, "query"), ("a", 1, "gallery"), ("b", 2, "query"),
        ("b", 3, "gallery"), ("c", 4, "train"), ("c", 4, "query"),
    )  # fmt: skip
    assert listed_twice(manifest) == []
    found, kept = merged(manifest, [])
    assert found is manifest and kept.tolist() == [*range(7)]

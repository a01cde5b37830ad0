from pathlib import Path

from conftest import touch

from distreid.data.source import open_data


def test_query_and_test_beside_each_other_are_ltcc_with_clothes(tmp_path: Path) -> None:
    touch(tmp_path, "query/001_1_c1_015833.png", "test/001_2_c2_015834.png", "train/9_1_c1_1.png")
    touch(tmp_path, "test/002_1_c12_015835.png")
    manifest = open_data(str(tmp_path))
    assert manifest.layout == "ltcc"
    assert manifest.person_id.tolist() == [1, 1, 2]
    assert manifest.camera_id.tolist() == [1, 2, 12]
    assert manifest.split.tolist() == [b"query", b"gallery", b"gallery"]
    assert manifest.extra["clothes"].tolist() == [b"001_1", b"001_2", b"002_1"]

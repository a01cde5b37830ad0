"""Near-duplicates between query and gallery: the same pixels in other bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distreid import cli
from distreid.data.manifest import BOTH, GALLERY
from distreid.data.source import open_data
from distreid.images import same_pixels as module
from distreid.images.preprocess import ORIENTATION
from distreid.images.same_pixels import same_pixels


def data(root: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("query/0001_c1_a", "query/0002_c1_b", "test/0001_c2_d", "test/0003_c2_e"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        pixels = random.integers(0, 255, (20, 10, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{name}.png")
    # The same pixels, in another format and so in other bytes.
    Image.open(root / "query/0002_c1_b.png").save(root / "test/0002_c2_c.bmp")
    (root / "test/0004_c1_f.png").write_bytes(b"no image")
    return root


def test_images_of_the_same_pixels_are_found_whatever_their_bytes(tmp_path: Path) -> None:
    manifest = open_data(str(data(tmp_path)))
    found = same_pixels(manifest, [])
    assert found is not None
    ((query, other),) = found
    assert manifest.file(query).name == "0002_c1_b.png"
    assert manifest.file(other).name == "0002_c2_c.bmp"
    assert same_pixels(manifest, [query]) == []


def test_a_query_that_is_in_the_gallery_too_is_not_its_own_double(tmp_path: Path) -> None:
    data(tmp_path)
    names = ("query/0002_c1_b.png", "test/0002_c2_c.bmp", "query/0001_c1_a.png")
    rows = [f"{name},{split}" for name, split in zip(names, (BOTH, GALLERY, BOTH), strict=True)]
    (tmp_path / "list.csv").write_text("\n".join(["path,split", *rows]))
    assert same_pixels(open_data(str(tmp_path / "list.csv")), []) == [(0, 1)]


def test_too_many_images_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    assert same_pixels(open_data(str(data(tmp_path))), []) is None


def test_inspect_says_them_and_what_protocols_leave_of_the_queries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", "--data", str(data(tmp_path))]) == 0
    out = capsys.readouterr().out
    assert (
        "1 query image has the pixels of a gallery image of other bytes: 'query/0002_c1_b.png' "
        "those of 'test/0002_c2_c.bmp'"
    ) in out
    assert "cross-camera: 2 of 2 queries with a match among 4" in out
    assert "leave-one-out: 4 of 6 queries with a match among 6" in out
    assert "EXIF" not in out
    exif = Image.Exif()
    for orientation, name in ((1, "a"), (6, "b")):
        exif[ORIENTATION] = orientation
        Image.new("RGB", (8, 9)).save(tmp_path / f"test/0005_c1_{name}.jpg", exif=exif)
    assert cli.main(["inspect", "--data", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "of 7 images looked at, 1 would be turned by their EXIF, as 'test/0005_c1_b.jpg'" in out
    assert cli.main(["inspect", "--data", str(tmp_path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["turned_by_exif"] == {"looked_at": 7, "images": 1}
    assert content["same_pixels"] == [["query/0002_c1_b.png", "test/0002_c2_c.bmp"]]
    (found,) = (each for each in content["protocols"] if each["protocol"] == "closed-set")
    assert found == {"protocol": "closed-set", "queries": 2, "with_match": 2, "gallery": 6}

import contextlib
import gzip
import importlib
import os
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distreid.data import table_files
from distreid.data.labels import CAMERA, PERSON, labels_of
from distreid.data.manifest import JUNK, NO_CAMERA, NO_PERSON, Manifest, build_manifest
from distreid.data.source import open_data
from distreid.errors import DataError


def csv_file(folder: Path, text: str | bytes, name: str = "manifest.csv") -> str:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def test_a_csv_keeps_its_order_its_labels_and_its_other_columns(tmp_path: Path) -> None:
    text = (
        "\ufeffcamera_id,path,person_id,split,note\r\n"
        '2,"b, c.jpg",7,query,"two\nlines"\r\n\r\n'
        ",/abs/a.jpg,,gallery,é\r\n"
    )
    manifest = open_data(csv_file(tmp_path, text))
    assert manifest.layout == "csv"
    assert manifest.path.tolist() == [b"b, c.jpg", b"/abs/a.jpg"]
    assert manifest.person_id.tolist() == [7, NO_PERSON]
    assert manifest.camera_id.tolist() == [2, NO_CAMERA]
    assert manifest.split.tolist() == [b"query", b"gallery"]
    assert manifest.extra["note"].tolist() == [b"two\nlines", "é".encode()]
    assert manifest.file(0) == tmp_path / "b, c.jpg"
    assert manifest.file(1) == Path("/abs/a.jpg")


def test_a_csv_of_paths_alone_is_enough(tmp_path: Path) -> None:
    manifest = open_data(csv_file(tmp_path, "path\na.jpg\n"))
    assert manifest.person_id.tolist() == [NO_PERSON]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column named path"),
        ("document,person_id\na.doc,1\n", "line 1: no column named path"),
        ("path,path\na,b\n", "line 1: every column needs a name of its own"),
        ("path,person_id\na.jpg,1\nb.jpg\n", "line 3: 1 field, the header has 2"),
        ("path,person_id\na.jpg,1\nb.jpg,-7\n", "line 3: person_id is '-7'"),
        ("path,camera_id\na.jpg,1.5\n", "line 2: camera_id is '1.5'"),
        ("path,camera_id\n,1\n", "line 2: the path is empty"),
        ('path\n"a.jpg\n', "line 2: unexpected end of data"),
        ("path\n", "the table has no row"),
        ("path\na\0.jpg\n", "line 2: the path is empty or holds a NUL"),
        ("path,.\na.jpg,1\n", "line 1: a column's name cannot be '.' or hold '/'"),
        ("path,note\na.jpg," + "x" * 4097, "line 2: a field of more than 4,096 characters"),
        ("path,person_id\na.jpg,9999999999999999999\n", "line 2: person_id is '9999"),
    ],
)
def test_a_broken_csv_names_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_data(csv_file(tmp_path, text))
    assert "manifest.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_of_a_csv_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    names = ["~/a.jpg", "$HOME/a.jpg", "*.jpg", "http://x.org/a.jpg", "file:///a.jpg", "../a.jpg"]
    names += ["a.jpg; rm -rf", "`id`.jpg", "{0}%s.jpg", "a.jpg#b", " a.jpg ", "./a.jpg"]
    manifest = open_data(csv_file(tmp_path, "path\n" + "\n".join(names)))
    assert manifest.path.tolist() == [name.encode() for name in names]
    assert [os.fspath(manifest.file(row)) for row in range(6)] == [
        *(f"{tmp_path}/{name}" for name in names[:3]),
        f"{tmp_path}/http:/x.org/a.jpg",  # pathlib's, the same file
        f"{tmp_path}/file:/a.jpg",
        f"{tmp_path}/../a.jpg",
    ]


def read(folder: Path, text: str | bytes, name: str = "rows.csv", **options: Any) -> Manifest:
    return open_data(csv_file(folder, text, name), **options)


def test_persons_and_cameras_may_be_names(tmp_path: Path) -> None:
    text = "path,person_id,camera_id\na.jpg,cow_17,entrance-1\nb.jpg,-1,\nc.jpg,aÿ,entrance-1\n"
    manifest = read(tmp_path, text)
    assert manifest.person_id.tolist() == [1, -1, 0]
    assert manifest.camera_id.tolist() == [0, NO_CAMERA, 0]
    assert manifest.extra["person_name"].tolist() == [b"cow_17", b"", "aÿ".encode()]
    assert manifest.names("person_name") == {0: "aÿ", 1: "cow_17"}
    assert manifest.names("camera_name") == {0: "entrance-1"}
    assert "person: 2 names, numbered in sorted order: 'aÿ', 'cow_17'" in manifest.notes


def test_12_0_is_12_and_nan_is_nobody(tmp_path: Path) -> None:
    manifest = read(tmp_path, "path,person_id,camera_id\na.jpg,12.0,1.\nb.jpg,nan,\nc.jpg,12,3\n")
    assert manifest.person_id.tolist() == [12, NO_PERSON, 12]
    assert manifest.camera_id.tolist() == [1, NO_CAMERA, 3]
    assert manifest.extra == {}
    assert manifest.notes == ("person: nan is taken for unknown (1 row)",)


@pytest.mark.parametrize("mark", ["NA", "NULL", "N/A", "NONE"])
def test_what_r_and_sql_write_for_nothing_is_unknown(mark: str, tmp_path: Path) -> None:
    rows = f"path,pid,camera,time\na.jpg,1,hall,5\nb.jpg,{mark},{mark},{mark}\n"
    manifest = read(tmp_path, rows)
    assert manifest.person_id.tolist() == [1, NO_PERSON]
    assert manifest.camera_id.tolist() == [0, NO_CAMERA]
    assert manifest.extra["time"].tolist() == [b"5", b""]
    for what in ("person", "camera"):
        assert f"{what}: {mark} is taken for unknown (1 row)" in manifest.notes
        assert f"{what}: --ids text takes {mark} for a name" in manifest.notes
    kept = read(tmp_path, rows, ids="text")
    assert sorted(kept.names("person_name").values()) == ["1", mark]
    # Of folders, where nothing is missing.
    assert labels_of(["anna", mark], PERSON).numbers != [0, NO_PERSON]
    assert labels_of(["7", mark], PERSON).numbers == [7, NO_PERSON]


def test_our_own_unknown_with_a_point_is_unknown(tmp_path: Path) -> None:
    for others in ("3.0", "hall"):
        manifest = read(tmp_path, f"path,pid,cam\na.jpg,-2.0,-1.0\nb.jpg,-1.0,{others}\n")
        assert manifest.person_id.tolist() == [NO_PERSON, JUNK]
        assert manifest.camera_id.tolist() == [NO_CAMERA, 3 if others == "3.0" else 0]
        assert "camera: -1.0 is taken for unknown (1 row)" in manifest.notes


def test_a_whole_number_with_a_point_is_one_name_with_that_without(tmp_path: Path) -> None:
    rows = "path,person_id\na.jpg,12.0\nb.jpg,12\nc.jpg,anna\nd.jpg,-1.0\ne.jpg,1.5\n"
    manifest = read(tmp_path, rows)
    assert manifest.person_id.tolist() == [1, 1, 2, JUNK, 0]
    assert "person: 3 names, numbered in sorted order: '1.5', '12', 'anna'" in manifest.notes
    apart = read(tmp_path, rows, ids="text")
    assert len(set(apart.person_id.tolist())) == 5
    cameras = read(tmp_path, "path,camera_id\na.jpg,-1\nb.jpg,-1.0\nc.jpg,door\n")
    assert cameras.camera_id.tolist() == [NO_CAMERA, NO_CAMERA, 0]


def test_012_and_12_are_one_number_or_two_names(tmp_path: Path) -> None:
    text = "path,person_id\na.jpg,012\nb.jpg,12\n"
    manifest = read(tmp_path, text)
    assert manifest.person_id.tolist() == [12, 12]
    assert manifest.notes == (
        "person: 012 and 12 are taken for one number; --ids text keeps them apart",
    )
    assert read(tmp_path, text, ids="text").person_id.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path,pid\na.jpg,1\n".encode("utf-16-le"),
            "line 1: no text, or one in UTF-32, or in UTF-16",
        ),
        ("path,pid\na.jpg,1\n".encode("utf-32"), "line 1: no text, or one in UTF-32"),
        (gzip.compress(b"path,pid\na.jpg,1\n", mtime=0), "packed by gzip; unpack it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 500, "an old file of Excel's"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=rf"manifest\.csv.*{message}"):
        open_data(csv_file(tmp_path, content))


def test_blanks_around_a_value_say_nothing(tmp_path: Path) -> None:
    rows = 'a.jpg,1,5,hall,in\nb.jpg, 1, 5, hall,"x\ny "\n'
    manifest = open_data(csv_file(tmp_path, "path,pid,tracklet,place,note\n" + rows))
    assert manifest.extra["tracklet"].tolist() == [b"5", b"5"]
    assert manifest.extra["place"].tolist() == [b"hall", b"hall"]
    assert manifest.extra["note"].tolist() == [b"in", b"x\ny"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_any_delimiter_line_end_and_encoding(
    tmp_path: Path, delimiter: str, end: str, encoding: str
) -> None:
    rows = [["path", "person_id", "note"], ["é 1.jpg", "7", '"a, b; c"'], ["2.jpg", "", "x"]]
    text = end.join(delimiter.join(row) for row in rows) + end
    manifest = read(tmp_path, text.encode(encoding), "rows.tsv")
    assert manifest.path.tolist() == ["é 1.jpg".encode(), b"2.jpg"]
    assert manifest.person_id.tolist() == [7, NO_PERSON]
    assert manifest.extra["note"].tolist() == [b"a, b; c", b"x"]
    assert ("not UTF-8: read as latin-1" in manifest.notes) == (encoding == "latin-1")


@pytest.mark.parametrize(
    "header",
    [
        "image,pid,camid,set",
        "img_path,Person ID,cam,subset",
        "FileName,label,camera,partition",
        "file,identity,Camera-ID,split",
    ],
)
def test_columns_under_their_usual_names(tmp_path: Path, header: str) -> None:
    manifest = read(tmp_path, f"{header}\na.jpg,7,2,probe\nb.jpg,,3,test\n")
    assert manifest.person_id.tolist() == [7, NO_PERSON]
    assert manifest.camera_id.tolist() == [2, 3]
    assert manifest.split.tolist() == [b"query", b"gallery"]
    first, second = manifest.notes
    assert first.startswith(f"path is {header.split(',')[0]}, person_id is")
    assert first.endswith("; --columns says otherwise")
    assert second.endswith(": probe is query, test is gallery")


def test_other_columns_are_said(tmp_path: Path) -> None:
    text = "where,who,light\na,7,dim\n"
    with pytest.raises(DataError, match=r"no column named path; the header has .*--columns path="):
        read(tmp_path, text)
    manifest = read(tmp_path, text, columns={"path": "where", "person_id": "who", "sun": "light"})
    assert manifest.person_id.tolist() == [7]
    assert manifest.extra["sun"].tolist() == [b"dim"]
    assert read(tmp_path, text, columns={"image": "where", "pid": "who"}).person_id.tolist() == [7]
    for twice in ({"path": "where", "image": "who"}, {"path": "where", "pid": "where"}):
        with pytest.raises(DataError, match="--columns: one thing or one column is said twice"):
            read(tmp_path, text, columns=twice)
    with pytest.raises(DataError, match="--columns: no column Who; there are"):
        read(tmp_path, text, columns={"path": "where", "person_id": "Who"})


def test_a_column_of_image_names_is_the_path_under_any_name(tmp_path: Path) -> None:
    manifest = read(tmp_path, "name,identity\na.jpg,7\nb.PNG,8\n")
    assert manifest.path.tolist() == [b"a.jpg", b"b.PNG"]
    assert manifest.person_id.tolist() == [7, 8]
    assert manifest.notes == ("path is name, person_id is identity; --columns says otherwise",)
    with pytest.raises(DataError, match="no column named path"):
        read(tmp_path, "first,second\na.jpg,b.jpg\n")


def test_a_column_whose_name_another_one_takes_is_kept_by_another_name(tmp_path: Path) -> None:
    text = "path,person_id,label\na.jpg,1,2\n"
    manifest = read(tmp_path, text, columns={"person_id": "label"})
    assert manifest.person_id.tolist() == [2]
    assert manifest.extra["person_id_in_table"].tolist() == [b"1"]
    assert "column person_id is kept as person_id_in_table: another one is that" in manifest.notes
    with pytest.raises(DataError, match=r"a column's name cannot be '\.' or hold '/': \['a/b'\]"):
        read(tmp_path, text, columns={"a/b": "label"})


def test_what_could_be_two_things_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pid and label could be person_id; say which: --columns"):
        read(tmp_path, "path,pid,label\na.jpg,1,2\nb.jpg,1,3\n")
    chosen = read(tmp_path, "path,pid,label\na.jpg,1,2\n", columns={"person_id": "label"})
    assert chosen.person_id.tolist() == [2]
    assert chosen.extra["pid"].tolist() == [b"1"]
    ours = read(tmp_path, "path,person_id,label\na.jpg,1,2\n")  # by its own name
    assert (ours.person_id.tolist(), [*ours.extra]) == ([1], ["label"])


def test_a_number_and_its_name(tmp_path: Path) -> None:
    text = "path,camera_id,camera,pid,name\na.jpg,3,hall,9,anna\nb.jpg,1,door,4,bert\n"
    text += "c.jpg,,,,\n"
    manifest = read(tmp_path, text)
    assert manifest.camera_id.tolist() == [3, 1, NO_CAMERA]
    assert manifest.names("camera_name") == {3: "hall", 1: "door"}
    assert manifest.person_id.tolist() == [9, 4, NO_PERSON]
    assert manifest.names("person_name") == {9: "anna", 4: "bert"}
    assert manifest.source_names == {"camera_name": "camera", "person_name": "name"}
    columns = {"camera_id": "camera_id", "camera_name": "camera", "person_id": "pid"}
    with pytest.raises(
        DataError, match=r"line 3: camera 3 is 'door', but 'hall' in .*line 2; mend"
    ):
        read(tmp_path, text.replace("b.jpg,1", "b.jpg,3"), columns=columns)


def test_a_run_of_0_1_0_is_continued_with_the_columns_that_it_has(tmp_path: Path) -> None:
    old = build_manifest(
        root=tmp_path,
        layout="csv",
        path=[b"a.jpg"],
        camera_id=[3],
        extra={"camera": ["hall"], "shop": ["north"]},
    )
    new = read(tmp_path, "path,camera_id,camera,shop\na.jpg,3,hall,north\n")
    assert new.fingerprint() != old.fingerprint()
    assert new.with_columns_of(old).fingerprint() == old.fingerprint()
    fewer = read(tmp_path, "path,camera_id\na.jpg,3\n")
    assert fewer.with_columns_of(old) is fewer


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("0000/0.jpg 0\n0001/1 x.jpg 1\n", ["path", "person_id"]),
        ("a.jpg 0 5\nb.jpg 1 6\n", ["path", "person_id", "camera_id"]),
        ("a.jpg,0,5\nb.jpg,1,6\n", ["path", "person_id", "camera_id"]),
        ("0\tquery\ta.jpg\t5\n1\tgallery\tb.jpg\t6\n", ["path", "person_id", "camera_id"]),
        ("a.jpg\nb.jpg\n", ["path"]),
        ("path person_id camera_id\na.jpg 0 5\nb.jpg 1 6\n", ["path", "person_id", "camera_id"]),
    ],
)
def test_a_list_without_a_header(tmp_path: Path, text: str, columns: list[str]) -> None:
    manifest = read(tmp_path, text, "list.txt")
    assert len(manifest) == 2
    assert manifest.path.tolist()[1] in (b"b.jpg", b"0001/1 x.jpg")
    assert manifest.person_id.tolist() == ([0, 1] if "person_id" in columns else [NO_PERSON] * 2)
    assert manifest.camera_id.tolist() == ([5, 6] if "camera_id" in columns else [NO_CAMERA] * 2)
    said = [note for note in manifest.notes if note.startswith("no header: ")]
    assert bool(said) == (not text.startswith("path"))
    if "query" in text:
        assert manifest.split.tolist() == [b"query", b"gallery"]


def test_names_tell_a_list_what_it_lacks_if_they_agree(tmp_path: Path) -> None:
    msmt = "0000/0000_000_01_0303morning_0008_0.jpg 0\n0001/0001_004_15_0113noon_1022_2.jpg 1\n"
    manifest = read(tmp_path, msmt, "list_query.txt")
    assert (manifest.person_id.tolist(), manifest.camera_id.tolist()) == ([0, 1], [1, 15])
    assert "camera_id: from the names; --columns says otherwise" in manifest.notes
    other = read(tmp_path, msmt.replace(".jpg 1", ".jpg 5"), "list_query.txt")
    assert (other.person_id.tolist(), other.camera_id.tolist()) == ([0, 5], [NO_CAMERA] * 2)
    veri = read(tmp_path, "0002_c002_00030600_0.jpg\n0014_c012_00030600_0.jpg\n", "names.txt")
    assert (veri.person_id.tolist(), veri.camera_id.tolist()) == ([2, 14], [2, 12])
    assert "person_id and camera_id: from the names; --columns says otherwise" in veri.notes


def test_a_list_of_names_without_endings_is_read_by_numbers(tmp_path: Path) -> None:
    for text in ("7,0000001\n8,0000002\n", "7 0000001\n8 0000002\n"):
        manifest = read(tmp_path, text, columns={"path": "2", "person_id": "1"})
        assert manifest.path.tolist() == [b"0000001", b"0000002"]
        assert manifest.person_id.tolist() == [7, 8]


def test_excels_word_for_the_delimiter_is_no_header(tmp_path: Path) -> None:
    manifest = read(tmp_path, "sep=;\r\npath;pid\r\na,b.jpg;7\r\n")
    assert (manifest.path.tolist(), manifest.person_id.tolist()) == ([b"a,b.jpg"], [7])
    with pytest.raises(DataError, match=r"line 3: person_id is '1\.5'"):
        read(tmp_path, "sep=;\r\npath;pid\r\na,b.jpg;1.5\r\n")


def test_words_of_the_split_are_known_or_named(tmp_path: Path) -> None:
    text = "path,set\na.jpg,probe\nb.jpg,valid\nc.jpg,B\nd.jpg,B\n"
    with pytest.raises(
        DataError, match=r"set: 'B' \(2 rows\) is not known; .*names query=B, among"
    ):
        read(tmp_path, text)
    manifest = read(tmp_path, text, split_names={"B": "gallery"})
    assert manifest.split.tolist() == [b"query", b"val", b"gallery", b"gallery"]
    assert "set: probe is query, valid is val, B is gallery" in manifest.notes
    other = read(tmp_path, text, split_names={"B": "query", "probe": "gallery"})
    assert other.split.tolist() == [b"gallery", b"val", b"query", b"query"]


def test_the_index_of_pandas_is_left_out(tmp_path: Path) -> None:
    for first in ("", "Unnamed: 0"):
        manifest = read(tmp_path, f"{first},path,person_id\n0,a.jpg,1\n1,b.jpg,2\n")
        assert (manifest.person_id.tolist(), manifest.extra) == ([1, 2], {})
        assert manifest.notes == ("the first column has no name, as an index of pandas: left out",)
    assert read(tmp_path, "path,person_id,\na.jpg,1,\n").person_id.tolist() == [1]


def test_times_are_stored_as_seconds(tmp_path: Path) -> None:
    times = [
        "2026-01-31T12:00:00Z",
        "2026-01-31 13:00:00+01:00",
        "2026-01-31T12:00",
        "1769860800.5",
    ]
    rows = "".join(f"{n}.jpg,{time}\n" for n, time in enumerate([*times, ""]))
    manifest = read(tmp_path, "path,timestamp\n" + rows)
    assert manifest.extra["time"].tolist() == [b"1769860800"] * 3 + [b"1769860800.5", b""]
    unknown = read(tmp_path, "path,time\na.jpg,nan\nb.jpg,\nc.jpg,5\nd.jpg, NaN\n")
    assert unknown.extra["time"].tolist() == [b"", b"", b"5", b""]
    assert "time: NaN, nan is taken for unknown (2 rows)" in unknown.notes
    with pytest.raises(DataError, match=r"line 2: time is 'noon'; it must be ISO 8601, such as"):
        read(tmp_path, "path,time\na.jpg,noon\n")
    kept = read(tmp_path, "path,time\na.jpg,noon\n", columns={"note": "time"})
    assert kept.extra["note"].tolist() == [b"noon"]


def test_among_names_minus_one_is_junk_or_an_unknown_camera() -> None:
    assert labels_of(["anna", "-1"], PERSON).numbers == [0, JUNK]
    assert labels_of(["hall", "-1"], CAMERA).numbers == [0, NO_CAMERA]


def test_eight_digits_that_are_a_date_are_that_day(tmp_path: Path) -> None:
    rows = "a.jpg,20260131\nb.jpg,2026-01-31\nc.jpg,20260131.0\nd.jpg,20261331\ne.jpg,19000101\n"
    manifest = read(tmp_path, "path,time\n" + rows)
    assert manifest.extra["time"].tolist() == [b"1769817600"] * 3 + [b"20261331", b"19000101"]


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("1769860800000", "looks like milliseconds: divide by 1000"),
        ("inf", "must be ISO 8601, such as 2026-01-31T12:00:00, or seconds since 1970"),
    ],
)
def test_a_time_that_is_none_is_refused(tmp_path: Path, time: str, message: str) -> None:
    with pytest.raises(DataError, match=f"line 3: time is '{time}'; it {message}"):
        read(tmp_path, f"path,time\na.jpg,5\nb.jpg,{time}\n")


@pytest.mark.parametrize("kind", ["parquet", "json", "jsonl", "columns.json", "xlsx"])
def test_files_of_other_programs(tmp_path: Path, kind: str) -> None:
    table = pandas.DataFrame(
        {"image": ["a.jpg", "b.jpg"], "pid": [12, None], "camera": ["hall", None],
         "split": ["probe", "test"], "time": ["2026-01-31T12:00:00", None]}
    )  # fmt: skip
    file = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        table["time"] = pandas.to_datetime(table["time"])
        table.to_parquet(file)
    elif kind == "xlsx":
        table.to_excel(file, index=False)
    elif kind == "jsonl":
        table.to_json(file, orient="records", lines=True)
    else:
        table.to_json(file, orient="records" if kind == "json" else "columns")
    manifest = open_data(str(file))
    assert manifest.path.tolist() == [b"a.jpg", b"b.jpg"]
    assert manifest.person_id.tolist() == [12, NO_PERSON]
    assert manifest.names("camera_name") == {0: "hall"}
    assert manifest.split.tolist() == [b"query", b"gallery"]
    assert manifest.extra["time"].tolist() == [b"1769860800", b""]


def test_columns_of_json_are_joined_by_their_keys(tmp_path: Path) -> None:
    text = '{"path": {"0": "a.jpg", "1": "b.jpg"}, "pid": {"1": 20, "0": 10}}'
    manifest = read(tmp_path, text, "a.json")
    assert manifest.path.tolist() == [b"a.jpg", b"b.jpg"]
    assert manifest.person_id.tolist() == [10, 20]


def test_what_is_no_text_is_left_out_or_escaped(tmp_path: Path) -> None:
    table = pandas.DataFrame(
        {"path": [b"a\xff.jpg", b"b.jpg"], "pid": [b"1", b"2"], "hash": [b"\xff\x80", b"\1\0"]}
    )
    table.to_parquet(tmp_path / "a.parquet")
    manifest = open_data(str(tmp_path / "a.parquet"))
    assert manifest.path.tolist() == [b"a\xff.jpg", b"b.jpg"]
    assert manifest.person_id.tolist() == [1, 2] and not manifest.extra
    assert "columns of bytes that are no text left out: hash" in manifest.notes
    half = r'[{"path": "\ud83d.jpg", "name": "\ud83d", "\udcff": "\ud83d\ude00\ud83d"}]'
    manifest = read(tmp_path, half, "a.json")
    assert manifest.path.tolist() == [rb"\ud83d.jpg"]
    assert manifest.names("person_name") == {0: r"\ud83d"}
    assert manifest.extra[r"\udcff"].tolist() == ["😀\\ud83d".encode()]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1 nothing PAR1", "no Parquet, or a damaged one"),
        ("a.json", b"[1]", "record 1: '1' is no record"),
        ("a.json", b'{"path": 1}', "no list of records"),
        ("a.json", b'[{"path": ["a"]}]', r"row 1: path is \['a'\], no single"),
        ("a.json", b"[" * 100000, "no JSON"),
        ("a.json", b'{"path": {"0": "a", "1": "b"}, "pid": {"0": 1, "7": 2}}', "pid has other row"),
        ("a.json", b'{"path": {"0": "a", "1": "b"}, "pid": [1, 2]}', "no list of records"),
        ("a.jsonl", b'{"path": "a"}\n{"path"\n', "record 2: no JSON"),
        ("a.xlsx", b"PK nothing", r"no \.xlsx, or a damaged one"),
        ("a.csv", b"path," + b"x," * 1000000 + b"y\n", "1,000,002 columns, 1,000 at most"),
        ("a.csv", b"path,id\na.jpg,1\na.jpg,2\n", "'a.jpg' stands in .*line 2 already"),
        ("a.txt", b"a.jpg 1\nb 2\n", "line 2: 'b 2' does not begin with the name of an image"),
        ("a.txt", b"a.jpg 1\nb.jpg 2 3\n", "line 2: 3 words, the first line has 2"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content, name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_excel_file_that_unpacks_to_far_more_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas.DataFrame({"path": ["a.jpg"]}).to_excel(tmp_path / "a.xlsx", index=False)
    monkeypatch.setattr(table_files, "UNPACKED_LIMIT", 1000)
    with pytest.raises(DataError, match="more than 1,000 bytes unpacked; save a CSV"):
        open_data(str(tmp_path / "a.xlsx"))


def excel_file(file: Path, *sheets: list[list[Any]]) -> Any:
    book = importlib.import_module("openpyxl").Workbook()
    for place, rows in enumerate(sheets):
        sheet = book.create_sheet() if place else book.active
        for row in rows:
            sheet.append(row)
    book.save(file)
    return book


ROWS: list[list[Any]] = [
    ["path", "pid", "camera"],
    ["a.jpg", 1, 1],
    ["b.jpg", 2, None],
    ["c.jpg", 3, 1],
]


@pytest.mark.parametrize("said", [b'<dimension ref="A1:B2" />', b'<dimension ref="A1"/>', b""])
def test_an_excel_sheet_is_read_whole_whatever_size_it_says(said: bytes, tmp_path: Path) -> None:
    file, changed = tmp_path / "a.xlsx", tmp_path / "b.xlsx"
    excel_file(file, ROWS, [])
    with zipfile.ZipFile(file) as parts, zipfile.ZipFile(changed, "w") as target:
        for name in parts.namelist():
            target.writestr(name, re.sub(rb"<dimension [^>]*>", said, parts.read(name)))
    manifest = open_data(str(changed))
    assert manifest.path.tolist() == [b"a.jpg", b"b.jpg", b"c.jpg"]
    assert manifest.person_id.tolist() == [1, 2, 3]
    assert manifest.camera_id.tolist() == [1, NO_CAMERA, 1]


def test_what_excel_shows_and_the_cells_do_not_have_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.xlsx"
    excel_file(file, ROWS, ROWS)
    with pytest.raises(DataError, match=r"a\.xlsx: rows also in sheet 'Sheet1'.*; save each as"):
        open_data(str(file))
    book = excel_file(file, [*ROWS, ["d.jpg", "=B4+1"]])
    with pytest.raises(DataError, match=r"a\.xlsx: B5 is a formula that was not computed; open it"):
        open_data(str(file))
    del book.active["B5"]
    book.active.merge_cells("C3:C4")
    book.save(file)
    with pytest.raises(DataError, match=r"a\.xlsx: merged cells, .*; unmerge them"):
        open_data(str(file))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(["path", "person_id", "camera_id", "split", "x", "."]), max_size=4),
    st.lists(st.lists(st.text(max_size=6), max_size=4), max_size=4),
    st.binary(max_size=3),
)
def test_any_csv_is_read_or_refused(header: list[str], rows: list[list[str]], end: bytes) -> None:
    text = "\n".join(",".join(fields) for fields in [header, *rows])
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(DataError):
        manifest = open_data(csv_file(Path(folder), text.encode() + end), "csv")
        assert 1 <= len(manifest) <= 1 + len(text.splitlines()) + len(end)


def test_words_of_the_split_want_its_column(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("path,who,part\n0.jpg,1,seek\n")
    with pytest.raises(DataError, match="--split-names: which column"):
        open_data(str(file), columns={"person_id": "who"}, split_names={"seek": "query"})


def test_an_image_is_listed_once_however_its_path_is_written(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    for other in ("./0.jpg", f"{tmp_path}/0.jpg", "a/../0.jpg"):
        file.write_text(f"path,person_id\n0.jpg,1\n{other},1\n")
        with pytest.raises(DataError, match=r"line 3: .*0\.jpg' stands in .*line 2 already"):
            open_data(str(file))


def test_a_line_of_json_ends_at_its_line_feed(tmp_path: Path) -> None:
    text = '{"path": "0.jpg", "name": "a\u2028b"}\r\n{"path": "1.jpg", "name": "c\u0085"}\n'
    manifest = read(tmp_path, text, "a.jsonl")
    assert manifest.names("person_name") == {0: "a\u2028b", 1: "c"}


def test_a_value_that_is_several_is_named_by_its_place(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"path": "0.jpg", "x": 1}\n{"path": "1.jpg", "x": [1, 2]}\n')
    with pytest.raises(DataError, match=r"row 2: x is \[1, 2\], no single value"):
        open_data(str(file))


@pytest.mark.parametrize(
    ("header", "box", "said"),
    [
        ("x,y,w,h", "1,2,3,4", "x, y, w, h"),
        ("xmin,ymin,xmax,ymax", "1,2,3,4", "xmin, ymin, xmax, ymax"),
        ("bbox", '"[1, 2, 3, 4]"', "bbox"),
    ],
)
def test_a_table_of_boxes_that_is_taken_for_one_of_images_says_so(
    tmp_path: Path, header: str, box: str, said: str
) -> None:
    cure = f"images are taken whole; --data FOLDER --boxes manifest.csv cuts out {said}"
    manifest = open_data(csv_file(tmp_path, f"path,{header}\na.jpg,{box}\nb.jpg,{box}\n"))
    assert cure in manifest.notes
    with pytest.raises(DataError, match=f"'a.jpg' stands in .*line 2 already; {cure}"):
        open_data(csv_file(tmp_path, f"path,{header}\na.jpg,{box}\na.jpg,{box}\n"))
    plain = open_data(csv_file(tmp_path, "path,x,y,w\na.jpg,1,2,3\n"))
    assert not plain.notes and {"x", "y", "w"} <= plain.extra.keys()

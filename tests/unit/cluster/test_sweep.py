from pathlib import Path

import pytest

from distreid.cluster.sweep import read_sweep
from distreid.errors import OptionError


def test_a_sweep_file_is_a_job_for_each_line(tmp_path: Path) -> None:
    table = tmp_path / "sweep.csv"
    table.write_text("checkpoint,out,batch_size\na.pth,runs/a,\nb.pth,runs/b,32\n")
    expected = [
        ["--checkpoint", "a.pth", "--out", "runs/a"],
        ["--checkpoint", "b.pth", "--out", "runs/b", "--batch-size", "32"],
    ]
    assert read_sweep(table) == expected
    table.write_text("checkpoint, --out \na.pth, r/1 \n")
    assert read_sweep(table) == [["--checkpoint", "a.pth", "--out", "r/1"]]
    listed = tmp_path / "sweep.yaml"
    listed.write_text("- {checkpoint: [a, b], flip: false, mat: true, batch_size: 8}\n")
    expected = [["--checkpoint", "a", "b", "--no-flip", "--mat", "--batch-size", "8"]]
    assert read_sweep(listed) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("sweep.csv", "", "no job in it"),
        ("sweep.csv", "out\n", "no job in it"),
        ("sweep.csv", "out,data\na\n", "job 1 does not fit the header"),
        ("sweep.csv", "out\na,b\n", "job 1 does not fit the header"),
        ("sweep.csv", ",checkpoint\n0,a\n", "a column without a name"),
        ("sweep.csv", "batch_size,batch-size\n8,16\n", "the column batch-size stands twice"),
        ("sweep.csv", "out,out\na,b\n", "the column out stands twice"),
        ("sweep.yaml", "- {batch_size: 8, batch-size: 16}", "the column batch-size stands twice"),
        ("sweep.yaml", "- {checkpoint: [a, null]}", "job 1: checkpoint is neither a text nor"),
        ("sweep.yaml", "- {out: a}\n- {out: {b: c}}", "job 2: out is neither a text nor a number"),
        ("sweep.yaml", "out: a", "no job in it"),
        ("sweep.yaml", "- a\n", "job 1 does not fit the header"),
        ("sweep.yaml", "- {", "cannot be read"),
    ],
)
def test_a_sweep_file_that_is_no_table_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(OptionError, match=message):
        read_sweep(tmp_path / name)

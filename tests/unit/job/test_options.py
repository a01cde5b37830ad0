import argparse
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distreid import cli
from distreid.data import labels
from distreid.data import source as datasets
from distreid.errors import OptionError, Stopped, exit_status
from distreid.inference import engines
from distreid.inference import extractor as inference
from distreid.job import options
from distreid.job.options import ExtractOptions, add_extract_options, parse_extract_options


def parsed(*arguments: str) -> ExtractOptions:
    parser = argparse.ArgumentParser()
    add_extract_options(parser)
    return parse_extract_options(
        parser.parse_args(["--data", "d", "--checkpoint", "c", "--out", "o", *arguments])
    )


def test_the_defaults_of_the_command_line_are_those_of_the_class() -> None:
    assert parsed() == ExtractOptions(data="d", checkpoints=("c",), out=Path("o"))


def test_options_are_read() -> None:
    found = parsed("--no-flip", "--scales", "1,1.1", "--no-evaluate", "--mat", "--dtype", "float16")
    assert (found.flip, found.scales, found.evaluate, found.mat) == (False, (1.0, 1.1), False, True)
    assert found.dtype == "float16"


def test_checkpoints_are_kept_in_their_order_however_they_are_given() -> None:
    assert parsed("--checkpoint", "b", "a").checkpoints == ("c", "b", "a")


def test_the_names_written_out_for_the_help_are_those_of_the_tables() -> None:
    assert ("auto", *datasets.LAYOUTS) == options.LAYOUTS
    assert ("auto", *inference.PRECISIONS, engines.INT8) == options.PRECISIONS
    assert ("auto", engines.TORCH, *engines.ENGINES) == options.ENGINES
    assert options.SPLITS == labels.SPLITS


def test_pairs_are_read_and_words_may_be_several() -> None:
    found = parsed("--columns", "path=my file,person_id=2", "--split-names", "query=B,query=C=1")
    assert found.columns == {"path": "my file", "person_id": "2"}
    assert found.split_names == {"B": "query", "C=1": "query"}
    with pytest.raises(OptionError, match="--split-names: search is none of query, gallery"):
        replace(found, split_names={"B": "search"})
    with pytest.raises(OptionError, match="--columns 'path': pairs of texts wanted"):
        replace(found, columns="path")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="--ids names: choose one of auto, text"):
        replace(found, ids="names")


@pytest.mark.parametrize("wrong", [["--columns", "path"], ["--split-names", "search=B"]])
def test_what_is_no_pair_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parsed(*wrong)
    assert end.value.code == 2
    assert f"argument {wrong[0]}: {wrong[1]}: pairs such as" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "--batch-size must be at least 1, got 0"),
        ({"num_workers": -1}, "--num-workers must be at least 0, got -1"),
        ({"shard_rows": 0}, "--shard-rows must be at least 1, got 0"),
        ({"scales": ()}, "--scales"),
        ({"scales": (1.0, float("nan"))}, "--scales 1.0,nan"),
        ({"scales": (0.0,)}, "--scales 0.0"),
        ({"precision": "int4"}, "--precision int4: choose one of auto, fp32, tf32-conv"),
        ({"max_bad": 3}, "--max-bad: without --on-bad-image record, no image may be bad"),
        ({"on_bad_image": "record", "max_bad": -1}, "--max-bad must be at least 0, got -1"),
        ({"max_bad": -1}, "--max-bad must be at least 0, got -1"),
        ({"layout": "markt"}, "--layout markt: not known; near it: mars, market1501"),
        ({"data": ""}, "--data ''"),
        ({"checkpoints": ()}, "--checkpoint: none is given"),
        ({"flip": "x"}, "--flip 'x': True or False is wanted"),
        ({"evaluate": None}, "--evaluate None: True or False is wanted"),
        ({"multi_query": 1}, "--multi-query 1: True or False is wanted"),
        ({"split": "x"}, "--split 'x': a whole number is wanted"),
        ({"batch_size": True}, "--batch-size True: a whole number is wanted"),
        ({"pattern": 3}, "--pattern 3: a text is wanted"),
        ({"pattern": "(?P<person>"}, "--pattern .*: missing \\), unterminated subpattern"),
        ({"pattern": "x"}, "--pattern x: no named group"),
        ({"model": 3}, "--model 3: a text is wanted"),
        ({"model": None}, "--model None: a text is wanted"),
        ({"input_size": (256,)}, "--input-size: height x width"),
        ({"input_size": ("256", "128")}, "--input-size: height x width"),
        ({"scales": ("1",)}, "--scales 1: positive numbers"),
        ({"on_bad_image": "skip"}, "--on-bad-image skip: choose one of fail, record"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        replace(parsed(), **change)


@pytest.mark.parametrize("module", ["distreid.cli", "distreid.extract"])
def test_help_does_not_wait_for_torch(module: str) -> None:
    code = (
        f"import sys, {module} as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'h5py', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_signal_is_not_taken_for_a_damaged_file() -> None:
    # Loaders catch every Exception of damaged files; a signal may arrive just there.
    assert not issubclass(Stopped, Exception)

    def command() -> None:
        raise Stopped(signal.SIGTERM)

    said: list[str] = []
    assert exit_status(command, said.append) == 128 + signal.SIGTERM
    assert said == ["distreid: stopped by SIGTERM; run the same command again to continue"]


def test_a_message_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise OptionError("\x1b[2J\x1b]0;title\x07 \u202egpj.exe\u2028\n\r\udcff \u9b93 é")

    assert exit_status(command) == 2
    assert capsys.readouterr().err == (
        "distreid: error: \\x1b[2J\\x1b]0;title\\x07 \\u202egpj.exe\\u2028\\n\\r\\udcff \u9b93 é\n"
    )


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--scales", "1,x"], "--scales: 1,x: positive numbers separated by commas"),
        (["--input-size", "256"], "--input-size: 256: height and width, such as 256x128"),
        (["--num-workers", "many"], "--num-workers: many: a number, or auto"),
        (["--batch-size", "\x1b"], r"--batch-size: invalid int value: '\x1b'"),
        ([], "the following arguments are required: --data, --checkpoint, --out"),
        (["--out", ""], "argument --out: an empty name"),
        (["--data", ""], "argument --data: an empty name"),
        (["--checkpoint", "a", ""], "argument --checkpoint: an empty name"),
    ],
)
def test_an_option_that_cannot_be_read_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], option: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["extract", *option])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert line.startswith("distreid: error: ") and line.endswith("see distreid extract --help")


@pytest.mark.parametrize("command", ["verify", "evaluate", "report", "status", "calibrate"])
def test_an_empty_name_is_not_the_working_directory(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, ""])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "argument RUN" in said and ": an empty name; see" in said


def test_what_a_command_does_not_know_is_answered_by_its_own_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    needed = ["--data", "a", "--checkpoint", "b", "--out", "c"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["extract", *needed, "--modle", "x"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "distreid: error: unrecognized arguments: --modle x; near it: --model; see distreid "
        "extract --help\n"
    )


def test_workers_are_a_number_or_measured() -> None:
    assert parsed("--num-workers", "auto").num_workers is None
    assert parsed("--num-workers", "3").num_workers == 3


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"mean": ("0.5", 0.5, 0.5)}, "--mean .*three numbers"),
        ({"share_gpu": True, "device": "cpu"}, "--share-gpu: of a GPU, and --device is cpu"),
        ({"max_map_loss": 3.0}, "--max-map-loss: for --precision int8 alone"),
        ({"scale_mode": "compound"}, "--scale-mode compound: of several --scales alone"),
        ({"std": (None, 1, 1)}, "--std .*three numbers"),
        ({"semantic_weight": "0.2"}, "--semantic-weight '0.2': a number"),
        ({"viewpoints": "3"}, "--viewpoints '3': a whole number"),
        ({"pooling": 3}, "--pooling 3: a text"),
        ({"keep_aspect": 1}, "--keep-aspect 1: a text"),
        ({"merge": "tracklet", "merge_top": "0.5"}, "--merge-top '0.5': a number"),
        ({"max_map_loss": "x"}, "--max-map-loss 'x': a number"),
        ({"box_margin": "1"}, "--box-margin '1': a number"),
        ({"min_score": "0.5"}, "--min-score '0.5': a number"),
        ({"box_aspect": "2"}, "--box-aspect '2': a number"),
        ({"share_gpu": "no"}, "--share-gpu 'no': True or False"),
        ({"classes": (1, 2)}, "--classes .*as texts"),
    ],
)
def test_a_value_of_another_kind_is_refused(change: dict[str, Any], wanted: str) -> None:
    with pytest.raises(OptionError, match=wanted):
        ExtractOptions(data="d", checkpoints=("c",), out=Path("o"), **change)

from pathlib import Path

import pytest

from distreid.errors import OptionError
from distreid.job.options import ExtractOptions
from distreid.job.runs import run_folders
from distreid.models.checkpoint import SAMPLE


def folders(out: Path, *checkpoints: str) -> list[str]:
    """Where the runs lie in `out`."""
    options = ExtractOptions(data="d", checkpoints=checkpoints, out=out)
    return [str(folder.relative_to(out)) for folder in run_folders(options)]


def test_one_checkpoint_has_the_whole_folder(tmp_path: Path) -> None:
    assert folders(tmp_path, "net_10.pth") == ["."]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a/net_10.pth", "net_10"),
        ("model.pth.tar-60", "model-60"),
        ("checkpoint-3.pth.tar", "checkpoint-3"),
        ("market_bot_R50.pt", "market_bot_R50"),
        ("x0.25_epoch_7.ckpt", "x0.25_epoch_7"),
        ("export.pt2", "export.pt2"),
        ("a/.pth", ".pth"),
        (SAMPLE, "osnet_x0_25"),
    ],
)
def test_a_run_is_named_after_its_file(tmp_path: Path, file: str, name: str) -> None:
    assert folders(tmp_path, file, "other.pth") == [name, "other"]


def test_equal_names_are_told_apart_by_their_folders_and_others_are_left(tmp_path: Path) -> None:
    given = ["a/net_last.pth", "b/net_last.pth", "a/net_10.pth"]
    assert folders(tmp_path, *given) == ["a-net_last", "b-net_last", "net_10"]


def test_the_folder_of_a_file_that_is_named_alone_is_the_one_it_is_in(tmp_path: Path) -> None:
    assert folders(tmp_path, "net.pth", "b/net.pth") == [f"{Path.cwd().name}-net", "b-net"]


@pytest.mark.parametrize(
    "given",
    [
        ("x/a/net.pth", "y/a/net.pth"),
        ("a/net.pth", "a/net.pt"),
        ("a/net.pth", "b/net.pth", "a-net.pth"),
    ],
)
def test_names_that_are_equal_still_are_refused(tmp_path: Path, given: tuple[str, ...]) -> None:
    with pytest.raises(OptionError, match="a-net; give each once, or rename one"):
        folders(tmp_path, *given)

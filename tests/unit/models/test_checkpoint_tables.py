from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Pack

from distreid import cli
from distreid.models.checkpoint_tables import groups
from distreid.models.vit import ClassToken

FT_NET = "person_reid_baseline_pytorch/ft_net_r50_s2_512"


def printed_words(capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_a_checkpoint_is_described_with_what_could_not_be_read_off(
    pack: Callable[[str], Pack],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    file = pack(FT_NET).save(tmp_path)
    file.with_name("opts.yaml").unlink()
    assert cli.main(["inspect", "--checkpoint", str(file), "--input-size", "384x192"]) == 0
    lines = printed_words(capsys)
    for expected in (
        str(file),
        "family Person_reID_baseline_pytorch",
        "architecture ft_net (stride 2, linear_num 512, ibn False)",
        "input 384×192, bicubic",
        "mean 0.485, 0.456, 0.406; std 0.229, 0.224, 0.225",
        "feature pooled layer4, linear, batch norm; 512 dimensions",
        "mirror image summed",
        "metric all queries, trapezoid AP, cosine (protocol layumi)",
        "classes 751",
        "weights 325 tensors, all that the network has",
        "not read off stride: not in the weights, and no opts.yaml beside them says it; taken as 2 "
        "(--last-stride 1, or --model ft_net_stride1, if it was trained with --stride 1)",
        "model.conv1 1 9,408 64×3×7×7",
        "model.bn1 5 257 64",
        "classifier.add_block 7 1,051,137 512×2048, 512",
        "classifier.classifier 2 385,263 751×512, 751 not needed",
    ):
        assert expected.split() in lines


@pytest.mark.parametrize(
    ("embeddings", "tokens", "expected"),
    [
        (6, 211, "cameras 6 with an embedding each"),
        (160, 442, "cameras 20 times 8 viewpoints (--viewpoints)"),
    ],
)
def test_the_cameras_of_a_checkpoint_are_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    embeddings: int,
    tokens: int,
    expected: str,
) -> None:
    with torch.device("meta"):
        network = ClassToken(dim=64, tokens=tokens, stride=12, cameras=embeddings)
    state = {f"base.{key}": torch.zeros(value.shape) for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "a.pth")
    assert cli.main(["inspect", "--checkpoint", str(tmp_path / "a.pth")]) == 0
    assert expected.split() in printed_words(capsys)


def test_a_checkpoint_of_something_else_shows_what_is_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a.weight": torch.zeros(3, 2), "a.count": torch.tensor(1)}, tmp_path / "a.pth")
    assert cli.main(["inspect", "--checkpoint", str(tmp_path / "a.pth")]) == 2
    out, err = capsys.readouterr()
    assert ["a", "2", "7", "3×2"] in [line.split() for line in out.splitlines()]
    assert "2 tensors of no known model" in err
    assert "name it by --model: timm:NAME, torchvision:NAME" in err
    assert cli.main(["inspect", "--checkpoint", "sample", "--model", "osnet_x0_5"]) == 2
    assert "does not fit osnet_x0_5" in capsys.readouterr().err


def test_keys_are_grouped_by_as_few_parts_as_tell_them_apart() -> None:
    keys = [f"model.layer{i}.{j}.weight" for i in range(8) for j in range(2)]
    assert dict(groups(keys)) == {
        f"model.layer{i}": [f"model.layer{i}.{j}.weight" for j in range(2)] for i in range(8)
    }
    assert dict(groups(["a", "b"])) == {"a": ["a"], "b": ["b"]}

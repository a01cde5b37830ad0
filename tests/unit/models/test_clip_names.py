"""CLIP's image encoder under OpenAI's names, as own trainings keep it."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.errors import CheckpointError
from distreid.models.checkpoint import load_model

WIDTH, PROJECTED = 768, 512


class Block(nn.Module):
    """Of CLIP's transformer, by the names of OpenAI's code."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, 12, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        layers = {"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "c_proj": nn.Linear(4 * WIDTH, WIDTH)}
        self.mlp = nn.ModuleDict(layers)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed)[0]
        hidden = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))  # type: ignore[no-any-return]


class Visual(nn.Module):
    """A second implementation of the image encoder at 256×128: (N, 3, 256, 128) → (N, 512)."""

    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(WIDTH) * 0.03)
        self.positional_embedding = nn.Parameter(torch.randn(129, WIDTH) * 0.03)
        self.proj = nn.Parameter(torch.randn(WIDTH, PROJECTED) * 0.03)
        self.conv1 = nn.Conv2d(3, WIDTH, 16, 16, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.ModuleDict(
            {"resblocks": nn.Sequential(*(Block() for _ in range(12)))}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_embedding.expand(len(x), 1, -1), x), dim=1)
        x = self.ln_pre(x + self.positional_embedding)
        return self.ln_post(self.transformer["resblocks"](x)[:, 0]) @ self.proj  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def visual() -> Visual:
    torch.manual_seed(0)
    return Visual().eval()


def saved(visual: Visual, file: Path, prefix: str, others: dict[str, Tensor]) -> Path:
    state = {f"{prefix}{key}": value for key, value in visual.state_dict().items()}
    torch.save(state | others, file)
    return file


def test_the_image_encoder_of_a_whole_clip(visual: Visual, tmp_path: Path) -> None:
    text = {
        "model.token_embedding.weight": torch.zeros(10, PROJECTED),
        "model.positional_embedding": torch.zeros(77, PROJECTED),
        "model.transformer.resblocks.0.attn.in_proj_weight": torch.zeros(3, PROJECTED),
        "model.ln_final.weight": torch.zeros(PROJECTED),
        "model.text_projection": torch.zeros(PROJECTED, PROJECTED),
        "model.logit_scale": torch.zeros(()),
    }
    model = load_model(str(saved(visual, tmp_path / "clip.pth", "model.visual.", text)))
    images = torch.randn(2, 3, 256, 128)
    with torch.inference_mode():
        ours, theirs = model.network(images), visual(images)
    assert F.cosine_similarity(ours, theirs).min() > 0.999999
    said = " ".join(model.describe())
    assert "taken for timm's, without the text encoder" in said
    assert "vit_base_patch16_clip_quickgelu_224 under 'model.visual'" in said
    assert model.architecture.preprocess.height == 256


def test_a_neck_on_the_class_token(visual: Visual, tmp_path: Path) -> None:
    norm = nn.BatchNorm1d(WIDTH).eval()
    neck = {f"bottleneck.{key}": value for key, value in norm.state_dict().items()}
    del neck["bottleneck.num_batches_tracked"]
    encoder = {k: v for k, v in visual.state_dict().items() if k != "proj"}
    torch.save({f"encoder.{k}": v for k, v in encoder.items()} | neck, tmp_path / "a.pth")
    model = load_model(str(tmp_path / "a.pth"))
    images = torch.randn(2, 3, 256, 128)
    before = visual.ln_post.register_forward_hook(lambda module, given, out: tokens.append(out))
    tokens: list[Tensor] = []
    with torch.inference_mode():
        visual(images)
        ours, theirs = model.network(images), norm(tokens[0])
    before.remove()
    assert F.cosine_similarity(ours, theirs).min() > 0.999999


def test_what_stands_beside_it_is_still_listed(visual: Visual, tmp_path: Path) -> None:
    others = {"model.adapter.down": torch.zeros(7, 9)}
    with pytest.raises(CheckpointError, match=r"model\.adapter\.down \(7, 9\)"):
        load_model(str(saved(visual, tmp_path / "clip.pth", "model.visual.", others)))


def test_timms_own_names_stay(tmp_path: Path) -> None:
    network = timm.create_model("vit_base_patch16_clip_224", num_classes=0)
    torch.save({f"m.{k}": v for k, v in network.state_dict().items()}, tmp_path / "a.pth")
    model = load_model(str(tmp_path / "a.pth"))
    assert model.architecture.name == "timm:vit_base_patch16_clip_224"

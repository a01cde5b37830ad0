"""A feature depends on its image alone, not on its place in a pass or on its neighbours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import GOLDEN, Pack
from torch import Tensor

from distreid.inference.extractor import CPU_ROWS, Extractor
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import load_model

PACKS = ("torchreid/osnet_x0_25", "person_reid_baseline_pytorch/ft_net_r50_s2_512")


@pytest.fixture(scope="module", params=PACKS)
def extractor(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Extractor:
    file = Pack(GOLDEN / request.param).save(tmp_path_factory.mktemp("pack"))
    return Extractor(
        load_model(str(file)),
        Augmentation(flip=True),
        precision="fp32",
        device=torch.device("cpu"),
        threads=2,
    )


@pytest.fixture(scope="module")
def images(extractor: Extractor) -> Tensor:
    size = extractor.preprocess.height, extractor.preprocess.width
    noise = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (CPU_ROWS, 3, *size), dtype=torch.uint8, generator=noise)


def test_fewer_images_than_a_pass_has_give_the_bytes_of_a_full_one(
    extractor: Extractor, images: Tensor
) -> None:
    whole, norms = extractor(images)
    for count in (1, 3, 5):
        features, norm = extractor(images[:count])
        assert features.shape == (count, extractor(images)[0].shape[1])
        assert torch.equal(features, whole[:count])
        assert torch.equal(norm, norms[:count])


@pytest.mark.parametrize("place", [0, 3, 7])
def test_the_place_in_a_pass_and_the_neighbours_do_not_matter(
    extractor: Extractor, images: Tensor, place: int
) -> None:
    alone, _ = extractor(images[:1])
    among_zeros = torch.zeros_like(images)
    among_zeros[place] = images[0]
    assert torch.equal(extractor(among_zeros)[0][place], alone[0])
    assert torch.equal(extractor(images.roll(place, 0))[0][place], alone[0])


def test_passes_that_are_not_filled_up_have_as_many_rows_as_are_left(
    extractor: Extractor, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward: Callable[..., Tensor] = extractor.forward

    def watched(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return forward(batch)

    monkeypatch.setattr(extractor, "forward", watched)
    extractor(images[:3])
    assert seen == [CPU_ROWS, CPU_ROWS]  # the image and its mirror image
    monkeypatch.setattr(extractor, "fills_passes", False)
    extractor(images[:3])
    assert seen[2:] == [3, 3]

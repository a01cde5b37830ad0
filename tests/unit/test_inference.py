import math
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, Pack
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.errors import OptionError
from distreid.inference import Augmentation, Extractor, centre, check_precision, choose_device
from distreid.models.checkpoint import Model, load_model

Packs = Callable[[str], Pack]
# Numbers in a checkpoint; of its images, four are enough. What becomes of every odd one is seen
# with the small networks, and in test_preprocess.py.
LARGE = 20_000_000
CPU = torch.device("cpu")
PLAIN = Augmentation(flip=False)
GOLDEN_MODELS = sorted(
    f"{folder.parent.name}/{folder.name}"
    for project in (
        "torchreid",
        "person_reid_baseline_pytorch",
        "roboflow_reid",
        "fastreid",
        "transreid",
        "clipreid",
    )
    for folder in (GOLDEN / project).iterdir()
)


def extractor(model: Model, augmentation: Augmentation, threads: int = 2) -> Extractor:
    return Extractor(model, augmentation, precision="fp32", device=CPU, threads=threads)


def images(count: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 256, 128), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def osnet(osnet_file: Path) -> Model:
    return load_model(str(osnet_file))


@pytest.mark.parametrize("name", GOLDEN_MODELS)
def test_features_are_those_of_the_peers_own_code(pack: Packs, tmp_path: Path, name: str) -> None:
    golden = pack(name)
    model = load_model(str(golden.save(tmp_path)))
    multi_scale = name.endswith("_ms")  # the peer ran with --ms 1,1.1,1.2
    augmentation = Augmentation(
        flip=model.architecture.flip,
        scales=(1.0, 1.1, 1.2) if multi_scale else (1.0,),
        scale_mode="compound" if multi_scale else "independent",
    )
    large = sum(tensor.numel() for tensor in model.checkpoint.state.values()) > LARGE
    some = slice(None, None, 4 if large else 1)
    preprocess = model.architecture.preprocess
    batch = preprocess.resize(map(preprocess.load, golden.images[some]))
    cameras = None if golden.cameras is None else golden.cameras[some]
    ours = extractor(model, augmentation)(batch, cameras)[0].numpy()
    theirs = golden.features[some]
    cosine = (ours.astype(np.float64) * theirs).sum(axis=1)
    assert cosine.min() >= 0.99999
    limit = golden.spec["measured_tolerance"]["suggested_max_abs_diff_over_rms"]
    assert np.abs(ours - theirs).max() / np.sqrt(np.square(theirs).mean()) <= limit


def test_flip_and_independent_scales_are_summed_and_normalised(osnet: Model) -> None:
    batch = images(3)
    inputs = osnet.architecture.preprocess.normalise(batch)
    expected = torch.zeros(3, 512)
    with torch.inference_mode():
        for view in (inputs, inputs.flip(3)):
            expected += osnet.network(view)
            bigger = F.interpolate(view, scale_factor=math.sqrt(1.3), mode="bicubic")
            expected += osnet.network(bigger)
    got, norm = extractor(osnet, Augmentation(flip=True, scales=(1.3, 1.0)))(batch)
    torch.testing.assert_close(got, F.normalize(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm, expected.norm(dim=1), rtol=1e-4, atol=1e-5)


def test_compound_scales_enlarge_what_the_last_one_enlarged() -> None:
    views = Augmentation(flip=False, scales=(1, 1.1, 1.2), scale_mode="compound").views(
        torch.zeros(1, 3, 256, 128), fixed_size=False
    )
    # As Person_reID_baseline_pytorch's loop was seen to do.
    assert [tuple(view.shape[2:]) for view in views] == [(256, 128), (268, 134), (293, 146)]


def test_independent_scales_enlarge_the_input() -> None:
    views = Augmentation(flip=True, scales=(1, 1.1, 1.2)).views(
        torch.zeros(1, 3, 256, 128), fixed_size=False
    )
    assert [tuple(view.shape[2:]) for view in views] == [(256, 128), (268, 134), (280, 140)] * 2


def test_a_model_of_one_size_gets_the_scaled_image_cropped_or_padded_back() -> None:
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert centre(image, 4, 5)[0, 0].tolist() == [
        [0, 0, 0, 0, 0],
        [0, 0, 1, 2, 0],
        [0, 3, 4, 5, 0],
        [0, 0, 0, 0, 0],
    ]
    assert centre(image, 1, 1)[0, 0].tolist() == [[1]]
    assert centre(image, 1, 4)[0, 0].tolist() == [[0, 1, 2, 0]]
    views = Augmentation(flip=False, scales=(0.5, 2)).views(torch.ones(1, 3, 256, 128), True)
    assert [tuple(view.shape[2:]) for view in views] == [(256, 128)] * 2


def test_every_row_has_norm_one_and_is_float32(osnet: Model) -> None:
    features, _ = extractor(osnet, PLAIN)(images(9))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(9), atol=1e-6, rtol=0)


def features_in_batches(model: Model, threads: int, batch_size: int) -> NDArray[np.float32]:
    extract = extractor(model, Augmentation(flip=True), threads)
    return torch.cat([extract(part)[0] for part in torch.split(images(), batch_size)]).numpy()


@pytest.mark.parametrize(("threads", "batch_size"), [(1, 20), (3, 20), (2, 8), (2, 16)])
def test_threads_and_batch_size_do_not_change_a_bit(
    osnet: Model, threads: int, batch_size: int
) -> None:
    got = features_in_batches(osnet, threads, batch_size)
    assert got.tobytes() == features_in_batches(osnet, 2, 20).tobytes()


def test_image_and_mirror_image_in_one_pass_give_what_two_give(osnet: Model) -> None:
    """As on a GPU."""
    both = Augmentation(flip=True, scales=(1.3, 1.0))
    at_once = extractor(osnet, both)
    at_once.views_at_once = True
    got, norm = at_once(images(3))
    expected, expected_norm = extractor(osnet, both)(images(3))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm, expected_norm, rtol=1e-4, atol=1e-5)


def test_batches_that_are_begun_together_do_not_mix(osnet: Model) -> None:
    extract = extractor(osnet, PLAIN)
    parts = torch.split(images(), 8)
    begun = [extract.begin(part) for part in parts]
    for part, pending in reversed(list(zip(parts, begun, strict=True))):
        assert torch.equal(pending.result()[0], extract(part)[0])


def standing_in(osnet: Model, network: nn.Module) -> Model:
    """A model of another network."""
    return Model(
        network=network,
        architecture=osnet.architecture,
        checkpoint=osnet.checkpoint,
        loaded=0,
        dropped=(),
    )


def test_every_view_in_one_pass_has_its_image_s_camera(osnet: Model) -> None:
    class Cameras(nn.Module):
        def forward(self, x: Tensor, cameras: Tensor) -> Tensor:
            return torch.stack([x.mean(dim=(1, 2, 3)), cameras.float()], dim=1)

    extract = extractor(standing_in(osnet, Cameras()), Augmentation(flip=True))
    extract.views_at_once = True
    features, norm = extract(images(3), torch.tensor([3, 0, 5]))
    torch.testing.assert_close((features * norm[:, None])[:, 1], torch.tensor([6.0, 0, 10]))


def test_what_is_cancelled_is_not_computed(osnet: Model) -> None:
    begun, go_on = threading.Event(), threading.Event()
    passes = []

    class Waiting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            begun.set()
            go_on.wait()
            passes.append(len(x))
            return torch.ones(len(x), 512)

    extract = extractor(standing_in(osnet, Waiting()), PLAIN, threads=1)
    pending = extract.begin(images())
    begun.wait()
    pending.cancel()
    go_on.set()
    extract(images(2))
    assert passes == [8, 2]  # the one that had begun, and the next call's


def test_a_feature_of_norm_zero_is_not_made_up(osnet: Model) -> None:
    class Zero(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 512)

    assert extractor(standing_in(osnet, Zero()), PLAIN)(images(2))[0].isnan().all()


def test_bfloat16_stays_near_fp32_and_is_normalised_in_fp32(osnet: Model) -> None:
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU has no bfloat16")
    exact, _ = extractor(osnet, PLAIN)(images(8))
    half, _ = Extractor(osnet, PLAIN, precision="bf16", device=CPU, threads=2)(images(8))
    assert not torch.equal(exact, half)
    # Random weights and noise magnify rounding; a trained network stays above 0.999.
    assert (exact * half).sum(dim=1).min() > 0.95
    torch.testing.assert_close(half.norm(dim=1), torch.ones(8), atol=1e-6, rtol=0)


def test_a_precision_that_the_device_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="--precision tf32: this CPU has none"):
        check_precision("tf32", CPU)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(OptionError, match="--precision bf16: this CPU has none"):
        check_precision("bf16", CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    assert choose_device("auto", local_rank=3) == CPU
    with pytest.raises(OptionError, match="--device cuda: torch sees no GPU on"):
        choose_device("cuda", local_rank=0)

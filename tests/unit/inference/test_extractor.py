import math
import multiprocessing
import threading
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, GOLDEN_MODELS, GOLDEN_SAID, LIMIT_S, Pack
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from distreid.errors import OptionError
from distreid.images import fit, resize
from distreid.images.device_resize import originals_or_resized
from distreid.images.preprocess import Preprocess
from distreid.images.tall_images import resized_vertically_first
from distreid.inference.extractor import Extractor, check_precision, choose_device
from distreid.inference.views import Augmentation, centre
from distreid.models.checkpoint import Model, load_model
from distreid.models.choices import Choices

Packs = Callable[[str], Pack]
CPU = torch.device("cpu")
PLAIN = Augmentation(flip=False)


def extractor(
    model: Model, augmentation: Augmentation, threads: int = 2, *, fills_passes: bool = True
) -> Extractor:
    return Extractor(
        model,
        augmentation,
        precision="fp32",
        device=CPU,
        threads=threads,
        fills_passes=fills_passes,
    )


def images(count: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 256, 128), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def osnet(osnet_file: Path) -> Model:
    return load_model(str(osnet_file))


def test_a_forked_process_computes_too(osnet: Model) -> None:
    ours = extractor(osnet, PLAIN)
    expected = ours(images(3))[0]  # the threads have been started
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def compute() -> None:
        sender.send(ours(images(3))[0].numpy())

    child = multiprocessing.get_context("fork").Process(target=compute)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forks and threads
        child.start()
    try:
        assert receiver.poll(LIMIT_S), "it waits for threads that it does not have"
        assert np.array_equal(receiver.recv(), expected.numpy())
        child.join(LIMIT_S)
        assert child.exitcode == 0
    finally:
        child.kill()


def resized_by_pillow_13(preprocess: Preprocess, files: Iterable[Path]) -> Tensor:
    """As the golden packs were made: tall images down first."""

    def scale(
        image: NDArray[np.uint8], height: int, width: int, interpolation: str
    ) -> NDArray[np.uint8]:
        if not resized_vertically_first(image.shape[0], image.shape[1], height, width):
            return ours(image, height, width, interpolation)
        method = Image.Resampling[interpolation.upper()]
        down = Image.fromarray(image).resize((image.shape[1], height), method)
        return np.array(down.resize((width, height), method))

    ours = resize.resize_one
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize, "resize_one", scale)
        patch.setattr(fit, "resize_one", scale)
        return preprocess.resize(map(preprocess.load, files))


@pytest.mark.parametrize("name", GOLDEN_MODELS)
def test_features_are_those_of_the_peers_own_code(tmp_path: Path, name: str) -> None:
    # By torch; test_golden_packs.py has the engines.
    golden = Pack(GOLDEN / name)
    model = load_model(str(golden.save(tmp_path)), choices=GOLDEN_SAID.get(name, Choices()))
    multi_scale = name.endswith("_ms")  # the peer ran with --ms 1,1.1,1.2
    augmentation = Augmentation(
        flip=model.architecture.flip,
        scales=(1.0, 1.1, 1.2) if multi_scale else (1.0,),
        scale_mode="compound" if multi_scale else "independent",
    )
    some = slice(None, None, 4 if golden.is_large else 1)
    batch = resized_by_pillow_13(model.architecture.preprocess, golden.images[some])
    cameras = None if golden.cameras is None else golden.cameras[some]
    # That filling changes no feature, test_filled_passes.py shows; of four images it costs as much.
    extract = extractor(model, augmentation, fills_passes=False)
    ours = extract(batch, cameras)[0].numpy()
    theirs = golden.features[some]
    assert (ours.astype(np.float64) * theirs).sum(axis=1).min() >= 0.99999
    limit = golden.spec["measured_tolerance"]["suggested_max_abs_diff_over_rms"]
    assert np.abs(ours - theirs).max() / np.sqrt(np.square(theirs).mean()) <= limit


def test_original_pixels_give_the_features_of_resized_ones(osnet: Model) -> None:
    preprocess = osnet.architecture.preprocess
    generator = np.random.default_rng(0)
    sizes = [(128, 64), (100, 40), (13, 170)]
    originals = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    batch, of_each = originals_or_resized(originals, preprocess)
    assert of_each == tuple(sizes)
    extract = extractor(osnet, PLAIN)
    expected, _ = extract(preprocess.resize(originals))
    assert torch.equal(extract.begin(batch, None, of_each).result()[0], expected)


def test_fast_reids_flip_normalises_the_mirror_image_twice_and_ours_once(
    pack: Packs, tmp_path: Path
) -> None:
    golden = pack("fastreid/bagtricks_R50_fliptest")
    file = golden.save(tmp_path)
    file.with_name("config.yaml").write_text("TEST: {FLIP: {ENABLED: true}}")
    model = load_model(str(file))
    assert model.architecture.flip
    assert any("normalises the mirror image twice" in n for n in model.architecture.notes)
    preprocess = model.architecture.preprocess
    batch = preprocess.resize(map(preprocess.load, golden.images[::4]))
    once = preprocess.normalise(batch)
    mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (preprocess.mean, preprocess.std))
    with torch.inference_mode():
        image, mirror = model.network(once), model.network(once.flip(3))
        theirs = F.normalize(image + model.network((once.flip(3) - mean) / std)).double()
    expected = torch.from_numpy(golden.features[::4]).double()
    assert (theirs * expected).sum(1).min() >= 0.99999
    ours = extractor(model, Augmentation(flip=True))(batch)[0]
    torch.testing.assert_close(ours, F.normalize(image + mirror), rtol=1e-4, atol=1e-5)
    assert (ours.double() * expected).sum(1).max() < 0.9999
    file.with_name("config.yaml").write_text("TEST: {FLIP: {ENABLED: false}}")
    assert not load_model(str(file)).architecture.flip


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
    assert passes == [8, 8]  # the one that had begun, and the next call's, which is filled up


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


@pytest.mark.parametrize(
    ("seconds", "said"),
    [((1, 2), "bf16 is slower than fp32 here: 1.5 images/s on a core, fp32 3.0"), ((2, 1), "")],
)
def test_a_precision_that_is_slower_than_fp32_is_said(
    osnet: Model, monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], said: str
) -> None:
    slow = extractor(osnet, PLAIN)
    slow._set("bf16")  # which not every CPU has
    took: list[float] = []

    def pass_of(images_BCHW: Tensor, cameras_B: Tensor | None) -> None:
        took.append(seconds[slow.precision == "bf16"])

    monkeypatch.setattr(slow, "_padded", pass_of)
    monkeypatch.setattr("time.perf_counter", lambda: sum(took))
    assert slow.why_slow(images(3)) == said
    assert (slow.precision, slow.dtype) == ("bf16", torch.bfloat16)
    assert len(took) >= 2
    assert extractor(osnet, PLAIN).why_slow(images(3)) == ""

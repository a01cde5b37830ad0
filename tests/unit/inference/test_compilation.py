import logging
import shutil
import signal
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import wait_until
from torch import Tensor, nn

from distreid.errors import CompileError
from distreid.images.preprocess import Preprocess
from distreid.inference.compilation import check_drift, compiling, folded, why_eager
from distreid.inference.drift import Drift, drift
from distreid.inference.extractor import Extractor
from distreid.inference.views import Augmentation
from distreid.models.architecture import Architecture
from distreid.models.checkpoint import Model
from distreid.models.weights import Checkpoint

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
FLIP = Augmentation(flip=True)
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler (g++)")


class Small(nn.Module):
    """Convolutions and a batch norm, whose folding changes last bits."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, stride=2)
        self.norm = nn.BatchNorm2d(32)
        self.last = nn.Linear(32, 16)
        self.norm.running_mean = torch.randn(32)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]


class Shared(Small):
    """One convolution before two batch norms, which can be folded into neither."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.BatchNorm2d(32)
        self.second.running_mean = torch.randn(32)

    def forward(self, x: Tensor) -> Tensor:
        second: Tensor = self.last(self.second(self.first(x)).mean((2, 3)))
        return super().forward(x) + second


class Joined(Small):
    """Two batch norms after joins, which are no layers, beside one that can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.joined = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = (norm(torch.cat([x, x], dim=1)) for norm in self.joined)
        return super().forward(x + first[:, :3] + second[:, 3:])


class Branching(Small):
    """What depends on the input in a way that tracing does not follow, and compiling does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[1] == 3 else x[:, :3])


class Printing(Branching):
    """What torch cannot compile as a whole."""

    def forward(self, x: Tensor) -> Tensor:
        warnings.warn("never seen", stacklevel=1)
        torch._dynamo.graph_break()
        return super().forward(x)


def model(network: nn.Module) -> Model:
    architecture = Architecture(
        name="small",
        peer="nobody",
        build=Small,
        dim=16,
        feature="last",
        preprocess=Preprocess(height=32, width=16),
        flip=True,
    )
    checkpoint = Checkpoint(file=Path("small.pth"), sha256="", state={})
    return Model(
        network=network.eval(),
        architecture=architecture,
        checkpoint=checkpoint,
        loaded=0,
        dropped=(),
    )


def extractor(network: nn.Module, threads: int = 2, precision: str = "fp32") -> Extractor:
    return Extractor(model(network), FLIP, precision=precision, device=CPU, threads=threads)


def images(count: int = 21) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 16), dtype=torch.uint8, generator=generator)


@pytest.fixture
def small() -> Iterator[Small]:
    torch.manual_seed(0)
    yield Small()
    torch._dynamo.reset()


@needs_compiler
def test_compiled_features_are_eagers_on_any_number_of_threads_and_in_any_batches(
    small: Small,
) -> None:
    eager, eager_norm = extractor(small)(images())
    everything = []
    for threads, sizes in ((1, 21), (2, 21), (3, 5), (2, 16)):
        extract = extractor(small, threads)
        found = extract.compile("default", 64, images(sizes))
        assert found.largest <= 1e-5 and found.cosine >= 0.99999
        parts = [extract(part) for part in torch.split(images(), 8)]
        parts = [extract(images())] if sizes == 21 else parts
        features, norm = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        everything.append(features)
        torch.testing.assert_close(norm, eager_norm, rtol=1e-5, atol=0)
    assert all(torch.equal(everything[0], other) for other in everything)
    assert drift(eager, everything[0]).largest <= 1e-5
    # Else this test would show nothing: the batch norm was folded.
    assert not torch.equal(everything[0], eager)


@needs_compiler
def test_a_compiled_extractor_is_never_compiled_anew(small: Small) -> None:
    extract = extractor(small)
    extract.compile("default", 64, images())
    for others in (images()[:, :, :30], images()[:, :, :, :15], images()[:, :2]):
        with pytest.raises(RuntimeError, match=r"compiled for at most \(8, 3, 32, 16\)"):
            extract(others)
    with pytest.raises(RuntimeError, match="at most"):
        extract._padded(images()[:9], None)
    # And by torch, whatever else has changed.
    with extract.as_compiled(), pytest.raises(RuntimeError, match="recompile"):
        extract.forward(torch.zeros(8, 3, 30, 16))
    assert drift(extract(images())[0], extractor(small)(images())[0]).largest <= 1e-5


@needs_compiler
def test_the_weights_are_frozen_into_the_compiled_network(small: Small) -> None:
    extract = extractor(small)
    extract.compile("default", 64, images())
    before, _ = extract(images())
    with torch.no_grad():
        small.first.weight.zero_()
    assert torch.equal(extract(images())[0], before)


@needs_compiler
@pytest.mark.parametrize("network", [Small, Joined, Shared, Branching])
def test_batch_norms_are_folded_before_where_they_can_be(network: type[nn.Module]) -> None:
    torch.manual_seed(0)
    built = network().eval()
    found = folded(built)
    if network in (Small, Joined):
        assert not any(node.target == "norm" for node in found.graph.nodes)  # type: ignore[union-attr]
    else:
        assert found is built
    assert extractor(built).compile("default", 64, images()).cosine >= 0.99999
    torch._dynamo.reset()


@needs_compiler
def test_what_takes_longer_than_it_may_is_given_up_and_can_be_compiled_later(small: Small) -> None:
    extract = extractor(small)
    before, handler = extract(images())[0], signal.getsignal(signal.SIGALRM)
    call = nn.Module.__call__
    with pytest.raises(CompileError, match=r"not ready in 0\.01 s"):
        extract.compile("default", 64, images(), limit_s=0.01)
    assert signal.getsignal(signal.SIGALRM) == handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert sys.getprofile() is None
    # What torch had replaced while it traced the network is put back.
    assert nn.Module.__call__ is call
    assert torch.equal(extract(images())[0], before)
    assert extract.compile("default", 64, images(), limit_s=600).cosine >= 0.99999


def test_what_is_too_late_ends_at_a_step_of_torchs_and_nowhere_else() -> None:
    with compiling(limit_s=0.01):
        wait_until(lambda: sys.getprofile() is not None)
        nn.Linear(2, 2)(torch.zeros(1, 2))
    assert sys.getprofile() is None
    step = types.FunctionType((lambda: None).__code__.replace(co_name="run_node"), {})
    step.__globals__["__name__"] = "torch._inductor.graph"
    with pytest.raises(CompileError, match=r"not ready in 0\.01 s"), compiling(limit_s=0.01):
        wait_until(lambda: step() or False)


def test_what_cannot_be_compiled_leaves_the_extractor_eager_and_the_terminal_quiet(
    capfd: pytest.CaptureFixture[str],
) -> None:
    extract = extractor(Printing())
    with pytest.warns(UserWarning, match="never seen"):
        before, _ = extract(images())
    with pytest.raises(CompileError, match="Unsupported") as caught:
        extract.compile("default", 64, images())
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match="never seen"):
        assert torch.equal(extract(images())[0], before)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_a_missing_compiler_is_a_compile_error(
    small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(CompileError):
        extractor(small).compile("default", 64, images())


def test_compiled_features_that_are_not_eagers_are_refused() -> None:
    eager = nn.functional.normalize(torch.eye(4) + 0.1)
    assert drift(eager, eager).largest == 0
    same = drift(eager, eager * 1.00001)
    assert same.largest == pytest.approx(1e-5 * float(eager.max()) / 0.5, rel=1e-2)
    check_drift(Drift(largest=1e-6, cosine=0.999991, rows=4), "fp32")
    check_drift(Drift(largest=1e-2, cosine=0.991, rows=4), "bf16")
    for cosine, precision in ((0.99998, "fp32"), (0.98, "bf16"), (float("nan"), "fp32")):
        with pytest.raises(CompileError, match="not eager's"):
            check_drift(Drift(largest=1, cosine=cosine, rows=4), precision)


def test_whether_a_run_is_compiled_depends_on_its_rows_and_the_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert why_eager("auto", 20_000, CPU) is None
    assert "from 20,000 images" in str(why_eager("auto", 19_999, CPU))
    assert "from 500,000 images" in str(why_eager("auto", 20_000, GPU))
    assert why_eager("max", 1, CPU) is None
    assert why_eager("off", 10**9, GPU) == "--compile off"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "C++ compiler" in str(why_eager("auto", 20_000, CPU))
    assert why_eager("auto", 500_000, GPU) is None

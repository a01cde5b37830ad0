"""Exports in C++: the lines that distreid.json gives, compiled and run."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from numpy.typing import NDArray

import distreid
from distreid.data.source import SAMPLE_FOLDER
from distreid.export.export_description import how_to_run
from distreid.export.formats import FILES, write
from distreid.export.whole_network import WholeNetwork
from distreid.inference.views import Augmentation
from distreid.models.checkpoint import load_model

COMPILER = shutil.which("g++")
PACKAGES = Path(sysconfig.get_path("purelib"))
pytestmark = pytest.mark.skipif(not COMPILER, reason="no g++: apt-get install g++")
PROGRAM = """
#include <cstdint>
#include <fstream>
#include <iterator>
#include <vector>
#include <{header}>

int main() {{
  std::ifstream file("pixels", std::ios::binary);
  std::vector<uint8_t> bytes(std::istreambuf_iterator<char>(file), {{}});
  {inputs}
  {line}
  std::ofstream("features", std::ios::binary).write(reinterpret_cast<const char *>({first}), {count} * 4);
}}
"""  # noqa: E501
SHAPE = "{8, 3, 256, 128}"


@dataclass(frozen=True)
class Runtime:
    """How a program uses it."""

    include: Path
    library: Path
    header: str
    inputs: str
    """The inputs of the line, from `bytes`."""
    first: str
    """Where the features lie."""
    count: str
    installed_by: str
    loaded_as: str | None = None
    """The library's name for programs, where the package gives it another."""
    standard: str = "c++17"
    others: tuple[str, ...] = ()

    def build(self, line: str, folder: Path) -> list[str]:
        """The compiler's command for `main.cpp`, which it writes."""
        text = PROGRAM.format(
            header=self.header, inputs=self.inputs, line=line, first=self.first, count=self.count
        )
        (folder / "main.cpp").write_text(text)
        library = self.library
        if self.loaded_as:
            (folder / self.loaded_as).symlink_to(library)
            library = folder / self.loaded_as
        libraries = [library, *(library.with_name(name) for name in self.others)]
        return [
            *(str(COMPILER), f"-std={self.standard}", "-isystem", str(self.include), "main.cpp"),
            *("-o", "main", *map(str, libraries), f"-Wl,-rpath,{library.parent}"),
        ]


RUNTIMES = {
    "onnx": Runtime(
        include=REPOSITORY / ".venv/onnxruntime-headers",
        library=next(PACKAGES.glob("onnxruntime/capi/libonnxruntime.so.*"), Path("/none")),
        loaded_as="libonnxruntime.so.1",
        header="onnxruntime_cxx_api.h",
        inputs=f"""Ort::Env env;
  int64_t shape[] = {SHAPE};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  Ort::Value values[] = {{
      Ort::Value::CreateTensor<uint8_t>(memory, bytes.data(), bytes.size(), shape, 4)}};""",
        first="features.GetTensorData<float>()",
        count="features.GetTensorTypeAndShapeInfo().GetElementCount()",
        installed_by="tests/tools/onnxruntime_headers",
    ),
    "openvino": Runtime(
        include=PACKAGES / "openvino/include",
        library=next(PACKAGES.glob("openvino/libs/libopenvino.so.*"), Path("/none")),
        header="openvino/openvino.hpp",
        inputs=f"ov::Tensor pixels(ov::element::u8, {SHAPE}, bytes.data());",
        first="features.data<float>()",
        count="features.get_size()",
        installed_by="pip install openvino",
    ),
    "torchscript": Runtime(
        include=PACKAGES / "torch/include",
        library=PACKAGES / "torch/lib/libtorch_cpu.so",
        others=("libc10.so",),
        header="torch/script.h",
        inputs=f"auto pixels = torch::from_blob(bytes.data(), {SHAPE}, torch::kUInt8);",
        first="features.data_ptr<float>()",
        count="features.numel()",
        installed_by="pip install torch",
        standard="c++20",
    ),
}


@pytest.fixture(scope="module")
def sample() -> tuple[torch.Tensor, NDArray[np.float32]]:
    """Eight images as the network takes them, and the job's features."""
    model, files = distreid.load_model("sample"), sorted(SAMPLE_FOLDER.glob("query/*.jpg"))[:8]
    return torch.stack([model.pixels(file.read_bytes()) for file in files]), model.features(files)


@pytest.mark.parametrize("format_name", RUNTIMES)
def test_a_program_in_cpp_gives_the_features_of_the_job(
    format_name: str, sample: tuple[torch.Tensor, NDArray[np.float32]], tmp_path: Path
) -> None:
    runtime, (images, exact) = RUNTIMES[format_name], sample
    if not (runtime.include / runtime.header).exists() or not runtime.library.exists():
        pytest.skip(f"no headers or library in {runtime.include}: {runtime.installed_by}")
    images.numpy().tofile(tmp_path / "pixels")
    whole = WholeNetwork(
        load_model("sample"), Augmentation(flip=False), precision="fp32", raw=False
    ).eval()
    whole.requires_grad_(False)
    write(format_name, whole, (images[:2],), "images", '{"dim": 512}', tmp_path)
    line = how_to_run(format_name, FILES[format_name][0], "images", (256, 128))["c++"]
    for command in (runtime.build(line, tmp_path), ["./main"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    found = np.fromfile(tmp_path / "features", np.float32).reshape(exact.shape)
    assert float((found * exact).sum(axis=1).min()) >= 0.99999

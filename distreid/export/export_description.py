"""What stands beside an export, in distreid.json: its identity, its files, and how to run it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distreid.errors import StoreError
from distreid.export.export_options import FORMATS, TENSORRT, ExportOptions
from distreid.host.digests import sha256

FILE = "distreid.json"
MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ExportDescription:
    """`FILE` in an export's folder."""

    format: str
    file: str
    """The network's, in the folder."""
    identity: Mapping[str, Any]
    """That the file itself holds, too."""
    files: Mapping[str, str]
    """Each file's SHA-256, hex."""
    run: Mapping[str, str]
    """A language to the line that computes features."""
    gate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def max_map_loss(self) -> float:
        """What the gate allowed; those that do not say it were made with the default."""
        return float(self.gate.get("max_map_loss", ExportOptions.max_map_loss))

    def save(self, folder: Path) -> None:
        """As `FILE`."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        (folder / FILE).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> ExportDescription:
        """What `save` wrote; StoreError if it is not there, or none of ours."""
        file = folder / FILE
        try:
            if file.stat().st_size > MAX_BYTES:
                raise ValueError(file)
            found = cls(**json.loads(file.read_text(encoding="utf-8")))
            parts = (found.identity, found.files, found.run, found.gate)
            names = [found.file, *found.files]
            if (
                found.format not in FORMATS
                or not all(isinstance(part, dict) for part in parts)
                or not all(map(_inside, names))
            ):
                raise ValueError(file)
            found.identity["precision"], found.max_map_loss  # are there
        except FileNotFoundError as error:
            raise StoreError(f"{file}: no such file, so {folder} is no export") from error
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(f"{file}: damaged, or of another distreid; export again") from error
        return found

    def check_files(self, folder: Path) -> None:
        """StoreError names a file that is not the one that was written."""
        for name, digest in self.files.items():
            try:
                same = sha256(folder / name) == digest
            except OSError as error:
                raise StoreError(f"{folder / name}: {error.strerror}; export again") from error
            if not same:
                raise StoreError(f"{folder / name}: not the file that was exported; export again")


def _inside(name: str) -> bool:
    """Whether a name is that of a file in the folder."""
    path = Path(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def is_export(folder: Path) -> bool:
    """Whether a folder holds an export."""
    return (folder / FILE).is_file()


def how_to_run(
    format_name: str,
    file: str,
    images: str,
    size: tuple[int, int],
    precision: str = "fp32",
    *,
    cameras: bool = False,
) -> dict[str, str]:
    """A language to the line that computes features, after its runtime's usual preamble.

    `images` is the input's name, `size` its height and width. In a line, `pixels` are images, and
    `cameras` their cameras.
    """
    height, width = size
    number = "uint8" if images == "images" else "float32"
    inputs = {images: "pixels"} | ({"cameras": "cameras"} if cameras else {})
    given = ", ".join(inputs.values())
    named = "{" + ", ".join(f'"{name}": {value}' for name, value in inputs.items()) + "}"
    if format_name == "onnx":
        names = ", ".join(f'"{name}"' for name in inputs)
        script_inputs = f'{images}: new ort.Tensor("{number}", pixels, [n, 3, {height}, {width}])'
        if cameras:
            script_inputs += ', cameras: new ort.Tensor("int64", cameras, [n])'
        return {
            "python": f'onnxruntime.InferenceSession("{file}").run(["features"], {named})[0]',
            "c++": f'const char *inputs[] = {{{names}}}, *outputs[] = {{"features"}}; '
            f'auto features = std::move(Ort::Session(env, "{file}", {{}}).Run('
            f"{{}}, inputs, values, {len(inputs)}, outputs, 1)[0]);  "
            f"// values: an Ort::Value each for {given}",
            "javascript": f'(await (await ort.InferenceSession.create("{file}")).run('
            f"{{{script_inputs}}})).features.data",
        }
    if format_name == "openvino":
        set_inputs = " ".join(
            f'request.set_tensor("{name}", {value});' for name, value in inputs.items()
        )
        return {
            "python": f'openvino.Core().compile_model("{file}", "CPU", '
            f'{{"INFERENCE_PRECISION_HINT": "f32"}})({named})["features"]',
            "c++": f'auto request = ov::Core().compile_model("{file}", "CPU", '
            "ov::hint::inference_precision(ov::element::f32)).create_infer_request(); "
            f'{set_inputs} request.infer(); auto features = request.get_tensor("features");',
        }
    if format_name == "torchscript":
        return {
            "python": f'torch.jit.load("{file}")({given})',
            "c++": f'auto features = torch::jit::load("{file}").forward({{{given}}}).toTensor();',
        }
    if format_name == TENSORRT:
        return {"build": _build_engine(file, images, size, precision, cameras=cameras)}
    if format_name == "triton":
        tensors = ", ".join(inputs)
        return {
            "server": "tritonserver --model-repository=python_backend",
            "python": 'tritonclient.http.InferenceServerClient("localhost:8000").infer("distreid", '
            f'[{tensors}]).as_numpy("features")',
        }
    return {"python": f'torch.export.load("{file}").module()({given})'}


def _build_engine(
    file: str, images: str, size: tuple[int, int], precision: str, *, cameras: bool
) -> str:
    """The command of NVIDIA's trtexec; the batch sizes are those of Triton's models."""
    shapes = []
    for name, count in (("min", 1), ("opt", 8), ("max", 32)):
        shape = f"{images}:{count}x3x{size[0]}x{size[1]}" + (f",cameras:{count}" if cameras else "")
        shapes.append(f"--{name}Shapes={shape}")
    lower = "" if precision == "fp32" else f" --{precision}"
    return f"trtexec --onnx={file} --saveEngine=model.plan {' '.join(shapes)}{lower}"

"""A checkpoint as a Python user calls it: images in, the job's own features out."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from distreid.errors import CheckpointError, EngineError, ImageError, OptionError
from distreid.host.machine import cores
from distreid.images.preprocess import Preprocess
from distreid.inference.drift import LEAST_COSINE
from distreid.inference.engines import INT8, TORCH, choose_engine
from distreid.inference.extractor import CPU_ROWS, Extractor, choose_device, choose_precision
from distreid.inference.views import Augmentation
from distreid.interface.extraction import as_tuple
from distreid.job.engine_decision import computed_by
from distreid.job.options import ExtractOptions, path_text
from distreid.job.runs import augmentation, exported_identity
from distreid.models import checkpoint as checkpoints
from distreid.models.architecture import MEAN_CAMERA, NO_CAMERA
from distreid.models.camera_embedding import embedding_identity
from distreid.models.checkpoint_tables import description
from distreid.report.notebook import facts_html
from distreid.store.identity import HORIZONTAL_FIRST, RESIZE

AnImage: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[np.uint8]"
AT_ONCE = 64  # images decoded and held at a time
EMBEDDINGS = {"mean": MEAN_CAMERA, "none": NO_CAMERA}


def load_model(
    checkpoint: str | os.PathLike[str],
    *,
    model: str = "auto",
    input_size: tuple[int, int] | str | None = None,
    weights: str | None = None,
    feature: str | None = None,
    last_stride: int | None = None,
    pooling: str | None = None,
    semantic_weight: float | None = None,
    viewpoints: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    channels: str | None = None,
    range: str | None = None,
    keep_aspect: str | None = None,
    input_name: str | None = None,
    output_name: str | None = None,
    flip: bool | None = None,
    scales: Sequence[float] | str = (1.0,),
    scale_mode: str = "independent",
    camera_embedding: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    device: str | torch.device = "auto",
) -> Model:
    """Loads a checkpoint, a file or `sample`; the options are those of `distreid extract`.

    `input_size` is (height, width), or "256x128". Nothing of the file is run. CheckpointError says
    what does not fit; OptionError which option cannot be meant.
    """
    asked: dict[str, Any] = {
        "model": model,
        "input_size": as_tuple("input_size", input_size),
        "flip": flip,
        "scales": as_tuple("scales", scales) or (),
        "scale_mode": scale_mode,
        "camera_embedding": camera_embedding,
        "weights": weights,
        "feature": feature,
        "last_stride": last_stride,
        "pooling": pooling,
        "semantic_weight": semantic_weight,
        "viewpoints": viewpoints,
        "mean": as_tuple("mean", mean),
        "std": as_tuple("std", std),
        "interpolation": interpolation,
        "channels": channels,
        "range": range,
        "keep_aspect": keep_aspect,
        "input_name": input_name,
        "output_name": output_name,
        "precision": precision,
        "engine": engine,
        "device": str(device) if isinstance(device, torch.device) else device,
    }
    # No data is read and nothing is written: these two stand for what a job would have.
    options = ExtractOptions(
        data="sample", checkpoints=(path_text("checkpoint", checkpoint),), out=Path(), **asked
    )
    on = choose_device(options.device, 0)
    if precision == INT8:
        raise OptionError(f"--precision {INT8}: of a run that is extracted, not of a model alone")
    loaded = checkpoints.load_model(
        options.checkpoints[0], model, options.input_size, options.choices()
    )
    if loaded.architecture.program:
        computed = computed_by(options, on, None, loaded)
        proving, precision, chosen = False, computed.precision, computed.engine
    else:
        proving, precision = precision == "auto", choose_precision(precision, on, engine)
        chosen = choose_engine(engine, precision, on)
    views = augmentation(options, loaded)
    made = Model(
        loaded,
        views,
        precision=precision,
        device=on,
        camera_embedding=camera_embedding,
        engine=chosen,
        proving=proving,
        asked=asked,
    )
    if engine not in ("auto", made.engine):
        raise OptionError(f"--engine {engine}: {made.why_torch}; use auto or torch")
    return made


class Model:
    """A network with its weights. Made by `distreid.load_model`.

    A pickled one is the name of its file and its options: whoever unpickles it loads the file,
    and CheckpointError says if that is another one by now. In a process that was forked it works
    on a CPU; a GPU wants processes that were spawned.
    """

    def __init__(
        self,
        model: checkpoints.Model,
        views: Augmentation,
        *,
        precision: str,
        device: torch.device,
        camera_embedding: str,
        engine: str,
        proving: bool,
        asked: Mapping[str, Any],
    ) -> None:
        """`asked` are the options of `load_model`, to load it again."""
        self._asked = dict(asked)
        self._process = os.getpid()
        self._model = model
        self._camera_embedding = camera_embedding
        with THREADS.kept():
            self._extract = Extractor(
                model, views, precision=precision, device=device, threads=cores(), engine=engine
            )
            self.why_torch = self._load(engine, proving)
            """Why the engine that was chosen does not compute after all; mostly empty."""

    def _load(self, engine: str, proving: bool) -> str:
        """Tries the engine on noise, as a job does on its first images."""
        precision = self._extract.precision
        if self._model.architecture.program:
            return ""  # it is computed as it is
        if engine == TORCH and not (proving and precision != "fp32"):
            return ""
        preprocess, cameras = self.preprocess, self._model.architecture.cameras
        generator = torch.Generator().manual_seed(0)
        size = CPU_ROWS, 3, preprocess.height, preprocess.width
        noise = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        first = None if cameras is None else torch.full((CPU_ROWS,), NO_CAMERA)
        if engine == TORCH:
            if self._extract.drift_from_fp32(noise, first).cosine < LEAST_COSINE:
                self._extract.compute_by_torch("fp32")
            return ""
        try:
            self._extract.load_engine(engine, noise, first, gpu_rows=AT_ONCE)
        except EngineError as error:
            self._extract.compute_by_torch(self._extract.precision)
            return str(error)
        return ""

    @property
    def engine(self) -> str:
        """What computes: `torch`, or an inference engine, as `distreid extract --engine` has it."""
        return self._extract.engine

    @property
    def architecture(self) -> str:
        """The network's name, such as `osnet_x0_25`; `distreid models` lists them."""
        return self._model.architecture.name

    @property
    def dim(self) -> int:
        """How many numbers a feature has."""
        return self._model.architecture.dim

    @property
    def wants_cameras(self) -> bool:
        """Whether `features` is to be given the images' cameras."""
        return self._model.architecture.cameras is not None and self._camera_embedding == "auto"

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes the network's input."""
        return self._model.architecture.preprocess

    @property
    def identity(self) -> dict[str, Any]:
        """What the features depend on beside the images, in the words of a store's identity."""
        architecture = self._model.architecture
        return (
            {
                "weights": self._model.checkpoint.sha256,
                "model": architecture.identity()
                | embedding_identity(architecture, self._camera_embedding),
                "preprocess": architecture.preprocess.identity(),
                "augmentation": self._extract.augmentation.identity(),
                "dim": architecture.dim,
                RESIZE: HORIZONTAL_FIRST,
                "precision": self._extract.precision,
            }
            | ({} if self.engine == TORCH else {"engine": self.engine})
            | self._exported
        )

    @functools.cached_property
    def _exported(self) -> dict[str, str]:
        return exported_identity(self._model)

    def features(
        self,
        images: AnImage | Iterable[AnImage],
        *,
        bgr: bool = False,
        cameras: Sequence[int] | int | None = None,
        viewpoints: Sequence[int] | int | None = None,
    ) -> NDArray[np.float32]:
        """The L2-normalised features of one image (D,), or of N images (N, D), float32.

        An image is a path, an open binary file (read from where it stands), the bytes of one, a
        PIL image, or a uint8 array of any size: (H, W, 3) in RGB (in BGR, as OpenCV has it, with
        `bgr=True`, which concerns arrays alone), (H, W) or (H, W, 1) in grey, (H, W, 4) whose
        alpha is dropped. An array (N, H, W, 3) is N images; kinds and sizes may be mixed, and of
        an iterator few are held at a time. On a
        CPU in fp32 the bytes are those that `distreid extract` writes for the same images; an
        empty list gives (0, D).

        A PIL image is what its file would be, by Pillow's `convert("RGB")`: of any mode, also of
        16 bits or floats. An array of these is refused, since no peer says which of its bits are
        to be seen. The limit of pixels is for files: arrays and PIL images are in memory already.

        `cameras` are the cameras' numbers, from 1, for a network that has an embedding of each;
        `viewpoints` those of the sides of vehicles, from 0, for one that has embeddings of both.

        ValueError for an array of another shape or type, or a file that is closed or opened for
        text or writing; ImageError for an image that cannot be read; all with the place in the
        list. CheckpointError where the network gives NaN or a zero feature.
        """
        if not isinstance(bgr, bool):
            raise OptionError(f"bgr={bgr!r}: True or False is wanted")
        if os.getpid() != self._process and (
            self._extract.device.type != "cpu" or self.engine != TORCH
        ):
            raise OptionError(
                "this process was forked from the one that loaded the model, and has neither its "
                f"GPU nor the threads of {self.engine}; start it by multiprocessing's `spawn`, or "
                "load the model in it, or with device='cpu' and engine='torch'"
            )
        if isinstance(images, np.ndarray) and images.dtype.kind in "UO":
            images = images.tolist()  # of paths, or of images
        single = _is_one(images)
        if not single and not isinstance(images, Iterable):
            raise ValueError(f"images is a {type(images).__name__}; an image or several are wanted")
        given: Any = [images] if single else images
        if self._model.architecture.cameras is not None and not isinstance(given, Sized):
            given = list(given)  # each has its camera
        count = len(given) if isinstance(given, Sized) else 0
        indices = self._camera_indices(cameras, viewpoints, count)
        parts = [np.empty((0, self.dim), np.float32)]
        waiting, start = iter(given), 0
        with THREADS.kept():
            while listed := list(itertools.islice(waiting, AT_ONCE)):
                part = slice(start, start + len(listed))
                parts.append(self._features(listed, start, bgr, indices, part))
                start += len(listed)
        found = np.concatenate(parts)
        return found[0] if single else found

    def _features(
        self,
        images: list[Any],
        start: int,
        bgr: bool,
        cameras: torch.Tensor | None,
        part: slice,
    ) -> NDArray[np.float32]:
        pixels = (self._pixels(image, start + i, bgr) for i, image in enumerate(images))
        batch = self.preprocess.resize(pixels)
        features, good = self._computed(batch, None if cameras is None else cameras[part])
        if not good.all():
            place = start + int(np.argmin(good))
            raise CheckpointError(
                f"image {place}: the network gives NaN, infinity or a zero feature; check "
                f"{self._model.checkpoint.file}"
            )
        return features

    def _computed(
        self, batch: torch.Tensor, cameras: torch.Tensor | None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        features, norm = self._extract(batch, cameras)
        good = torch.isfinite(features).all(dim=1) & torch.isfinite(norm)
        return features.numpy(), good.numpy()

    def pixels(self, image: bytes) -> torch.Tensor:
        """(3, height, width) uint8: an image file's bytes as the network's input; ImageError.
        TypeError for what are no bytes."""
        if not isinstance(image, bytes):
            raise TypeError(f"{type(image).__name__}: the bytes of an image file are wanted")
        return self.preprocess.resize([self.preprocess.decode(image)])[0]

    def features_of_pixels(
        self, pixels: torch.Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Unit features (N, D) of `pixels` (N, 3, height, width), and (N,) whether each is one, not
        NaN or infinity. OptionError for a network that wants the images' cameras, ValueError for
        pixels of another shape or type."""
        shape = 3, self.preprocess.height, self.preprocess.width
        if pixels.shape[1:] != shape or pixels.dtype != torch.uint8:
            raise ValueError(
                f"pixels {tuple(pixels.shape)} of {pixels.dtype}; uint8 is wanted, of shape "
                f"(N, {', '.join(map(str, shape))})"
            )
        cameras = self._camera_indices(None, None, len(pixels))
        with THREADS.kept():
            return self._computed(pixels, cameras)

    def _pixels(self, image: Any, place: int, bgr: bool) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        if isinstance(image, np.ndarray):
            return _of_array(image, place, bgr)
        turned = self.preprocess.exif_transpose
        try:
            if isinstance(image, Image.Image):
                return _of_pil(image, place, turned)
            if isinstance(image, (bytes, bytearray, memoryview)):
                return self.preprocess.decode(bytes(image))
            if hasattr(image, "read"):
                return self.preprocess.decode(_of_stream(image, place))
            if isinstance(image, (str, os.PathLike)):
                return self.preprocess.load(_named(image))
        except FileNotFoundError as error:
            raise ImageError(f"image {place}, {image}: no such file") from error
        except ImageError as error:
            named = f", {image}" if isinstance(image, (str, os.PathLike)) else ""
            raise ImageError(f"image {place}{named}: {error}") from error
        tensor = "; a tensor (3, H, W) is .permute(1, 2, 0).numpy()"
        raise ValueError(
            f"image {place} is a {type(image).__name__}; a path, bytes, a PIL image or a numpy "
            f"array is wanted{tensor if isinstance(image, torch.Tensor) else ''}"
        )

    def _camera_indices(
        self,
        cameras: Sequence[int] | int | None,
        viewpoints: Sequence[int] | int | None,
        count: int,
    ) -> torch.Tensor | None:
        architecture = self._model.architecture
        known = architecture.cameras
        if viewpoints is not None and architecture.viewpoints == 1:
            raise ValueError(f"viewpoints: {self.architecture} has no embeddings of viewpoints")
        if known is None:
            if cameras is not None:
                raise ValueError(f"cameras: {self.architecture} has no embeddings of cameras")
            return None
        if self._camera_embedding != "auto":
            return torch.full((count,), EMBEDDINGS[self._camera_embedding])
        both = architecture.viewpoints > 1
        if cameras is None or (both and viewpoints is None):
            raise ValueError(
                f"{self.architecture} has an embedding of each of {known} cameras"
                + (f" for each of {architecture.viewpoints} viewpoints" if both else "")
                + f": give cameras={' and viewpoints=' if both else ''}, "
                "or load it with camera_embedding='mean' or 'none'"
            )
        numbers = _whole_numbers("cameras", cameras, count, 1, known) - 1
        if viewpoints is not None:
            sides = _whole_numbers("viewpoints", viewpoints, count, 0, architecture.viewpoints - 1)
            numbers = numbers * architecture.viewpoints + sides
        return torch.from_numpy(numbers)

    def __reduce__(self) -> tuple[Any, ...]:
        file = self._model.checkpoint.file.absolute()
        return _loaded_again, (file, self._model.checkpoint.sha256, self._asked)

    def __repr__(self) -> str:
        return f"<distreid.Model {self.architecture} of {self._model.checkpoint.file}>"

    def _repr_html_(self) -> str:
        return facts_html(f"{self.architecture}", description(self._model))


def _loaded_again(file: Path, sha256: str, asked: Mapping[str, Any]) -> Model:
    model = load_model(file, **asked)
    if model.identity["weights"] != sha256:
        raise CheckpointError(
            f"{file}: another file than the one that the pickled model was loaded from; load it "
            "with distreid.load_model"
        )
    return model


def _is_one(images: Any) -> bool:
    """Whether it is an image, not several."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return isinstance(images, kinds) or hasattr(images, "read")


def _named(image: str | os.PathLike[Any]) -> Path:
    name = os.fsdecode(image)
    if "\0" in name or not name:
        raise ImageError(f"no file has {'a NUL in its' if name else 'an empty'} name")
    return Path(name)


def _of_stream(stream: Any, place: int) -> bytes:
    """What an open file holds from where it stands."""
    if getattr(stream, "closed", False):
        raise ValueError(f"image {place} is a file that was closed")
    if hasattr(stream, "encoding"):
        raise ValueError(f"image {place} is a file opened for text; open it with 'rb'")
    if hasattr(stream, "readable") and not stream.readable():
        raise ValueError(f"image {place} is a file opened for writing; open it with 'rb'")
    try:
        data = stream.read()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError(f"image {place}: read() gives a {type(data).__name__}, not bytes")
    return bytes(data)


def _of_pil(image: Image.Image, place: int, turned: bool) -> NDArray[np.uint8]:
    if 0 in image.size:
        raise ValueError(f"image {place} is a PIL image of {image.width} × {image.height} pixels")
    if turned:
        with contextlib.suppress(Exception):  # as in files: a damaged EXIF turns nothing
            image = ImageOps.exif_transpose(image)
    try:
        return np.array(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # its file is read only now, and may be damaged or closed
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error


def _of_array(image: NDArray[Any], place: int, bgr: bool) -> NDArray[np.uint8]:
    if image.dtype != np.uint8:
        raise ValueError(
            f"image {place} is an array of {image.dtype}; uint8 from 0 to 255 is wanted"
        )
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"image {place} is an array of shape {image.shape}; (height, width, 3) is wanted, or "
            "one of 1 or 4 channels"
        )
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    colours = image[:, :, 2::-1] if bgr else image[:, :, :3]
    return np.ascontiguousarray(colours)


class _CallersThreads:
    """A pass on a CPU is one thread's; when nobody computes any more, torch has as many as before
    the first of them began: the number is the process's, and new threads take it."""

    def __init__(self) -> None:
        self._lock, self._computing, self._before = threading.Lock(), 0, 1

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """While the calling thread computes."""
        own = torch.get_num_threads()
        with self._lock:
            if not self._computing:
                self._before = own
            self._computing += 1
        torch.set_num_threads(1)
        try:
            yield
        finally:
            with self._lock:
                self._computing -= 1
                torch.set_num_threads(self._before if own == 1 else own)


THREADS = _CallersThreads()


def _whole_numbers(
    name: str, given: Sequence[int] | int, count: int, least: int, most: int
) -> NDArray[np.int64]:
    numbers = np.atleast_1d(np.asarray(given))
    whole = numbers.dtype.kind in "iu" or not count
    if numbers.shape != (count,) or not whole or not ((numbers >= least) & (numbers <= most)).all():
        raise ValueError(f"{name}: {count} numbers from {least} to {most} are wanted")
    return numbers.astype(np.int64)

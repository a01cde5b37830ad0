"""What this machine makes of these images and this checkpoint: each step alone, and together."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Generator, Sized
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from distreid.benchmark.figures import Bench, BesideThePeer, Trial
from distreid.benchmark.load import LoadMeter
from distreid.benchmark.peer_loop import PeerImages, peer_loop
from distreid.benchmark.turns import Side, in_turn
from distreid.data.manifest import Status
from distreid.errors import CompileError, DataError, EngineError, OptionError
from distreid.host.machine import cores
from distreid.images.loader import Batch, ImageRows, open_loader
from distreid.images.preprocess import decode, read
from distreid.images.sampler import ShardSampler
from distreid.images.worker_count import ImageSeconds
from distreid.inference.compilation import EAGER, LIMIT_S, MODES
from distreid.inference.engines import ENGINES, INT8, TORCH, installed
from distreid.inference.extractor import (
    CPU_ROWS,
    PRECISIONS,
    Extractor,
    Pending,
    choose_device,
)
from distreid.inference.openvino_engine import OpenVINO
from distreid.inference.program_runtime import OF_KIND
from distreid.job.engine_decision import computed_by
from distreid.job.int8 import calibrated
from distreid.job.options import ExtractOptions
from distreid.job.runs import augmentation, read_manifest
from distreid.models.camera_embedding import camera_indices
from distreid.models.checkpoint import load_model
from distreid.store.plan import Plan, shard_rows_for
from distreid.store.shards import Rows, ShardWriter, write_shard

CALIBRATED_ON = 64  # images; int8's loss is measured by the run that asks for it
PASSES = 10_000  # over the images, of which as many are done as there is time for
BATCH_FACTORS = (0.5, 1, 2, 4)
# Of what is compared: a machine's speed changes with its load and its heat.
ROUNDS = 3
SLOW_S = 10.0
"""Seconds of a batch from which on it is timed once, and no other size of a batch is tried."""
PEER_ROUNDS = 7  # each of half the time


class _Setting:
    """The images, the network and the plan that every measurement uses."""

    def __init__(self, options: ExtractOptions, seconds: float) -> None:
        self.options, self.seconds = options, seconds
        self.device = choose_device(options.device, local_rank=0)
        self.model = load_model(
            options.checkpoints[0], options.model, options.input_size, options.choices()
        )
        computed = computed_by(options, self.device, None, self.model)
        self.engine, self.precision = computed.engine, computed.precision
        self.manifest = read_manifest(options)
        architecture = self.model.architecture
        self.preprocess = architecture.preprocess
        self.augmentation = augmentation(options, self.model)
        self.cameras = camera_indices(self.manifest, architecture, options.camera_embedding)
        self.cores = cores()
        self.workers = options.num_workers or 0
        self.compiled = options.compile
        self.plan = Plan(
            manifest=self.manifest,
            identity={},
            provenance={},
            dim=architecture.dim,
            dtype=options.dtype,
            shard_rows=shard_rows_for(len(self.manifest)),
        )
        self.first = ImageRows(self.manifest, self.preprocess)[
            range(min(len(self.manifest), options.batch_size))
        ]

    def is_slow(self, rate: float) -> bool:
        """Whether a batch takes so long at this rate that it is timed once."""
        return self.options.batch_size / rate > SLOW_S

    def rate(self, work: Callable[[], int], *, goes_on: bool = False) -> float:
        """Images/s of work that gives how many it did; the first time warms up, but counts where
        it takes so long that another would change little, unless the work `goes_on` meanwhile."""
        started = time.perf_counter()
        done = work()
        if (took := time.perf_counter() - started) > SLOW_S and not goes_on:
            return done / took
        done, started = 0, time.perf_counter()
        while not done or time.perf_counter() - started < self.seconds:
            done += work()
        return done / (time.perf_counter() - started)

    def rates(self, *works: Callable[[], int]) -> list[float]:
        """Each one's images/s, measured in turn; the medians."""
        measures = [partial(self.rate, work) for work in works]
        return [statistics.median(found) for found in in_turn(measures, ROUNDS)]

    def cameras_of(self, rows: range) -> Tensor | None:
        return None if self.cameras is None else self.cameras[rows.start : rows.stop]

    def batch(self, size: int) -> tuple[Tensor, Tensor | None]:
        """`size` images on the device, with their cameras: the first rows, again and again."""
        rows = torch.arange(size) % len(self.first.rows)
        cameras = self.cameras_of(self.first.rows)
        images = self.first.images_BCHW[rows].to(self.device)
        return images, None if cameras is None else cameras[rows]

    def extractor(self, engine: str, precision: str, size: int) -> Extractor:
        """Compiled if that was asked for, whatever the number of images, and can be done.

        OptionError if the device has no such precision, EngineError if the engine does not take
        the network.
        """
        extractor = Extractor(
            self.model,
            self.augmentation,
            precision=precision,
            device=self.device,
            threads=self.cores,
            engine=engine,
        )
        if self.model.architecture.program:
            return extractor  # has its engine
        if engine != TORCH:
            extractor.load_engine(engine, *self.batch(CPU_ROWS), gpu_rows=size)
        elif self.options.compile != EAGER:
            mode = MODES[self.options.compile]
            try:
                extractor.compile(mode, size, *self.batch(size), limit_s=LIMIT_S[mode])
                self.compiled = mode
            except CompileError as error:
                self.compiled = str(error)
        elif self.device.type == "cuda":
            with contextlib.suppress(EngineError):  # as a job does
                extractor.capture(size, *self.batch(size))
        return extractor

    def others(self) -> list[tuple[str, str, int]]:
        """Every engine that there is for this network here, and precision, with the batch size."""
        size, kind = self.options.batch_size, self.device.type
        if program := self.model.architecture.program:
            able = [name for name in OF_KIND[program.kind] if name == TORCH or installed(name)]
            return [(name, program.precision, size) for name in able]
        there = [each for each in ENGINES.values() if each.device == kind and installed(each.name)]
        found = [(TORCH, precision, size) for precision in PRECISIONS]
        found += [(each.name, precision, size) for each in there for precision in each.precisions()]
        return found + [(OpenVINO.name, INT8, size)] * (kind == "cpu")

    def int8(self) -> Extractor:
        """OpenVINO in int8, calibrated on the first images, for its rate alone; EngineError or
        OptionError where there is no such thing."""
        if self.cameras is not None:
            raise EngineError("a network that takes cameras is not quantised")
        chosen = np.arange(min(len(self.manifest), CALIBRATED_ON))
        images = ImageRows(self.manifest, self.preprocess)
        extractor = Extractor(
            self.model,
            self.augmentation,
            precision=INT8,
            device=self.device,
            threads=self.cores,
            engine=OpenVINO.name,
        )
        quantised = calibrated(self.model, self.augmentation, images, chosen)
        extractor.load_engine(OpenVINO.name, *self.batch(CPU_ROWS), quantised=quantised)
        return extractor

    def loaded(self) -> Generator[Batch, None, None]:
        """Batches from the workers, for ever."""
        sampler = ShardSampler(self.plan.shards * PASSES, rank=0, world_size=1)
        yield from open_loader(
            self.manifest,
            self.preprocess,
            sampler,
            batch_size=self.options.batch_size,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            originals=self.device.type == "cuda",
        )


def bench(options: ExtractOptions, seconds: float, peer: bool, say: Callable[[str], None]) -> Bench:
    """Measures every step for so many seconds; `options.out` is where shards are tried. `say` gets
    a line for what is measured next, or was.

    OptionError if the peers' loop is wanted of what peers do not do.
    """
    if len(options.checkpoints) > 1:
        raise OptionError("bench: give one --checkpoint")
    if options.precision == INT8:
        raise OptionError(f"--precision {INT8}: distreid extract tries it on --calibrate-on DATA")
    if peer and options.scales != (1.0,):
        raise OptionError("--peer: the plain loop has no --scales")
    meter = LoadMeter()
    setting = _Setting(options, seconds)
    if peer and (program := setting.model.architecture.program):
        raise OptionError(f"--peer: the plain loop has no programs such as {program.file}")
    extractor = _asked(setting)
    compiled = setting.compiled
    (options.out / "shards").mkdir(parents=True)
    say("each step alone …")
    steps = _steps(setting, extractor)
    if options.num_workers is None:
        image = sum(1 / steps[name] for name in ("read", "decode", "resize"))
        pace = ImageSeconds(input=image, model=1 / steps["forward"])
        setting.workers = pace.workers(setting.cores)
    images = setting.batch(options.batch_size)
    say("everything together …")
    if is_slow := setting.is_slow(steps["forward"]):
        together = setting.rate(_together(setting, extractor), goes_on=True)
    else:
        steps["forward"], together = setting.rates(
            lambda: len(extractor(*images)[0]), _together(setting, extractor)
        )
    found_input = _input(setting)
    if peer:
        say("beside the plain loop …")
    rounds = ROUNDS if is_slow else PEER_ROUNDS
    beside = _beside_the_peer(setting, extractor, rounds) if peer else None
    if setting.model.architecture.program:
        exact, by_exact = f"{extractor.engine} as the file is", extractor
    else:
        exact, by_exact = "torch in fp32", setting.extractor(TORCH, "fp32", options.batch_size)
    exact_BD, _ = by_exact(*images)
    del by_exact  # whose memory the trials may need
    return Bench(
        device=setting.device.type,
        workers=setting.workers,
        cores=setting.cores,
        steps=steps,
        input=found_input,
        together=together,
        peer=beside,
        exact=exact,
        trials=_trials(setting, extractor.engine, exact_BD, steps["forward"], say),
        compiled=compiled,
        load=meter.read(),
    )


def _asked(setting: _Setting) -> Extractor:
    """As the job would compute."""
    options, engine = setting.options, setting.engine
    try:
        extractor = setting.extractor(engine, setting.precision, options.batch_size)
    except EngineError as error:
        if options.engine != "auto":
            raise OptionError(f"--engine {engine}: {error}; use torch") from error
        return setting.extractor(TORCH, setting.precision, options.batch_size)
    if setting.model.architecture.program:
        setting.compiled = f"{engine} computes the program as it is"
    elif engine != TORCH and options.compile != EAGER:
        setting.compiled = f"{engine} computes; --engine torch compiles"
    return extractor


def _write(setting: _Setting, extracted: tuple[Tensor, Tensor]) -> Callable[[], Sized]:
    """Work that writes a whole shard of such features."""
    run, plan = setting.options.out, setting.plan
    shard = plan.shards[0]
    features_BD, norm_B = extracted
    rows = Rows(
        features=np.resize(features_BD, (len(shard), plan.dim)).astype(plan.stored_type),
        norm=np.resize(norm_B, len(shard)),
        status=np.zeros(len(shard), np.uint8),
    )

    def write() -> Sized:
        write_shard(run, plan, shard, rows)
        return rows.norm

    return write


def _steps(setting: _Setting, extractor: Extractor) -> dict[str, float]:
    """Each step alone; what a CPU has no need of is left out."""
    rows = setting.first.rows
    files = [
        setting.manifest.file(rows[i]) for i in np.flatnonzero(setting.first.status_B == Status.OK)
    ]
    if not files:
        raise DataError(f"{setting.manifest.root}: none of the first images can be read")
    data = [read(file) for file in files]
    turned = setting.preprocess.exif_transpose
    pixels = [decode(each, exif_transpose=turned) for each in data]
    batch = setting.batch(setting.options.batch_size)
    extracted = extractor(*batch)
    work: dict[str, Callable[[], Sized]] = {
        "read": lambda: [read(file) for file in files],
        "decode": lambda: [decode(each, exif_transpose=turned) for each in data],
        "resize": lambda: setting.preprocess.resize(pixels),
        "forward": lambda: extractor(*batch)[0],
        "write": _write(setting, extracted),
    }
    if setting.device.type == "cuda":
        pinned, on_device = batch[0].cpu().pin_memory(), extracted[0].to(setting.device)
        work["copy to the device"] = lambda: _copied(pinned.to(setting.device, non_blocking=True))
        work["copy back"] = lambda: on_device.cpu()
    return {
        name: setting.rate(lambda once=once: len(once()))  # type: ignore[misc]
        for name, once in work.items()
    }


def _copied(tensor: Tensor) -> Tensor:
    torch.cuda.synchronize()
    return tensor


def _input(setting: _Setting) -> float:
    loaded = setting.loaded()
    rate = setting.rate(lambda: len(next(loaded).rows))
    loaded.close()
    return rate


def _together(setting: _Setting, extractor: Extractor) -> Callable[[], int]:
    """Work that takes the next batch from its files to the device, and one before to a shard."""
    loaded, writer = setting.loaded(), ShardWriter(setting.options.out, setting.plan)

    def begun() -> tuple[Batch, Pending]:
        batch = next(loaded)
        return batch, extractor.begin(
            batch.images_BCHW, setting.cameras_of(batch.rows), batch.sizes
        )

    ahead = deque(begun() for _ in range(extractor.in_flight - 1))

    def work() -> int:
        ahead.append(begun())
        batch, pending = ahead.popleft()
        features_BD, norm_B = pending.result()
        writer.add(
            batch.rows,
            Rows(features=features_BD.numpy(), norm=norm_B.numpy(), status=batch.status_B),
        )
        return len(batch.rows)

    return work


def _trials(
    setting: _Setting, engine: str, exact_BD: Tensor, rate: float, say: Callable[[str], None]
) -> tuple[Trial, ...]:
    """The forward pass by every engine in every precision that it has here, and in other batch
    sizes; first as it was asked for, which has its rate already."""
    size, precision = setting.options.batch_size, setting.precision
    factors = () if setting.is_slow(rate) else BATCH_FACTORS
    sizes = [max(1, int(size * factor)) for factor in factors]
    tried = [(engine, precision, size), *setting.others()]
    tried += [(engine, precision, other) for other in sizes]
    trials: list[Trial] = []
    features_BD = exact_BD

    def forward(extractor: Extractor, batch: tuple[Tensor, Tensor | None]) -> int:
        nonlocal features_BD
        features_BD, _ = extractor(*batch)
        return len(features_BD)

    for engine, precision, rows in dict.fromkeys(tried):
        try:
            int8 = precision == INT8 and not setting.model.architecture.program
            extractor = setting.int8() if int8 else setting.extractor(engine, precision, rows)
            work = partial(forward, extractor, setting.batch(rows))
            found = setting.rate(work) if trials else rate
            if not trials:
                work()
            cosine = (exact_BD[:rows] * features_BD[:size]).sum(dim=1).min()
        except (OptionError, EngineError, torch.OutOfMemoryError):
            continue  # the device has no such precision, the engine no such network; no memory
        say(f"forward by {engine}, {precision}, {rows} at once: {found:,.1f} images/s")
        trials.append(
            Trial(
                engine=engine,
                precision=precision,
                batch_size=rows,
                rate=found,
                cosine=float(cosine),
            )
        )
    return tuple(trials)


def _beside_the_peer(setting: _Setting, extractor: Extractor, rounds: int) -> BesideThePeer:
    """Both in short turns, on the same images and weights; the peers' in this process, which keeps
    freed memory for them too."""
    options = setting.options
    # Loaded anew: the extractor has laid out its weights in another order.
    network = load_model(
        options.checkpoints[0], options.model, options.input_size, options.choices()
    ).network
    images = PeerImages(setting.manifest, setting.preprocess)
    loader = DataLoader(images, options.batch_size, num_workers=setting.cores)
    features: list[Tensor] = []
    theirs = peer_loop(
        network.to(setting.device), loader, setting.cameras, setting.augmentation.flip, features
    )

    def peer() -> int:
        torch.set_num_threads(setting.cores)  # as it runs: all cores share one forward pass
        try:
            return next(theirs)
        finally:
            torch.set_num_threads(1)

    starts: tuple[Callable[[], Callable[[], int]], ...] = (
        lambda: _together(setting, extractor),
        lambda: peer,
    )
    sides = [Side(start, setting.seconds / 2) for start in starts]
    try:
        our_rates, peer_rates = in_turn([side.rate for side in sides], rounds)
    finally:
        for side in sides:
            side.release()
    mine, _ = extractor(setting.first.images_BCHW, setting.cameras_of(setting.first.rows))
    cosine = float((mine * features[0]).sum(dim=1).min())
    return BesideThePeer(ours=our_rates, theirs=peer_rates, cosine=cosine)

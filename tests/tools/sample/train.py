"""Trains the sample's OSNet x0.25 on rendered people and scores it on the sample.

    python train.py TRAIN SAMPLE OUT.pth.tar

TRAIN holds `bounding_box_train/`, SAMPLE `query/` and `bounding_box_test/`, as render.py writes
them.  An epoch of 6000 pictures takes half a minute on two CPU cores, two minutes at 256x128.
The file is torchreid's: state_dict with the classifier, epoch, rank1, optimizer (without its
moments, to stay small), scheduler.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from distreid.models.osnet import build_osnet

MODEL = "osnet_x0_25"
TEST_SIZE = 256, 128
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
NAME = re.compile(r"(-?\d+)_c(\d+)")
BATCH = 64
WEIGHT_DECAY = 0.02
SCALE = 16.0


@dataclass(frozen=True)
class Pictures:
    """pixels: (N, 3, H, W) uint8 RGB.  people, cameras: (N,) as the file names say."""

    pixels: Tensor
    people: NDArray[np.int64]
    cameras: NDArray[np.int64]


def load(folder: Path, size: tuple[int, int]) -> Pictures:
    """All JPEGs of a folder, resized to (height, width) as torchreid does for testing."""
    pixels, labels = [], []
    for file in sorted(folder.glob("*.jpg")):
        found = NAME.match(file.name)
        if found is None:
            raise ValueError(f"not a Market-1501 file name: {file}")
        labels.append((int(found[1]), int(found[2])))
        image = Image.open(file).convert("RGB")
        if image.size != size[::-1]:
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        pixels.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    people, cameras = np.array(labels, dtype=np.int64).reshape(-1, 2).T
    return Pictures(torch.stack(pixels), people, cameras)


def normalise(pixels: Tensor) -> Tensor:
    """Pixels 0..1 or uint8 to the network's input."""
    values = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
    values = (values - MEAN[:, None, None]) / STD[:, None, None]
    return values.contiguous(memory_format=torch.channels_last)


def augment(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """(N, 3, H, W) uint8 to 0..1: flip, shift, colour and brightness, random erasing."""
    count, _, height, width = pixels.shape

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=rng)

    values = pixels.float() / 255
    values = torch.where(uniform(0, 1, 1, 1, 1) < 0.5, values.flip(3), values)
    # Light and colour casts beyond the four cameras': the cast must not decide.
    values = values * uniform(0.7, 1.35, 1, 1, 1) * uniform(0.88, 1.12, 3, 1, 1)
    grey = values.mean(1, keepdim=True)
    values = grey + (values - grey) * uniform(0.7, 1.3, 1, 1, 1)
    values = (0.5 + (values - 0.5) * uniform(0.85, 1.15, 1, 1, 1)).clamp(0, 1)
    # Scaling and shifting as one resampling.
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = uniform(0.88, 1.08), uniform(0.88, 1.08)
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-0.12, 0.12), uniform(-0.08, 0.08)
    grid = F.affine_grid(theta, list(values.shape), align_corners=False)
    values = F.grid_sample(values, grid, padding_mode="border", align_corners=False)
    # Erasing, for half of them.
    tall, wide = uniform(0.1, 0.4) * height, uniform(0.2, 0.6) * width
    top, left = uniform(0, 0.9) * height, uniform(-0.1, 0.8) * width
    y, x = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    rows = (y >= top[:, None, None]) & (y < (top + tall)[:, None, None])
    columns = (x >= left[:, None, None]) & (x < (left + wide)[:, None, None])
    erased = rows & columns & (uniform(0, 1, 1, 1) < 0.5)
    return torch.where(erased[:, None], uniform(0, 1, 3, 1, 1), values)


def batches(count: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """One epoch: rows 0..count-1 in random order, whole batches only."""
    order = rng.permutation(count)
    for start in range(0, count - BATCH + 1, BATCH):
        yield order[start : start + BATCH]


def cosine_logits(features: Tensor, weight: Tensor) -> Tensor:
    """(N, people) scores by angle alone, which is what the test compares; bfloat16 in, float out.

    Trained from scratch on few pictures, this starts faster than plain inner products, and a
    triplet loss beside it only pulled all features together.
    """
    return SCALE * F.linear(F.normalize(features.float()), F.normalize(weight))


@torch.no_grad()
def extract(net: nn.Module, pictures: Pictures) -> NDArray[np.float32]:
    """(N, 512) test features of unit length (all-zero ones stay zero)."""
    net.eval()
    parts = [F.normalize(net(normalise(part))) for part in torch.split(pictures.pixels, 64)]
    features: NDArray[np.float32] = torch.cat(parts).numpy()
    return features


def evaluate(net: nn.Module, query: Pictures, gallery: Pictures) -> dict[str, float]:
    """Rank-1, -5, -10 and mAP in percent, the Market-1501 way.

    A query's own pictures from its own camera and junk (-1) are left out of its ranking;
    distractors (0000) stay in and match nobody.
    """
    similarity = extract(net, query) @ extract(net, gallery).T
    ranks, precisions = [], []
    for row, person, camera in zip(similarity, query.people, query.cameras, strict=True):
        own = gallery.people == person
        kept = ~(own & (gallery.cameras == camera)) & (gallery.people != -1)
        hits = own[kept][np.argsort(-row[kept], kind="stable")]
        places = np.flatnonzero(hits)
        if len(places):
            ranks.append(places[0])
            precisions.append(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
    scores = {f"rank{k}": 100 * float(np.mean(np.array(ranks) < k)) for k in (1, 5, 10)}
    return scores | {"mAP": 100 * float(np.mean(precisions))}


def said(scores: dict[str, float]) -> str:
    """Scores as one line."""
    return "  ".join(f"{name} {value:.1f}" for name, value in scores.items())


def initialise(net: nn.Module) -> None:
    """Weights to start from: He's for convolutions, small ones for linear layers."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("sample", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=Path, help="file of an earlier training to go on from")
    parser.add_argument("--epochs", type=int, default=20, help="at 128x64 pixels")
    parser.add_argument("--large-epochs", type=int, default=2, help="then, at 256x128")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="the highest one")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    augment_rng = torch.Generator().manual_seed(options.seed)
    batch_rng = np.random.default_rng(options.seed)

    query = load(options.sample / "query", TEST_SIZE)
    gallery = load(options.sample / "bounding_box_test", TEST_SIZE)
    net = build_osnet(MODEL)
    print(f"random weights, PyTorch's:  {said(evaluate(net, query, gallery))}")
    initialise(net)
    print(f"random weights, He's:       {said(evaluate(net, query, gallery))}", flush=True)
    if options.epochs + options.large_epochs == 0:
        return

    pictures = load(options.train / "bounding_box_train", (128, 64))
    names, labels = np.unique(pictures.people, return_inverse=True)
    targets = torch.from_numpy(labels.astype(np.int64))
    classifier = nn.Linear(512, len(names))
    nn.init.normal_(classifier.weight, 0, 0.01)
    nn.init.zeros_(classifier.bias)
    if options.start is not None:
        # torchreid's files hold a numpy number, which the weights_only loader refuses.
        start = torch.load(options.start, weights_only=False)["state_dict"]
        classifier.weight.data, classifier.bias.data = (
            start.pop(f"classifier.{name}") for name in ("weight", "bias")
        )
        net.load_state_dict(start)
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        [*net.parameters(), *classifier.parameters()],
        options.learning_rate,
        weight_decay=WEIGHT_DECAY,
    )
    epochs = options.epochs + options.large_epochs
    steps = len(labels) // BATCH
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=epochs * steps, pct_start=0.15
    )
    print(f"{len(labels)} pictures of {len(names)} people, {epochs} epochs of {steps} steps")

    begin, work = time.monotonic(), 0.0
    total_work = options.epochs + 4.0 * options.large_epochs
    print(f"about {total_work * len(labels) / 6000 * 0.5:.0f} minutes on two CPU cores", flush=True)
    scores: dict[str, float] = {}
    for epoch in range(1, epochs + 1):
        large = epoch > options.epochs
        net.train()
        losses, hits = [], 0
        for rows in batches(len(labels), batch_rng):
            pixels, people = pictures.pixels[rows], targets[rows]
            values = augment(pixels, augment_rng)
            if large:
                values = F.interpolate(values, TEST_SIZE, mode="bilinear", align_corners=False)
            with torch.autocast("cpu", torch.bfloat16):
                features = net(normalise(values))
            logits = cosine_logits(features, classifier.weight)
            loss = F.cross_entropy(logits, people, label_smoothing=0.1)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
            hits += int((logits.argmax(1) == people).sum())
        work += 4.0 if large else 1.0
        spent = time.monotonic() - begin
        line = (
            f"epoch {epoch}/{epochs}  loss {np.mean(losses):.3f}  "
            f"train accuracy {hits / (steps * BATCH):.2f}  "
            f"{spent:.0f} s, {spent / work * (total_work - work):.0f} s left"
        )
        if epoch % 4 == 0 or large:
            scores = evaluate(net, query, gallery)
            line += f"  |  sample: {said(scores)}"
        print(line, flush=True)

    scores = evaluate(net, query, gallery)
    state = net.state_dict() | {f"classifier.{k}": v for k, v in classifier.state_dict().items()}
    torch.save(
        {
            "state_dict": {name: value.contiguous() for name, value in state.items()},
            "epoch": epochs,
            "rank1": np.float32(scores["rank1"] / 100),
            "optimizer": {"state": {}, "param_groups": optimizer.state_dict()["param_groups"]},
            "scheduler": scheduler.state_dict(),
        },
        options.out,
    )
    print(f"{options.out}: {options.out.stat().st_size} bytes; {said(scores)}")


if __name__ == "__main__":
    main()

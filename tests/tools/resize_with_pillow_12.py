"""Makes tests/data/resize_pillow_12.json: what Pillow 12 makes of images of many sizes.

    python -m venv V && V/bin/pip install 'pillow<13'
    V/bin/python tests/tools/resize_with_pillow_12.py

Run by a Python that has Pillow 12 and nothing else of ours: 12 and 13 cannot be installed together,
and 13 resizes tall images in another order.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import PIL
from PIL import Image

FILE = Path(__file__).parent.parent / "data/resize_pillow_12.json"
FILTERS = ("bicubic", "bilinear", "lanczos", "box", "hamming")
INPUTS = ((256, 128), (384, 128), (224, 224), (160, 64))  # of networks, height × width
EXTREME = (
    ((1, 1), (256, 128)),
    ((1, 500), (256, 128)),
    ((500, 1), (256, 128)),
    ((5000, 3), (256, 128)),
    ((3, 5000), (256, 128)),
    ((2000, 1500), (2, 1)),
    ((7, 5), (1, 300)),
    ((7, 5), (300, 1)),
)
EACH = 80  # random sizes of each filter


def noise(seed: int, height: int, width: int) -> bytes:
    """The RGB bytes of a source. Every third is black and white, where filters overshoot."""
    data = hashlib.shake_256(str(seed).encode()).digest(3 * height * width)
    return bytes(255 * (value > 127) for value in data) if seed % 3 == 0 else data


def cases() -> Iterator[tuple[str, tuple[int, int], tuple[int, int]]]:
    """Filter, size of the source, size of the result."""
    draw = random.Random(0)
    for interpolation in FILTERS:
        for source, result in EXTREME:
            yield interpolation, source, result
        for number in range(EACH):
            source = draw.randint(1, 420), draw.randint(1, 300)
            result = (
                INPUTS[number % len(INPUTS)]
                if number % 2
                else (draw.randint(1, 300), draw.randint(1, 300))
            )
            yield interpolation, source, result


def main() -> None:
    """Writes the file."""
    if int(PIL.__version__.split(".")[0]) > 12:
        raise SystemExit(f"this is Pillow {PIL.__version__}; 12 or older is wanted")
    made = []
    for seed, (interpolation, source, result) in enumerate(cases()):
        image = Image.frombytes("RGB", (source[1], source[0]), noise(seed, *source))
        resized = image.resize((result[1], result[0]), Image.Resampling[interpolation.upper()])
        digest = hashlib.sha256(resized.tobytes()).hexdigest()
        made.append([seed, interpolation, *source, *result, digest[:16]])
    lines = ",\n".join(json.dumps(case) for case in made)
    FILE.write_text(f'{{"pillow": "{PIL.__version__}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()

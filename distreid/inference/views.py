"""Test-time augmentation: the views of an image whose features are summed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from distreid.errors import OptionError
from distreid.models.architecture import MOST_PIXELS


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Test-time augmentation: what is summed before the L2 norm."""

    flip: bool
    """Whether the mirror image is summed too."""
    scales: tuple[float, ...] = (1.0,)
    """Factors of the *area*: a side grows by √scale, as Person_reID_baseline_pytorch defines it."""
    scale_mode: str = "independent"
    """`independent`: each scale resizes the input. `compound`: each resizes the previous one's
    result, as Person_reID_baseline_pytorch's `--ms` loop does."""

    def identity(self) -> dict[str, Any]:
        """The description that a store carries."""
        return asdict(self)

    def check(self, height: int, width: int) -> None:
        """OptionError where a view of an input of that size has no pixel, or more than any network
        for crops of persons takes and than memory may hold."""
        scaled = 1.0
        for scale in self.scales:
            scaled = scale * (scaled if self.scale_mode == "compound" else 1.0)
            sides = [side * math.sqrt(scaled) for side in (height, width)]
            said = f"--scales {scale:g}: {sides[0]:,.0f}x{sides[1]:,.0f} pixels of {height}x{width}"
            if min(sides) < 1:
                raise OptionError(f"{said}; give a larger one")
            if math.prod(sides) > MOST_PIXELS:
                raise OptionError(f"{said}; at most {MOST_PIXELS:,} are taken, give a smaller one")

    def views(self, images_BCHW: Tensor, fixed_size: bool) -> Iterator[Tensor]:
        """The inputs whose features are summed, in the peer's order.

        With `fixed_size`, a scaled image is cropped or padded to the size it came in.
        """
        height, width = images_BCHW.shape[2:]
        for image in (images_BCHW, images_BCHW.flip(3)) if self.flip else (images_BCHW,):
            scaled = image
            for scale in self.scales:
                if scale != 1:
                    source = scaled if self.scale_mode == "compound" else image
                    scaled = F.interpolate(
                        source,
                        scale_factor=math.sqrt(scale),
                        mode="bicubic",
                        align_corners=False,
                    )
                elif self.scale_mode == "independent":
                    scaled = image
                yield centre(scaled, height, width) if fixed_size else scaled

    def passes(self, images_BCHW: Tensor, fixed_size: bool) -> list[list[Tensor]]:
        """The views of each size together, which can share a pass of the network."""
        found: dict[tuple[int, ...], list[Tensor]] = {}
        for view in self.views(images_BCHW, fixed_size):
            # As numbers, because a size that is traced equals no other; not the number of images,
            # which may be symbolic.
            found.setdefault(tuple(map(int, view.shape[1:])), []).append(view)
        return list(found.values())


def centre(images_BCHW: Tensor, height: int, width: int) -> Tensor:
    """Crops or pads the borders, the same on both sides, to height × width.

    An odd row or column more is cut or added below or on the right. The padding is 0,
    which in a normalised image is the mean colour.
    """
    down, right = height - images_BCHW.shape[2], width - images_BCHW.shape[3]
    # F.pad crops where an amount is negative; // rounds a cut up and a margin down.
    top, left = int(down / 2), int(right / 2)
    return F.pad(images_BCHW, (left, right - left, top, down - top))

"""How far features computed in another way are from those that torch computes in fp32."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distreid.host.counts import counted

LEAST_COSINE = 0.99999
"""Peers' features are promised to this cosine, by every engine in fp32."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """Of the same images."""

    largest: float
    """Of the differences, divided by the root of the mean square of the exact features."""
    cosine: float
    """The least."""
    rows: int
    """How many images were compared."""

    def describe(self, exact: str) -> str:
        """For people; `exact` names what was compared with."""
        return (
            f"on the first {counted(self.rows, 'image')} the largest difference from {exact} is "
            f"{self.largest:.0e} of the rms, the least cosine {self.cosine:.7f}"
        )


def drift(exact_BD: Tensor, found_BD: Tensor) -> Drift:
    """Of B features of norm 1; NaN where one of them is none."""
    exact, found = exact_BD.double(), found_BD.double()
    rms = exact.square().mean().sqrt()
    return Drift(
        largest=float((exact - found).abs().max() / rms),
        cosine=float((exact * found).sum(dim=1).min()),
        rows=len(exact),
    )

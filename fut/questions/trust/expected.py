"""What to expect of estimates on a window, by how much orders' changes interact there: read off settings that were measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

SCALE, POWER, SPREAD = 7.78, 2.113, 0.803
"""-log Spearman = SCALE · interaction^POWER, times or divided by exp(SPREAD) (one standard deviation): fitted to the settings of
`benchmarks/records/trust.json`, in which Spearman is that of the adjoint with 48 retrained orders each."""
LEAST = 0.0145
"""The least interaction that was measured: below it no more is promised than there."""
WIDTH = 1.645
"""Standard deviations on either side that a 90 % interval takes."""
GOOD, FAIR, WEAK = 0.97, 0.9, 0.7
"""Spearman from which a window is called smooth, usable, and rough."""


@dataclass(frozen=True)
class Expected:
    """Spearman's correlation that estimates are expected to have with retraining, and its 90 % interval over settings."""

    spearman: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """In a word: `smooth`, `usable`, `rough` or `do not trust`."""
        names = ("smooth", GOOD), ("usable", FAIR), ("rough", WEAK)
        return next((name for name, least in names if self.spearman >= least), "do not trust")


def expected(interaction: float) -> Expected:
    """By what two changes do beyond their sum, as a share of the way that training has moved (`Trust.interaction`)."""
    lost = SCALE * max(interaction, LEAST) ** POWER
    ends = (math.exp(-lost * math.exp(sign * WIDTH * SPREAD)) for sign in (0, 1, -1))
    return Expected(*ends)

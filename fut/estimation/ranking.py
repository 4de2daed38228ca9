"""Which of several estimates is best: one that is not finite, since its recursion diverged, never is."""

from __future__ import annotations

import math
from collections.abc import Sequence


def ranked(values: Sequence[float | None], maximize: bool = False) -> list[int]:
    """Places of the values from the best to the worst, equals in their sequence.

    Args:
        values: the lower the better. What is not finite, or None, comes last.
        maximize: the greater the better instead.
    """

    def key(place: int) -> tuple[bool, float]:
        value = values[place]
        known = value is not None and math.isfinite(value)
        return not known, (-value if maximize else value) if known and value is not None else 0.0

    return sorted(range(len(values)), key=key)


def best(values: Sequence[float | None], maximize: bool = False) -> int:
    """The place of the best value."""
    return ranked(values, maximize)[0]


def worst(values: Sequence[float | None], maximize: bool = False) -> int:
    """The place of the worst finite value; of the first where none is finite."""
    return ranked(values, not maximize)[0]

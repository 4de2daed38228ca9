"""Orders from the best to the worst that a table of positions knows: what a fit of chosen orders is made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .entries import Entries
from .epochs import epochs
from .order import Order

JITTER = 0.5
"""Standard deviation of the logarithms of the factors by which entries of the table are changed, so that extremes differ."""


def graded_order(reference: Order, table: NDArray[np.float64], grade: float, *seed: int) -> Order:
    """An order between a random one and the best or the worst under a jittered table of positions.

    The best order is a linear assignment of items to places, epoch by epoch; of its places a random share is permuted again.
    With several items a step an item is worth its mean share there.

    Args:
        reference: whose items are placed; steps keep their lengths, and weights travel with their items.
        table: what every item adds at every step [T, items].
        grade: from -1, the order of least sum, through 0, random, to 1, the order of greatest sum.
        seed: of the jitter and of the permutation.
    """
    draw, steps, first = np.random.default_rng(seed), list[Entries](), 0
    for part in epochs(reference.entries):
        pairs = [pair for step in part for pair in step]
        places = [first + step for step, entries in enumerate(part) for _ in entries]
        items, weights = [item for item, _ in pairs], np.array([weight for _, weight in pairs])
        worth = table[np.ix_(places, items)] * weights
        worth = (worth - worth.mean(1, keepdims=True)) * np.exp(JITTER * draw.standard_normal(worth.shape))
        placed = _assigned(worth if grade < 0 else -worth)
        loose = np.flatnonzero(draw.random(len(placed)) >= abs(grade))
        placed[loose] = placed[draw.permutation(loose)]
        drawn = iter([pairs[unit] for unit in placed.tolist()])
        steps += [tuple(sorted(next(drawn) for _ in entries)) for entries in part]
        first += len(part)
    return Order.of_entries(steps)


def _assigned(costs: NDArray[np.float64]) -> NDArray[np.int64]:
    """The unit at every place, of least cost [places, units]."""
    from scipy.optimize import linear_sum_assignment

    units: NDArray[np.int64] = linear_sum_assignment(costs)[1]
    return units.copy()

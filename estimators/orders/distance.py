"""How far an order is from the reference order, beside how far random orders are."""

from __future__ import annotations

from collections import defaultdict

from .epochs import epochs
from .order import Order

HALF = 2.0
"""Orders at least half as far as random ones are on average count as random."""


class Distance:
    """Spearman's footrule between an order and the reference order of T steps, relative to its mean over random orders.

    The footrule is the sum over placements of items of how many steps they moved. (Its mean over permutations of T places is
    (T² - 1)/3: Diaconis & Graham 1977.) What one order has and the other lacks counts as moved by T steps, by its weight: random
    orders, which a calibration is of, lack nothing.
    """

    def __init__(self, reference: Order) -> None:
        self.steps = max(len(reference), 1)
        self._placements = _placements(reference)
        self._places = {item: steps[0][0] for item, steps in self._placements.items()} if _plain(reference) else None
        places = self.steps / len(epochs(reference.entries))  # random orders are permuted epoch by epoch
        self._mean = sum(map(len, self._placements.values())) * (places**2 - 1) / (3 * places)

    def __call__(self, order: Order) -> float:
        """0 for the reference order, about 1 for random ones."""
        if self._places is not None and _plain(order) and self._places.keys() == {item for (item,) in order.steps}:
            return sum(abs(step - self._places[item]) for step, (item,) in enumerate(order.steps)) / (self._mean or 1.0)
        other, moved, gone = _placements(order), 0.0, 0.0
        for item in self._placements.keys() | other.keys():
            ours, theirs = self._placements.get(item, []), other.get(item, [])
            for (step, weight), (place, share) in zip(ours, theirs, strict=False):
                moved += abs(step - place)
                gone += abs(weight - share)
            gone += sum(weight for _, weight in [*ours[len(theirs) :], *theirs[len(ours) :]])
        total = moved + gone * self.steps
        return total / self._mean if self._mean else float(total > 0)

    def share(self, order: Order) -> float:
        """How much of what random orders have in common an order has: between 0 and 1, and 1 for all that are at least half as
        far as random ones."""
        return min(1.0, HALF * self(order))


def _plain(order: Order) -> bool:
    """Whether every step consumes one item, unweighted, and no two the same."""
    return order.weights is None and len({*order.steps}) == len(order) and all(len(step) == 1 for step in order.steps)


def _placements(order: Order) -> dict[int, list[tuple[int, float]]]:
    """Steps that consume each item, ascending, and its weight there; those of weight 0 left out."""
    placements: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for step, entries in enumerate(order.entries):
        for item, weight in entries:
            if weight > 0:
                placements[item].append((step, weight))
    return placements

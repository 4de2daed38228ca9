"""Arrangements: what a search moves about. A start order's units over its places, within constraints.

A *unit* is an occurrence of an item, a *place* a slot of a step; an arrangement is an array [n], the unit at every place.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from estimators.errors import OrderError
from estimators.orders.order import Order
from fut.questions.curriculum.constraints import Constraints

Units = NDArray[np.int64]
Floats = NDArray[np.float64]
MOVES = 8192
"""Neighbours of an arrangement that are listed; of more, a random choice."""


@dataclass(frozen=True)
class Arrangements:
    """Every order of the start order's items, over the places of its steps, that keeps to the constraints.

    OrderError for a start with weights or empty steps, and for constraints that no order meets. `start` need not keep to
    them itself: `first` is the arrangement next to it that does.
    """

    start: Order
    constraints: Constraints = field(default_factory=Constraints)

    def __post_init__(self) -> None:
        if self.start.weights is not None or not all(self.start.steps):
            raise OrderError(
                "search: expected a start order without weights, an item in every step, got one with "
                f"{'weights' if self.start.weights is not None else 'empty steps'}; start from another order"
            )
        self.constraints.check(self.items.tolist())

    @cached_property
    def items(self) -> Units:
        """Item of every unit [n]; units are numbered as they stand in the start order."""
        return np.array([item for step in self.start.steps for item in step], dtype=np.int64)

    @cached_property
    def steps(self) -> Units:
        """Step of every place [n]."""
        return np.repeat(np.arange(len(self.start)), [len(step) for step in self.start.steps])

    @cached_property
    def alike(self) -> list[Units]:
        """Units of every item that occurs more than once."""
        distinct, counts = np.unique(self.items, return_counts=True)
        return [np.flatnonzero(self.items == item) for item in distinct[counts > 1]]

    def order(self, arrangement: Units) -> Order:
        """As an order; a step's items ascending, as they have no order."""
        items = self.items[arrangement].tolist()
        ends = np.searchsorted(self.steps, np.arange(len(self.start) + 1)).tolist()
        return Order(tuple(tuple(sorted(items[a:b])) for a, b in pairwise(ends)))

    @cached_property
    def first(self) -> Units:
        return self.repair(np.arange(len(self.items)))

    def random(self, draw: np.random.Generator) -> Units:
        """A random arrangement, uniform where there are no constraints."""
        return self.repair(draw.permutation(len(self.items)))

    # --- values under a table

    def costs(self, table: Floats) -> Floats:
        """What every unit is worth at every place [places, units], from a table [T, items]: its share of the step's mean."""
        sizes = np.bincount(self.steps)[self.steps]
        return table[self.steps][:, self.items] / sizes[:, None]

    # --- constraints

    @cached_property
    def unit_of(self) -> dict[int, int]:
        """Unit of every item that constraints name."""
        return {int(item): unit for unit, item in enumerate(self.items) if int(item) in self.constraints.named}

    @cached_property
    def groups(self) -> list[list[int]]:
        """Units that stay together: the prefix, the blocks and lone units in between, the suffix."""
        of = self.constraints.group_of(self.constraints.named)
        groups: dict[Hashable, list[int]] = {"prefix": [self.unit_of[i] for i in self.constraints.prefix]}
        for unit, item in enumerate(self.items.tolist()):
            group = of.get(item, ("unit", unit))
            if group not in ("prefix", "suffix"):
                groups.setdefault(group, []).append(unit)
        groups["suffix"] = [self.unit_of[i] for i in self.constraints.suffix]
        return list(groups.values())

    @cached_property
    def group(self) -> Units:
        """Number of every unit's group [n]."""
        numbers = np.empty(len(self.items), dtype=np.int64)
        for number, units in enumerate(self.groups):
            numbers[units] = number
        return numbers

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Precedence between units, those within prefix and suffix left out: they are met."""
        ends = {0, len(self.groups) - 1}
        units = [(self.unit_of[a], self.unit_of[b]) for a, b in self.constraints.precedence]
        return [(a, b) for a, b in units if not {int(self.group[a]), int(self.group[b])} & ends]

    @cached_property
    def inner_pairs(self) -> list[tuple[int, int]]:
        """Those within a block."""
        return [(a, b) for a, b in self.pairs if self.group[a] == self.group[b]]

    @cached_property
    def outer_pairs(self) -> list[tuple[int, int]]:
        """Those between groups, as group numbers."""
        outer = {(int(self.group[a]), int(self.group[b])) for a, b in self.pairs}
        return sorted((a, b) for a, b in outer if a != b)

    def keeps(self, arrangements: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of m arrangements [m, n] keep to the constraints: [m]."""
        count, n = arrangements.shape
        places = np.empty_like(arrangements)
        np.put_along_axis(places, arrangements, np.broadcast_to(np.arange(n), (count, n)), axis=1)
        good = np.ones(count, dtype=bool)
        first, last = self.groups[0], self.groups[-1]
        for units, begin in ((first, 0), (last, n - len(last))):
            good &= (places[:, units] == np.arange(begin, begin + len(units))).all(axis=1)
        for units in self.groups[1:-1]:
            if len(units) > 1:
                good &= np.ptp(places[:, units], axis=1) == len(units) - 1
        for a, b in self.pairs:
            good &= places[:, a] < places[:, b]
        return good

    def repair(self, arrangement: Units) -> Units:
        """The arrangement itself where it keeps to the constraints; else one near by that does.

        Groups are placed by the mean place of their units, and units within a group by their own, each as soon as what
        must come before it is placed.
        """
        if not self.constraints:
            return arrangement
        places = np.argsort(arrangement).astype(float)
        inner = range(1, len(self.groups) - 1)
        keys = {number: float(places[self.groups[number]].mean()) for number in inner}
        repaired = list(self.groups[0])
        for number in _scheduled(keys, self.outer_pairs):
            units = self.groups[number]
            within = [(a, b) for a, b in self.inner_pairs if self.group[a] == number]
            repaired += _scheduled({u: float(places[u]) for u in units}, within)
        return np.array(repaired + self.groups[-1], dtype=np.int64)

    # --- neighbours

    def neighbours(self, arrangement: Units, draw: np.random.Generator, limit: int = MOVES) -> NDArray[np.int64]:
        """Arrangements one move away that keep to the constraints [m, n]: two groups swapped, one moved to another
        place, and the same with the units of a block. Moves within a step, which change nothing, are left out."""
        moves = [(level, *move) for level, starts in enumerate(self._levels(arrangement)) for move in _moves(starts)]
        if len(moves) > limit:
            moves = [moves[i] for i in np.sort(draw.choice(len(moves), limit, replace=False))]
        levels = list(self._levels(arrangement))
        moved = [_moved(arrangement, levels[level], i, j, swap) for level, i, j, swap in moves]
        if not moved:
            return np.empty((0, len(arrangement)), dtype=np.int64)
        rows: NDArray[np.int64] = np.stack(moved)
        differs = (self.steps[np.argsort(rows, axis=1)] != self.steps[np.argsort(arrangement)]).any(axis=1)
        rows = rows[differs]
        return rows[self.keeps(rows)] if self.pairs else rows

    def _levels(self, arrangement: Units) -> Iterator[list[int]]:
        """Boundaries of the segments that moves exchange: of groups between prefix and suffix, then of each block's units."""
        first, last = len(self.groups[0]), len(self.items) - len(self.groups[-1])
        groups = self.group[arrangement]
        cuts = [p for p in range(first, last) if p == first or groups[p] != groups[p - 1]]
        yield [*cuts, last]
        for begin, end in zip(cuts, [*cuts[1:], last], strict=True):
            if end - begin > 1:
                yield list(range(begin, end + 1))


def _moves(bounds: Sequence[int]) -> list[tuple[int, int, bool]]:
    """Every swap (i < j, True), and every move of segment i to place j (False) that is no swap of neighbours."""
    count = len(bounds) - 1
    swaps = [(i, j, True) for i in range(count) for j in range(i + 1, count)]
    return swaps + [(i, j, False) for i in range(count) for j in range(count) if abs(i - j) > 1]


def _moved(arrangement: Units, bounds: Sequence[int], i: int, j: int, swap: bool) -> Units:
    """Segments i and j of an arrangement exchanged, or segment i moved to where segment j is."""
    a, b = arrangement[bounds[i] : bounds[i + 1]], arrangement[bounds[j] : bounds[j + 1]]
    low, high = min(i, j), max(i, j)
    head, tail = arrangement[: bounds[low]], arrangement[bounds[high + 1] :]
    between = arrangement[bounds[low + 1] : bounds[high]]
    if swap:
        return np.concatenate([head, b, between, a, tail])
    parts = [head, between, b, a, tail] if i < j else [head, a, b, between, tail]
    return np.concatenate(parts)


def _scheduled(keys: dict[int, float], pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Keys' owners by ascending key, each after everything that must come before it."""
    waiting = {b: {a for a, c in pairs if c == b} for _, b in pairs}
    left, scheduled = sorted(keys, key=keys.__getitem__), list[int]()
    while left:
        following = next(u for u in left if not waiting.get(u, set()) - set(scheduled))
        left.remove(following)
        scheduled.append(following)
    return scheduled

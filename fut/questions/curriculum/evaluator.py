"""What a search spends: estimates of orders, counted, remembered, and stopped by a budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from estimators.orders.order import Order
from fut.questions.curriculum.arrangements import Arrangements, Floats, Units

Estimate = Callable[[Sequence[Order]], Sequence[float]]
"""(orders) -> values, the lower the better."""
BATCH = 64
"""Orders estimated together."""


@dataclass(frozen=True)
class Budget:
    """When a search ends: after so many evaluations, after so many seconds by the wall clock, or both.

    A search that evaluations alone end is the same whatever the machine; one that the clock ends is not. tick: called with how
    many orders have been estimated, after every batch.
    """

    evaluations: int | None = None
    seconds: float | None = None
    clock: Callable[[], float] = time.perf_counter
    tick: Callable[[int], object] = lambda count: None


@dataclass
class Evaluator:
    """Estimates of arrangements, each order asked for once; the best so far and the way to it.

    best: arrangement [n] of the least value. history: (evaluations, best value), an entry for every improvement.
    """

    space: Arrangements
    estimate: Estimate
    budget: Budget
    best: Units | None = None
    best_value: float = math.inf
    evaluations: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    seen: dict[Order, float] = field(default_factory=dict)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began, self.spent = self.budget.clock(), 0.0

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return self.budget.clock() - self.began

    @property
    def left(self) -> int:
        """Orders that may still be estimated, at most a batch: none once the budget is spent.

        Of a budget in seconds, as many as the time left is expected to do.
        """
        count = BATCH
        if self.budget.evaluations is not None:
            count = min(count, self.budget.evaluations - self.evaluations)
        if self.budget.seconds is not None:
            time_left = self.budget.seconds - self.seconds
            if self.evaluations == 0:
                count = min(count, 1)  # how long one takes is not known yet
            elif time_left <= 0:
                count = 0
            else:
                each = max(self.spent / self.evaluations, 1e-9)
                count = min(count, math.ceil(time_left / each))
        return max(count, 0)

    def fresh(self, rows: Sequence[Units] | NDArray[np.int64], count: int | None = None) -> list[Units]:
        """The first `count` of the arrangements whose orders have not been estimated, each order once."""
        fresh: dict[Order, Units] = {}
        for row in rows:
            if count is not None and len(fresh) >= count:
                break
            order = self.space.order(row)
            if order not in self.seen:
                fresh.setdefault(order, row)
        return list(fresh.values())

    def values(self, rows: Sequence[Units] | NDArray[np.int64]) -> Floats:
        """Values [m] of arrangements; infinite where the budget did not reach, or the estimate is not finite."""
        orders = [self.space.order(row) for row in rows]
        waiting = list(dict.fromkeys(order for order in orders if order not in self.seen))
        units = dict(zip(orders, rows, strict=True))
        while waiting and (count := self.left):
            batch, waiting = waiting[:count], waiting[count:]
            began = self.budget.clock()
            values = self.estimate(batch)
            self.spent += self.budget.clock() - began
            for order, value in zip(batch, values, strict=True):
                self._note(order, units[order], float(value))
            self.budget.tick(len(batch))
        return np.array([self.seen.get(order, math.inf) for order in orders])

    def _note(self, order: Order, row: Units, value: float) -> None:
        self.evaluations += 1
        self.seen[order] = value if math.isfinite(value) else math.inf
        if self.seen[order] < self.best_value:
            self.best, self.best_value = row, value
            self.history.append((self.evaluations, value))

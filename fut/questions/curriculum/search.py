"""Curriculum search: which order would have trained best? Pure functions of an `estimate(orders)` callable and a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from estimators.orders.order import Order
from fut.questions.curriculum.arrangements import Arrangements, Floats, Units
from fut.questions.curriculum.assignment import assign
from fut.questions.curriculum.constraints import Constraints
from fut.questions.curriculum.evaluator import Budget, Estimate, Evaluator
from fut.questions.curriculum.genetic import genetic
from fut.questions.curriculum.local_search import LocalSearch

METHODS = ("local", "genetic", "assignment")
APART = 0.25
"""Share of the steps in which any two finalists differ, at least."""


@dataclass(frozen=True)
class SearchResult:
    """Where a search came to. best: of least value (greatest, where that was sought); value: the estimate's, as it was searched.

    history: (evaluations, best value so far), an entry for every improvement. finalists: good orders that differ, `best`
    first, with their values.
    """

    best: Order
    value: float
    evaluations: int
    seconds: float
    history: list[tuple[int, float]]
    finalists: list[tuple[Order, float]]


def search(
    estimate: Estimate,
    start: Order,
    table: ArrayLike | None = None,
    *,
    method: str = "local",
    budget: Budget,
    seed: int = 0,
    constraints: Constraints | None = None,
    from_start: bool = False,
    maximize: bool = False,
    finalists: int = 1,
) -> SearchResult:
    """The order of least estimate that a budget finds, among the start order's items over its places, within constraints.

    table: first-order values of positions [T, items] in the estimate's unit, larger meaning a larger value; without one
    the search learns its own. method: `local` (see `local_search`), `genetic` (see `genetic`), or `assignment`, the best
    order under the table, estimated once. from_start: begin at `start`; else `local` begins at the assignment and `genetic`
    at random orders. maximize: seek the greatest.

    The same arguments give the same result, unless the clock ends the search. ValueError for an unknown method, a table of
    another shape, or no finite estimate within the budget; OrderError for what cannot be arranged.
    """
    if method not in METHODS:
        raise ValueError(f"search: expected a method among {', '.join(METHODS)}, got `{method}`; correct the name")
    space, sign = Arrangements(start, constraints or Constraints()), -1.0 if maximize else 1.0
    costs_by_item = _checked(table, len(start), int(space.items.max()) + 1, sign)
    evaluator = Evaluator(space, lambda orders: [sign * v for v in estimate(orders)], budget)
    draw, costs = np.random.default_rng([seed, 41]), space.costs(costs_by_item)
    if method == "assignment":
        evaluator.values([assign(space, costs)])
    elif method == "genetic":
        genetic(evaluator, [space.first] if from_start else [], draw)
    else:
        LocalSearch(evaluator, costs, draw).run([space.first if from_start or table is None else assign(space, costs)])
    if evaluator.best is None:
        raise ValueError(
            f"search: expected a finite estimate within the budget, got none of {evaluator.evaluations}; allow more "
            "evaluations or seconds, or use another estimator"
        )
    return _result(evaluator, evaluator.best, sign, finalists)


def _checked(table: ArrayLike | None, steps: int, items: int, sign: float) -> Floats:
    """Costs [T, items] from a table, of zeros where there is none; entries that are not finite cost more than all others."""
    values = np.zeros((steps, items)) if table is None else np.asarray(table, dtype=float)
    if values.ndim != 2 or len(values) != steps or values.shape[1] < items or not np.isfinite(values).any():
        raise ValueError(
            f"search: expected a finite table of {steps} steps and {items} items at least, got one of shape "
            f"{list(values.shape)}; take it from the same run"
        )
    costs, finite = sign * values, np.isfinite(values)
    if finite.all():
        return costs
    return np.where(finite, costs, costs[finite].max() + np.ptp(costs[finite]) + 1.0)


def _result(evaluator: Evaluator, arrangement: Units, sign: float, count: int) -> SearchResult:
    best, values = evaluator.space.order(arrangement), evaluator.seen
    ranked = [order for order in sorted(values, key=values.__getitem__) if math.isfinite(values[order])]
    finalists = [best, *(order for order in distinct(ranked, count) if order != best)][: max(count, 1)]
    return SearchResult(
        best,
        sign * evaluator.best_value,
        evaluator.evaluations,
        evaluator.seconds,
        [(evaluations, sign * value) for evaluations, value in evaluator.history],
        [(order, sign * values[order]) for order in finalists],
    )


def distinct(ranked: Sequence[Order], count: int) -> list[Order]:
    """The first `count` of the orders that differ from all chosen before them in at least APART of their steps."""
    different: list[Order] = []
    for order in ranked:
        if len(different) == count:
            break
        if all(_apart(order, other) >= APART for other in different):
            different.append(order)
    return different


def _apart(a: Order, b: Order) -> float:
    return sum(x != y for x, y in zip(a.steps, b.steps, strict=True)) / len(a)


def comparable(space: Arrangements, orders: Mapping[str, Order]) -> dict[str, Order]:
    """Those of the named orders that hold the same items in steps of the same length, brought within the constraints."""
    sizes = [len(step) for step in space.start.steps]
    return {
        name: space.order(space.repair(arrangement_of(space, order)))
        for name, order in orders.items()
        if order.multiset_digest == space.start.multiset_digest and [len(step) for step in order.steps] == sizes
    }


def arrangement_of(space: Arrangements, order: Order) -> Units:
    """The arrangement [n] behind an order of the space's items; of an item's several units, in their sequence."""
    units: dict[int, list[int]] = {}
    for unit, item in reversed(list(enumerate(space.items.tolist()))):
        units.setdefault(item, []).append(unit)
    return np.array([units[item].pop() for step in order.steps for item in step], dtype=np.int64)

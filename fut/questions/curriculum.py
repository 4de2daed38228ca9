"""Curriculum search: which order would have trained best? Pure functions of an `estimate(orders)` callable and a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from estimators.order import Order

from ..answers import jsonable, perplexity
from .arrangements import Arrangements, Units
from .assigning import assign
from .constraints import Constraints
from .evaluating import Budget, Estimate, Evaluator
from .genetic import genetic
from .local_search import LocalSearch

METHODS = ("local", "genetic", "assignment")
APART = 0.25
"""Share of the units that stand in other steps in any two finalists."""


@dataclass(frozen=True)
class Found:
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
    tick: Callable[[int], object] = lambda count: None,
) -> Found:
    """The order of least estimate that a budget finds, among the start order's items over its places, within constraints.

    table: first-order values of positions [T, items] in the estimate's unit, larger meaning a larger value; without one
    the search learns its own. method: `local` (see `local_search`), `genetic` (see `genetic`), or `assignment`, the best
    order under the table, estimated once. from_start: begin at `start`, in place of the assignment. maximize: seek the
    greatest. tick: told how many orders have just been estimated.

    The same arguments give the same result, unless the clock ends the search. ValueError for an unknown method or a spent budget
    that allows no evaluation, OrderError for what cannot be arranged.
    """
    if method not in METHODS:
        raise ValueError(f"search: expected a method among {', '.join(METHODS)}, got `{method}`; correct the name")
    space, sign = Arrangements(start, constraints or Constraints()), -1.0 if maximize else 1.0
    values = np.zeros((len(start), int(space.items.max()) + 1)) if table is None else np.asarray(table, dtype=float)
    evaluator = Evaluator(space, lambda orders: [sign * v for v in estimate(orders)], budget, tick)
    draw, costs = np.random.default_rng([seed, 41]), space.costs(sign * values)
    begin = space.first if from_start or table is None else assign(space, costs)
    if method == "assignment":
        evaluator.values([begin])
    elif method == "genetic":
        genetic(evaluator, [begin] if from_start else [], draw)
    else:
        LocalSearch(evaluator, costs, draw).run([begin])
    if evaluator.best is None:
        raise ValueError(
            f"search: expected a finite estimate within the budget, got none of {evaluator.evaluations}; allow more "
            "evaluations or seconds, or use another estimator"
        )
    return _found(evaluator, sign, finalists)


def _found(evaluator: Evaluator, sign: float, finalists: int) -> Found:
    assert evaluator.best is not None
    ranked = sorted(evaluator.seen.items(), key=lambda pair: pair[1])
    chosen = distinct([order for order, value in ranked if math.isfinite(value)], finalists)
    history = [(count, sign * value) for count, value in evaluator.history]
    best, values = evaluator.space.order(evaluator.best), evaluator.seen
    chosen = [best, *(order for order in chosen if order != best)][: max(finalists, 1)]
    return Found(
        best,
        sign * evaluator.best_value,
        evaluator.evaluations,
        evaluator.seconds,
        history,
        [(order, sign * values[order]) for order in chosen],
    )


def distinct(ranked: Sequence[Order], count: int) -> list[Order]:
    """The first `count` of the orders that differ from all chosen before them in at least APART of their steps."""
    chosen: list[Order] = []
    for order in ranked:
        if len(chosen) == count:
            break
        if all(_apart(order, other) >= APART for other in chosen):
            chosen.append(order)
    return chosen


def _apart(a: Order, b: Order) -> float:
    return sum(x != y for x, y in zip(a.steps, b.steps, strict=True)) / len(a)


def comparable(space: Arrangements, orders: Mapping[str, Order]) -> dict[str, Order]:
    """Those of the named orders that hold the same items in steps of the same length, brought within the constraints."""
    found = {}
    sizes = [len(step) for step in space.start.steps]
    for name, order in orders.items():
        same = order.multiset_digest == space.start.multiset_digest and [len(s) for s in order.steps] == sizes
        if same:
            found[name] = space.order(space.repair(arrangement_of(space, order)))
    return found


def arrangement_of(space: Arrangements, order: Order) -> Units:
    """The arrangement [n] behind an order of the space's items; of an item's several units, in their sequence."""
    units: dict[int, list[int]] = {}
    for unit, item in reversed(list(enumerate(space.items.tolist()))):
        units.setdefault(item, []).append(unit)
    return np.array([units[item].pop() for step in order.steps for item in step], dtype=np.int64)


@dataclass(frozen=True)
class Curriculum:
    """The best order that a search found, what is expected of it, and what really training in it gives.

    Losses are values of the read-out in `unit`; lower is better, unless `maximize`. order: item numbers, a list per step
    where steps hold several. estimated_loss, interval: of the order, by `estimator`, with the 90 % interval where it is
    calibrated; `note` says what the figures rest on. reevaluated_loss: by `reevaluated_by`, which had no part in the search.
    retrained_loss: the truth. random_losses: of random orders really retrained. heuristics: named orders really retrained,
    by name. finalists: good orders that differ, really retrained, the first of them the best by estimate; `order` is the
    best of them by retrained loss. history: (evaluations, best estimate so far, as it was searched: not calibrated).
    seconds: of the search alone. retraining_seconds: of all the retraining behind this answer, spent now or kept from
    earlier. retrain_seconds: of one order, on average. precompute_gradients: what the estimator cost before its first order.
    """

    order: list[Any]
    estimated_loss: float
    interval: tuple[float, float] | None
    note: str
    reevaluated_loss: float | None
    reevaluated_by: str | None
    reevaluated_note: str
    retrained_loss: float | None
    reference_loss: float
    random_losses: list[float]
    heuristics: dict[str, float]
    finalists: list[dict[str, Any]]
    history: list[tuple[int, float]]
    evaluations: int
    seconds: float
    retrain_seconds: float | None
    retraining_seconds: float
    precompute_gradients: int
    precompute_training_runs: float
    method: str
    estimator: str
    seed: int
    start: Any = None
    budget: dict[str, float | None] = field(default_factory=dict)
    constraints: dict[str, list[Any]] = field(default_factory=dict)
    maximize: bool = False
    readout: str = "probe"
    unit: str = "nats/token"

    @property
    def best_random_loss(self) -> float | None:
        """The best of the retrained random orders."""
        return self._best(self.random_losses)

    @property
    def mean_random_loss(self) -> float | None:
        return float(np.mean(self.random_losses)) if self.random_losses else None

    @property
    def random_sd(self) -> float | None:
        """The order noise: standard deviation of the retrained random orders."""
        return float(np.std(self.random_losses, ddof=1)) if len(self.random_losses) > 1 else None

    @property
    def best_heuristic(self) -> str | None:
        """The name of the best of the retrained named orders; of several that train the same, the first in the alphabet."""
        best = self._best(list(self.heuristics.values()))
        return min((name for name, loss in self.heuristics.items() if loss == best), default=None)

    @property
    def best_heuristic_loss(self) -> float | None:
        return self._best(list(self.heuristics.values()))

    def _best(self, losses: Sequence[float]) -> float | None:
        return (max(losses) if self.maximize else min(losses)) if losses else None

    @property
    def precompute_seconds(self) -> float | None:
        """What the estimator's terms cost at the speed of the retraining measured here: training runs times seconds of one."""
        return None if self.retrain_seconds is None else self.precompute_training_runs * self.retrain_seconds

    def gain(self, against: float | None) -> dict[str, float | None] | None:
        """How much better than another loss the found order retrained is (estimated, where nothing was retrained).

        value: in `unit`, positive is better. perplexity: the same in exp(loss); None for a read-out in another unit.
        """
        if against is None:
            return None
        own = self.estimated_loss if self.retrained_loss is None else self.retrained_loss
        sign = -1.0 if self.maximize else 1.0
        nats = self.unit == "nats/token"
        return {
            "value": sign * (against - own),
            "perplexity": sign * (perplexity(against) - perplexity(own)) if nats else None,
        }

    @property
    def gains(self) -> dict[str, dict[str, float | None] | None]:
        """Against the reference order, the random orders' mean and best, and the best named order."""
        others = {
            "reference": self.reference_loss,
            "mean_random": self.mean_random_loss,
            "best_random": self.best_random_loss,
            "best_heuristic": self.best_heuristic_loss,
        }
        return {name: self.gain(loss) for name, loss in others.items()}

    def as_dict(self) -> dict[str, Any]:
        nats = self.unit == "nats/token"
        shown = {n: perplexity(v) if nats and v is not None else None for n, v in self._perplexities()}
        derived = {
            "question": "search",
            "best_random_loss": self.best_random_loss,
            "mean_random_loss": self.mean_random_loss,
            "random_sd": self.random_sd,
            "best_heuristic": self.best_heuristic,
            "best_heuristic_loss": self.best_heuristic_loss,
            "precompute_seconds": self.precompute_seconds,
            "gain": self.gains,
        }
        return jsonable(asdict(self) | shown | derived)

    def _perplexities(self) -> list[tuple[str, float | None]]:
        return [
            ("perplexity", self.estimated_loss),
            ("retrained_perplexity", self.retrained_loss),
            ("reference_perplexity", self.reference_loss),
        ]

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Curriculum:
        """From `as_dict`."""
        return cls(**{f.name: content[f.name] for f in fields(cls) if f.name in content})

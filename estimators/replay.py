"""The one loop over steps. Training, retraining and every estimator run in it; they differ in the transition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from .errors import DivergenceError, RuleError
from .orders.order import Order
from .rules.base import Rule, next_state
from .rules.signals import SignalName, Signals, stacked
from .shapes import Bool, Float, Int
from .state import State


class Picks(NamedTuple):
    """What n runs consume at one step: items [n, c] and weights [n, c]; a weight of 0 pads a shorter step.

    plain: known to be one item each, with a weight of 1.
    """

    items: Int[Tensor, "n c"]
    weights: Float[Tensor, "n c"]
    plain: bool = False

    def row(self, n: int) -> Picks:
        """What run n consumes, as a single run."""
        return Picks(self.items[n : n + 1], self.weights[n : n + 1], self.plain)

    @property
    def lone(self) -> Bool[Tensor, " n"]:
        """Whether a run consumes one item alone, unscaled [n]."""
        return ((self.weights != 0).sum(1) == 1) & (self.weights.sum(1) == 1)

    def unique(self) -> list[int]:
        """The items that any of the runs consumes, ascending."""
        items: list[int] = torch.unique(self.items[self.weights != 0]).tolist()
        return items

    def combine(self, table: Float[Tensor, "items k"], rows: dict[int, int] | None = None) -> Float[Tensor, "n k"]:
        """Weighted sum over a step's items of rows of `table` [items, k]: [n, k].

        rows: row of the table for every item; None if the table holds every item. With one item per step the row comes
        back unchanged, bit for bit.
        """
        items = self.items if rows is None else _renumbered(self.items, rows)
        if self.plain:
            return table.index_select(0, items[:, 0])
        weights = self.weights.to(table)
        total = table[items[:, 0]] * weights[:, :1]
        for c in range(1, items.shape[1]):
            total = total + table[items[:, c]] * weights[:, c : c + 1]
        return total


def _renumbered(items: Tensor, rows: dict[int, int]) -> Tensor:
    flat = [rows.get(i, 0) for i in items.flatten().tolist()]
    return torch.tensor(flat, device=items.device).view(items.shape)


@dataclass(frozen=True)
class OrderBatch:
    """n orders of equal length, packed: items [n, steps, c], weights [n, steps, c] (each step's weights sum to 1)."""

    items: Int[Tensor, "n T c"]
    weights: Float[Tensor, "n T c"]

    @classmethod
    def pack(cls, orders: Sequence[Order], device: torch.device | str = "cpu") -> OrderBatch:
        """Pack orders of equal length in their canonical form; steps with fewer items are padded with weight 0."""
        if all(order.weights is None and set(map(len, order.steps)) == {1} for order in orders):
            alone = torch.tensor([order.steps for order in orders], dtype=torch.long, device=device)
            return cls(alone, torch.ones_like(alone, dtype=torch.float64))
        plain = [order.canonical().entries for order in orders]
        width = max((len(step) for entries in plain for step in entries), default=1) or 1
        items = [[_padded([i for i, _ in step], 0, width) for step in entries] for entries in plain]
        shares = [[_padded(_shares([w for _, w in step]), 0.0, width) for step in entries] for entries in plain]
        shape = (len(orders), len(orders[0]), width)
        return cls(
            torch.tensor(items, dtype=torch.long, device=device).view(shape),
            torch.tensor(shares, dtype=torch.float64, device=device).view(shape),
        )

    def __len__(self) -> int:
        return self.items.shape[0]

    @property
    def steps(self) -> int:
        return self.items.shape[1]

    @cached_property
    def plain(self) -> bool:
        """Whether every run consumes one item at every step, with a weight of 1."""
        return self.items.shape[-1] == 1 and bool((self.weights == 1).all())

    def at(self, step: int) -> Picks:
        return Picks(self.items[:, step], self.weights[:, step], self.plain)


def _padded(values: list[Any], filler: float, width: int) -> list[Any]:
    return values + [filler] * (width - len(values))


def _shares(weights: Sequence[float]) -> list[float]:
    """Positive weights as shares of their sum; exactly 1/n each where they are alike."""
    if len(set(weights)) == 1:
        return [1.0 / len(weights)] * len(weights)
    scaled = [w / max(weights) for w in weights]  # the sum of large weights would not be finite
    return [w / sum(scaled) for w in scaled]


def batches(orders: Sequence[Order], size: int) -> Iterator[tuple[list[int], list[Order]]]:
    """Groups of at most `size` orders of equal length, with their places in the sequence."""
    lengths = sorted({len(order) for order in orders})
    for length in lengths:
        places = [i for i, order in enumerate(orders) if len(order) == length]
        for first in range(0, len(places), size):
            group = places[first : first + size]
            yield group, [orders[i] for i in group]


Transition = Callable[[int, Picks, State], State]
"""One step of n runs at once: (step, what they consume, state) -> next state."""
Listener = Callable[[int, State], object]


def replay(
    transition: Transition, state: State, batch: OrderBatch, first: int = 0, listener: Listener | None = None
) -> State:
    """Run a batch of orders through a transition, from step `first` to the end of the orders.

    state: stacked state [n, ...] before step `first`. listener: called with (t + 1, state) after every step t.
    """
    for step in range(first, batch.steps):
        state = transition(step, batch.at(step), state)
        if listener is not None:
            listener(step + 1, state)
    return state


GradientsAndNorms = tuple[Float[Tensor, "n k"], Float[Tensor, " n"] | None]
"""Gradients of n runs [n, k], of all coordinates or of some, and their global norms [n]; None lets the rule compute these."""
Gradients = Callable[[int, Picks, Tensor], GradientsAndNorms]
"""Mean gradients of what n runs consume: (step, what they consume, theta [n, k]) -> gradients and norms."""


@runtime_checkable
class ItemSignals(Protocol):
    """Gradients that also say what a rule with `signals` needs: of one run at its theta [D], the mean gradient [D] of what it
    consumes, and the signals; RuleError for what it does not supply."""

    def signals(
        self, step: int, picks: Picks, theta: Float[Tensor, " D"], needed: frozenset[SignalName]
    ) -> tuple[Float[Tensor, " D"], Signals]: ...


@dataclass(frozen=True)
class RuleTransition:
    """The true update rule on the lifted state; only where the gradient comes from differs between its users.

    owned: whether nobody else holds the states that it is given, so that they may be overwritten.
    """

    rule: Rule
    rate: Callable[[int], float]
    gradients: Gradients
    owned: bool = False

    def __call__(self, step: int, picks: Picks, state: State) -> State:
        if needed := self.rule.needs(state.clock):
            return self._with_signals(step, picks, state, needed)
        gradient, norm = self.gradients(step, picks, state.theta)
        require_finite(step, gradient)
        return next_state(self.rule, state, gradient, self.rate(step), norm, owned=self.owned)

    def _with_signals(self, step: int, picks: Picks, state: State, needed: frozenset[SignalName]) -> State:
        """A step of a rule that needs more than the mean gradient, run by run."""
        if not isinstance(self.gradients, ItemSignals):
            raise RuleError(
                f"the rule `{self.rule.name}` needs {', '.join(sorted(needed))} of a step: expected gradients of its items, got "
                "their mean as it was cached; use --estimator retrain, which takes them"
            )
        rows = []
        for n, theta in enumerate(state.theta):
            gradient, signals = self.gradients.signals(step, picks.row(n), theta, needed)
            require_finite(step, gradient)
            rows.append(next_state(self.rule, state.row(n), gradient, self.rate(step), signals=signals))
        return rows[0].rows(1) if len(rows) == 1 else _stacked(rows)


def _stacked(rows: Sequence[State]) -> State:
    """The states of single runs as one."""
    memory = {name: torch.stack([row.memory[name] for row in rows]) for name in rows[0].memory}
    return State(torch.stack([row.theta for row in rows]), memory, rows[0].clock)


def require_finite(step: int, gradient: Tensor) -> None:
    """DivergenceError if a gradient holds NaN or infinity."""
    if not torch.isfinite(gradient.sum()) and not torch.isfinite(gradient).all():  # a sum is quick, but may overflow
        raise DivergenceError(
            f"step {step}: expected finite gradients, got NaN or infinity; lower the learning rate or clip"
        )


@dataclass(frozen=True)
class CachedGradients:
    """Replay of order 0: item gradients at the reference run's checkpoints, whatever the parameters have become.

    table: (step) -> [items, k], gradients g_i(theta_t). norms: (step) -> [items], their global norms where the table
    holds only some coordinates; with several items in a step the norm of the mean is estimated from the coordinates.
    weight: inverse of the probability with which a coordinate was kept, one number or [k].
    """

    table: Callable[[int], Tensor]
    norms: Callable[[int], Tensor] | None = None
    weight: Float[Tensor, " k"] | float = 1.0

    def __call__(self, step: int, picks: Picks, theta: Float[Tensor, "n k"]) -> GradientsAndNorms:
        gradient = picks.combine(self.table(step))
        if self.norms is None:
            return gradient, None
        stored = picks.combine(self.norms(step).unsqueeze(-1)).squeeze(-1)
        return gradient, sampled_norm(picks, gradient, stored, self.weight)


def sampled_norm(
    picks: Picks,
    gradient: Float[Tensor, "n k"],
    stored: Float[Tensor, " n"],
    weight: Float[Tensor, " k"] | Float[Tensor, ""] | float,
) -> Float[Tensor, " n"]:
    """Global norms [n] of step gradients [n, k] of which some coordinates are known: stored [n] where a run consumes one
    item alone, else estimated from the coordinates, run by run, whatever the others in the batch consume."""
    if picks.items.shape[1] == 1:
        return stored
    return torch.where(picks.lone, stored, (gradient.square() * weight).sum(-1).sqrt().to(stored.dtype))


ItemGradient = Callable[[Tensor, int], Tensor]
"""(theta [D], item) -> [D]."""
MeanGradient = Callable[[Tensor, Sequence[int], Sequence[float]], Tensor]
"""(theta [D], items, their weights) -> weighted sum of the items' gradients [D]."""


def consumed(
    theta: Float[Tensor, " D"], picks: Picks, gradient: ItemGradient, mean: MeanGradient | None
) -> Float[Tensor, "n D"]:
    """Gradients [n, D] of what n runs consume, at one theta [D]; a run's several items in one go where `mean` is given."""
    items = picks.unique()
    if mean is not None and items and not picks.lone.all():
        if len(picks.items) > 1:
            return torch.cat([consumed(theta, picks.row(n), gradient, mean) for n in range(len(picks.items))])
        pairs = zip(picks.items[0].tolist(), picks.weights[0].tolist(), strict=True)
        kept = [(i, w) for i, w in pairs if w]
        return mean(theta, [i for i, _ in kept], [w for _, w in kept])[None]
    rows = {item: row for row, item in enumerate(items)}
    table = torch.stack([gradient(theta, i) for i in items]) if items else torch.zeros_like(theta)[None]
    return picks.combine(table, rows)


@dataclass(frozen=True)
class CurvedGradients:
    """Replay of order 1 with exact curvature: g_i(theta_t) + H_i(theta_t) (gamma_t - theta_t), products at query time.

    The best first-order Taylor estimate about one order, at several times the cost of retraining: the slow oracle.
    reference: (step) -> theta_t [D]. product: (theta, item, direction) -> [D]. gradient, mean: as in `TrueGradients`.
    """

    reference: Callable[[int], Tensor]
    gradient: ItemGradient
    product: Callable[[Tensor, int, Tensor], Tensor]
    mean: MeanGradient | None = None

    def __call__(self, step: int, picks: Picks, theta: Float[Tensor, "n k"]) -> GradientsAndNorms:
        base = self.reference(step)
        gradient = consumed(base, picks, self.gradient, self.mean).clone()
        for n in range(len(theta)):
            delta = theta[n] - base
            if not delta.any():
                continue
            for item, weight in zip(picks.items[n].tolist(), picks.weights[n].tolist(), strict=True):
                if weight:
                    gradient[n] += weight * self.product(base, item, delta)
        return gradient, None

    def signals(
        self, step: int, picks: Picks, theta: Float[Tensor, " D"], needed: frozenset[SignalName]
    ) -> tuple[Float[Tensor, " D"], Signals]:
        """As `TrueGradients`; no curvature, whose own change along delta no product gives."""
        base = self.reference(step)
        delta = theta - base

        def moved(_: Tensor, item: int) -> Tensor:
            own = self.gradient(base, item)
            return own + self.product(base, item, delta) if delta.any() else own

        return item_signals(picks, theta, needed, moved)


@dataclass(frozen=True)
class TrueGradients:
    """Training: gradients at the runs' own parameters. gradient: (theta, item) -> [D].

    mean: (theta, items, weights) -> their weighted sum [D], for steps of several items; None takes them one by one.
    curvature: (theta, item) -> [D], an estimated diagonal of the item's Hessian, for rules that need one; None refuses these.
    """

    gradient: ItemGradient
    mean: MeanGradient | None = None
    curvature: ItemGradient | None = None

    def __call__(self, step: int, picks: Picks, theta: Float[Tensor, "n k"]) -> GradientsAndNorms:
        rows = [consumed(theta[n], picks.row(n), self.gradient, self.mean) for n in range(len(theta))]
        return torch.cat(rows), None

    def signals(
        self, step: int, picks: Picks, theta: Float[Tensor, " D"], needed: frozenset[SignalName]
    ) -> tuple[Float[Tensor, " D"], Signals]:
        """The step's items one by one: their mean, and of each what is needed."""
        return item_signals(picks, theta, needed, self.gradient, self.curvature)


def item_signals(
    picks: Picks,
    theta: Float[Tensor, " D"],
    needed: frozenset[SignalName],
    gradient: ItemGradient,
    curvature: ItemGradient | None = None,
) -> tuple[Float[Tensor, " D"], Signals]:
    """Mean gradient [D] of one run's step at theta [D], and the signals of its items.

    Raises:
        RuleError: for items of different weight, or a curvature that nothing supplies.
    """
    kept = picks.weights[0] != 0
    items, weights = picks.items[0][kept].tolist(), picks.weights[0][kept].tolist()
    if not items or len(set(weights)) > 1:
        raise RuleError(
            f"a rule that needs the items of a step: expected items of equal weight, got weights {weights}; use orders without "
            "weights and empty steps"
        )
    if "curvature" in needed and curvature is None:
        raise RuleError(
            "a rule that needs the curvature of a step's items: expected a source of it, got gradients alone; use --estimator "
            "retrain, or TrueGradients(..., curvature=...)"
        )
    table = [gradient(theta, item) for item in items]
    mean = picks.combine(torch.stack(table), {item: row for row, item in enumerate(items)})[0]
    probed = curvature if "curvature" in needed else None
    return mean, Signals(stacked(table), None if probed is None else stacked([probed(theta, item) for item in items]))

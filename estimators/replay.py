"""The one loop over steps. Training, retraining and every estimator run in it; they differ in the transition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .errors import DivergenceError
from .order import Order
from .rule import Rule
from .state import State


class Picks(NamedTuple):
    """What n runs consume at one step: items [n, c] and weights [n, c]; a weight of 0 pads a shorter step."""

    items: Tensor
    weights: Tensor

    def unique(self) -> list[int]:
        """The items that any of the runs consumes, ascending."""
        return torch.unique(self.items[self.weights != 0]).tolist()

    def combine(self, table: Tensor, rows: dict[int, int] | None = None) -> Tensor:
        """Weighted sum over a step's items of rows of `table` [items, k]: [n, k].

        rows: row of the table for every item; None if the table holds every item. With one item per step the row comes
        back unchanged, bit for bit.
        """
        items = self.items if rows is None else _renumbered(self.items, rows)
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

    items: Tensor
    weights: Tensor

    @classmethod
    def pack(cls, orders: Sequence[Order], device: torch.device | str = "cpu") -> OrderBatch:
        """Pack orders of equal length; steps with fewer items are padded with weight 0."""
        steps, width = len(orders[0]), max((len(s) for o in orders for s in o.steps), default=1) or 1
        items = torch.zeros(len(orders), steps, width, dtype=torch.long)
        weights = torch.zeros(len(orders), steps, width, dtype=torch.float64)
        for n, order in enumerate(orders):
            for t, step in enumerate(order.steps):
                items[n, t, : len(step)] = torch.tensor(step, dtype=torch.long)
                weights[n, t, : len(step)] = 1.0 / len(step) if step else 0.0
        return cls(items.to(device), weights.to(device))

    def __len__(self) -> int:
        return self.items.shape[0]

    @property
    def steps(self) -> int:
        return self.items.shape[1]

    def at(self, step: int) -> Picks:
        return Picks(self.items[:, step], self.weights[:, step])


def batches(orders: Sequence[Order], size: int) -> Iterator[tuple[list[int], list[Order]]]:
    """Groups of at most `size` orders of equal length, with their places in the sequence."""
    lengths = sorted({len(order) for order in orders})
    for length in lengths:
        places = [i for i, order in enumerate(orders) if len(order) == length]
        for first in range(0, len(places), size):
            chosen = places[first : first + size]
            yield chosen, [orders[i] for i in chosen]


class Transition(Protocol):
    """One step of n runs at once: (step, what they consume, state) -> next state."""

    def __call__(self, step: int, picks: Picks, state: State) -> State: ...


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


class Gradients(Protocol):
    """Mean gradient of what n runs consume at a step, at their parameters theta [n, D].

    Returns the gradients [n, D] (or on the sketch's coordinates [n, k]) and their global norms [n]; None for norms lets
    the rule compute them.
    """

    def __call__(self, step: int, picks: Picks, theta: Tensor) -> tuple[Tensor, Tensor | None]: ...


@dataclass(frozen=True)
class RuleTransition:
    """The true update rule on the lifted state; only where the gradient comes from differs between its users."""

    rule: Rule
    rate: Callable[[int], float]
    gradients: Gradients

    def __call__(self, step: int, picks: Picks, state: State) -> State:
        gradient, norm = self.gradients(step, picks, state.theta)
        if not torch.isfinite(gradient).all():
            raise DivergenceError(
                f"step {step}: expected finite gradients, got NaN or infinity; lower the learning rate or clip"
            )
        return self.rule.step(state, gradient, self.rate(step), norm)[0]


@dataclass(frozen=True)
class CachedGradients:
    """Replay of order 0: item gradients at the reference run's checkpoints, whatever the parameters have become.

    table: (step) -> [items, k], gradients g_i(theta_t). norms: (step) -> [items], their global norms where the table
    holds only some coordinates; with several items in a step the norm of the mean is estimated from the coordinates.
    weight: inverse of the probability with which a coordinate was kept, one number or [k].
    """

    table: Callable[[int], Tensor]
    norms: Callable[[int], Tensor] | None = None
    weight: Tensor | float = 1.0

    def __call__(self, step: int, picks: Picks, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        gradient = picks.combine(self.table(step))
        if self.norms is None:
            return gradient, None
        if picks.items.shape[1] == 1:
            return gradient, picks.combine(self.norms(step).unsqueeze(-1)).squeeze(-1)
        return gradient, (gradient.square() * self.weight).sum(-1).sqrt()


@dataclass(frozen=True)
class CurvedGradients:
    """Replay of order 1 with exact curvature: g_i(theta_t) + H_i(theta_t) (gamma_t - theta_t), products at query time.

    The best first-order Taylor estimate about one order, at several times the cost of retraining: the slow oracle.
    reference: (step) -> theta_t [D]. gradient: (theta, item) -> [D]. product: (theta, item, direction) -> [D].
    """

    reference: Callable[[int], Tensor]
    gradient: Callable[[Tensor, int], Tensor]
    product: Callable[[Tensor, int, Tensor], Tensor]

    def __call__(self, step: int, picks: Picks, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        base, items = self.reference(step), picks.unique()
        rows = {item: row for row, item in enumerate(items)}
        table = torch.stack([self.gradient(base, i) for i in items]) if items else torch.zeros_like(base)[None]
        gradient = picks.combine(table, rows)
        for n in range(len(theta)):
            delta = theta[n] - base
            if not delta.any():
                continue
            for item, weight in zip(picks.items[n].tolist(), picks.weights[n].tolist(), strict=True):
                if weight:
                    gradient[n] += weight * self.product(base, item, delta)
        return gradient, None


@dataclass(frozen=True)
class TrueGradients:
    """Training: gradients at the runs' own parameters. gradient: (theta, item) -> [D]."""

    gradient: Callable[[Tensor, int], Tensor]

    def __call__(self, step: int, picks: Picks, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        result = []
        for n in range(len(theta)):
            own = Picks(picks.items[n : n + 1], picks.weights[n : n + 1])
            items = own.unique()
            rows = {item: row for row, item in enumerate(items)}
            table = torch.stack([self.gradient(theta[n], i) for i in items]) if items else torch.zeros_like(theta[:1])
            result.append(own.combine(table, rows))
        return torch.cat(result), None

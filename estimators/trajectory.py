"""The order-averaged trajectory of the lifted state: the point about which the adjoint estimator expands.

Expanding about one order adds a random term that is linear in the order; the average over orders has none. Two averages:
of the *transition* over a few items, step by step, so that Adam's second moment carries mean(g²) and not (mean g)²; or of
whole runs under a few orders (`ensemble_orders`), whose spread says where runs go: curvature averaged there is the slope of
the best linear fit to a response that bends (for normal displacements E[f'(x)], Stein 1981), and not the tangent in the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .errors import OrderError
from .orders.epochs import epochs
from .orders.order import Order, random_order
from .replay import Picks
from .rules.base import Rule, next_state
from .state import State


def balanced_mixture(reference: Order, count: int, seed: int) -> Order:
    """`count` distinct items for every step, drawn at random, each as often as any other over the window.

    With `count` times the window's steps not a multiple of the number of items, frequencies differ by one at most.
    """
    items = sorted({i for step in reference.canonical().steps for i in step})
    if not 1 <= count <= len(items):
        raise OrderError(f"adjoint.num_runs: expected a mixture of 1..{len(items)} items a step, got {count}; lower it")
    draw, pool, steps = np.random.default_rng([seed, 7]), list[int](), []
    for _ in reference.steps:
        step: list[int] = []
        for _ in range(count):
            while all(i in step for i in pool):  # what is left of the pool, if anything, stands in this step already
                pool += [items[i] for i in draw.permutation(len(items))]
            fresh = next(i for i in pool if i not in step)
            pool.remove(fresh)
            step.append(fresh)
        steps.append(tuple(step))
    return Order(tuple(steps))


def balanced_groups(reference: Order, count: int, size: int, seed: int) -> list[list[tuple[int, ...]]]:
    """`count` groups of `size` distinct items for every step, each item as often as any other over the window.

    A group stands for what a step consumes, so that the centre's second moment carries the squared mean of a step's
    gradients and not of single items'. With one item to a group, the groups of a step are distinct too.
    """
    if size == 1:
        return [[(item,) for item in step] for step in balanced_mixture(reference, count, seed).steps]
    drawn = balanced_mixture(Order(reference.steps * count), size, seed).steps
    return [list(drawn[first : first + count]) for first in range(0, len(drawn), count)]


def ensemble_orders(reference: Order, count: int, seed: int) -> list[Order]:
    """`count` orders over which every step of a random one occurs once in every `count`-th part of the window.

    Each alone is a uniformly random order; together they are a Latin design: parts of the window change places in turn, and
    steps are shuffled within each; in a window of several epochs, in each by itself. Beyond as many as the window has steps, the
    design begins again with another random order. Steps that differ in length move whole.
    """
    orders: list[Order] = []
    while len(orders) < count:
        passes = epochs(random_order(reference, seed, 19, len(orders)).entries)
        rows = min(count - len(orders), len(passes[0]))
        draw = np.random.default_rng([seed, 23, len(orders)])
        orders += [
            Order.of_entries(steps[i] for steps in passes for i in _turned(len(steps), row, rows, draw))
            for row in range(rows)
        ]
    return orders


def _turned(steps: int, row: int, rows: int, draw: np.random.Generator) -> list[int]:
    """The numbers of so many steps in `rows` parts, which begin with part `row`, each shuffled."""
    parts = np.array_split(np.arange(steps), rows)
    return [int(i) for part in range(rows) for i in draw.permutation(parts[(part + row) % rows])]


def standing_in(reference: Order, seed: int, number: int) -> Order:
    """A random order that stands in the place of one of an ensemble's; number: at least the ensemble's count."""
    return random_order(reference, seed, 29, number)


@dataclass(frozen=True)
class CentreTransition:
    """One step of the centre, a single run (n = 1): the mean over the step's items of the rule's next state.

    gradient: (step, theta [D], item) -> [D].
    """

    rule: Rule
    rate: Callable[[int], float]
    gradient: Callable[[int, Tensor, int], Tensor]

    def __call__(self, step: int, picks: Picks, state: State) -> State:
        here, items = state.row(0), [int(i) for i in picks.items[0]]
        after = [next_state(self.rule, here, self.gradient(step, here.theta, i), self.rate(step)) for i in items]
        return mean_state(after).rows(1)


def mean_state(states: list[State]) -> State:
    """The mean of lifted states with equal clocks, buffer by buffer."""
    first, n = states[0], len(states)
    theta = torch.stack([s.theta for s in states]).sum(0) / n
    memory = {k: torch.stack([s.memory[k] for s in states]).sum(0) / n for k in first.memory}
    return State(theta, memory, first.clock)

"""Weights of items in the mean of their step (`data.weights`), as numbers of counted tokens: for every order, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from estimators.orders.order import Order
from fut.config.training import TrainingConfig


class Trained(Protocol):
    """What is trained, as far as weights go; `fut.training.problem.Problem` is one."""

    @property
    def config(self) -> TrainingConfig:
        """All that decides the numbers."""

    def canonical(self, order: Order) -> Order:
        """The one form of all orders that train on the same content at every step."""


def item_weights(config: TrainingConfig) -> Sequence[float]:
    """Of every item; empty where all are alike, or every step has one item."""
    return config.data.weights if config.data.per_step > 1 else ()


def weighed(problem: Trained, order: Order) -> Order:
    """The canonical form of an order with the items' own weights taken into those that it gives: what is trained on."""
    canonical, weights = problem.canonical(order), item_weights(problem.config)
    if not weights:
        return canonical
    return Order.of_entries([(i, w * weights[i]) for i, w in step] for step in canonical.entries)


def shares(config: TrainingConfig, items: Sequence[int]) -> list[float]:
    """What items add to the mean of a step of theirs; they sum to 1."""
    of_all = item_weights(config)
    weights = [of_all[i] for i in items] if of_all else [1.0] * len(items)
    if len(set(weights)) == 1:
        return [1.0 / len(items)] * len(items)
    return [weight / sum(weights) for weight in weights]

"""Orders that diverge while they are trained: named, and left out by what trains many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from estimators.errors import DivergenceError
from estimators.orders.order import Order

T = TypeVar("T")
SHOWN = 8
"""Steps of an order that are written out in a message."""


def named(order: Order) -> str:
    """An order in words: the beginning of its digest, and its first steps."""
    steps = [step[0] if len(step) == 1 else list(step) for step in order.steps[:SHOWN]]
    written = ", ".join(map(str, steps)) + (", …" if len(order) > SHOWN else "")
    return f"{order.digest[:12]} ([{written}])"


def trained_apart(orders: Iterable[Order], train: Callable[[Order], T]) -> tuple[dict[Order, T], list[Order]]:
    """What training gives of each order, and the orders that diverge."""
    found: dict[Order, T] = {}
    diverged: list[Order] = []
    for order in orders:
        try:
            found[order] = train(order)
        except DivergenceError:
            diverged.append(order)
    return found, diverged


def require_trained(question: str, count: int, diverged: Sequence[Order], least: int = 2) -> None:
    """DivergenceError, in the question's name, where fewer than `least` of all orders train. count: how many do."""
    if diverged and count < least:
        raise DivergenceError(
            f"{question}: expected at least {least} orders that train, got {count}; {divergence_note(count, diverged)}; lower "
            "schedule.rate or set rule.options.clip"
        )


def divergence_note(count: int, diverged: Sequence[Order]) -> str:
    """What is to be said of orders that were left out. count: how many trained."""
    return (
        f"{len(diverged)} of {count + len(diverged)} orders diverged when they were retrained, and are left out: "
        f"{listed(diverged)}"
    )


def listed(orders: Sequence[Order]) -> str:
    """A few orders in words, and how many more there are."""
    return ", ".join(map(named, orders[:3])) + (f" and {len(orders) - 3} more" if len(orders) > 3 else "")

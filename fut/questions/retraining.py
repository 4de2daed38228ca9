"""What questions that retrain orders have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from estimators.errors import DivergenceError
from estimators.orders.order import Order
from fut.estimation.calibration import brief
from fut.questions.context import QuestionContext

LEAST = 3
"""Retrained orders below which nothing is fitted or compared."""
T = TypeVar("T")


def retraining(context: QuestionContext, count: int) -> str:
    """What retraining that many orders costs, in a line."""
    run = context.run
    return f"retraining at most {count} orders of {run.steps} steps, {count * run.consumed} gradients"


def each_trained(orders: Iterable[Order], train: Callable[[Order], T]) -> tuple[dict[Order, T], dict[Order, str]]:
    """What training every order gives, each once, and the orders whose training diverged, with the reason; the others go on.

    Args:
        orders: to train.
        train: order -> what is known after it; DivergenceError where its training diverges.
    """
    trained: dict[Order, T] = {}
    diverged: dict[Order, str] = {}
    for order in dict.fromkeys(orders):
        try:
            trained[order] = train(order)
        except DivergenceError as error:
            diverged[order] = str(error)
    return trained, diverged


def require_trained(question: str, trained: Mapping[Order, object], diverged: Mapping[Order, str], least: int) -> None:
    """DivergenceError, naming the orders, where too few are left."""
    if diverged and len(trained) < least:
        raise DivergenceError(
            f"{question}: expected at least {least} orders that train, got {len(trained)}; {diverged_note(diverged)}; lower "
            "schedule.rate, or ask for more orders"
        )


def diverged_note(diverged: Mapping[Order, str]) -> str:
    """Which orders diverged and are left out, in words; empty for none."""
    if not diverged:
        return ""
    named = ", ".join(brief(order) for order in diverged)
    return f"training diverged in {len(diverged)} of the orders, which are left out: {named} ({next(iter(diverged.values()))})"

"""What could be learnt of a run's orders from retrained ones alone, without any method: the sceptic's baseline."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from estimators.orders.order import Order
from estimators.surrogate import Floats, learn, placement_kernels
from fut.data.similarity import number_vectors, token_vectors
from fut.errors import FutError
from fut.methods.adjoint.estimator import Adjoint

if TYPE_CHECKING:
    from fut.methods.context import Context

LEAST = 16
"""Orders from whose half anything can be learnt of placements."""
LARGEST = 1 << 25
"""Numbers of all orders' placements, above which nothing is learnt: a few copies of them are in memory at once."""
BY_ITEM, BY_CONTENT, BY_GRADIENT = "each item by itself", "items by content", "items by gradient"


def item_similarities(context: Context) -> dict[str, Floats]:
    """Likeness of items by name: every item is like itself alone; by cosine of what it holds; by gradient, where the run has an
    expansion that knows it."""
    eye = np.eye(context.items)
    found = {BY_ITEM: eye}
    try:
        first = [np.asarray(item[0].cpu()) for item in context.problem.data.items]
        alike = (number_vectors if first[0].dtype.kind == "f" else token_vectors)(first)
        found[BY_CONTENT] = (eye + alike) / 2
    except (ValueError, IndexError, TypeError):  # neither tokens nor samples of numbers, or of a type that numpy lacks
        pass
    with suppress(FutError):  # not cached, or beyond this machine's memory
        found[BY_GRADIENT] = Adjoint(context).item_likeness()
    return found


def halves_learnt(
    context: Context, orders: Sequence[Order], truths: Sequence[float]
) -> list[NDArray[np.float64]] | None:
    """The read-out of every other order as learnt from the rest, and of the rest as learnt from these: two lists.

    None for fewer than LEAST orders, orders of several lengths, or too many placements.
    """
    steps = {len(order) for order in orders}
    if len(orders) < LEAST or len(steps) > 1 or len(orders) * context.steps * context.items > LARGEST:
        return None
    rates = [context.problem.rate(step) for step in range(steps.pop())]
    kernels = placement_kernels(orders, rates, item_similarities(context))
    places, values = np.arange(len(orders)), np.asarray(truths, dtype=float)
    halves = places[0::2], places[1::2]
    return [
        learn(kernels, values[known].tolist(), known.tolist()).values[asked] for asked, known in (halves, halves[::-1])
    ]

"""Estimates of many orders, in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Sequence

from estimators.orders.order import Order
from estimators.replay import batches
from fut.methods.base import Estimator


def batch_size(width: int, budget: int = 1 << 28) -> int:
    """Orders replayed at once, so that a batch's state of `width` numbers and three buffers fits in `budget` numbers."""
    return max(1, min(256, budget // (6 * max(width, 1))))


def raw_estimates(estimator: Estimator, orders: Sequence[Order]) -> tuple[list[float], list[float]]:
    """Uncalibrated values of the read-out for checked orders, and the variance of each over a sample of coordinates."""
    losses, variances = [0.0] * len(orders), [0.0] * len(orders)
    orders = estimator.seen(orders)
    for places, batch in batches(orders, batch_size(estimator.width())):
        positions = estimator.final_states(batch)
        found = zip(estimator.values(positions, len(batch[0])), estimator.variances(positions), strict=True)
        for place, (loss, variance) in zip(places, found, strict=True):
            losses[place], variances[place] = loss, variance
    return losses, variances

"""Orders between the best and the worst under a table: graded, of the same items, within their epochs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from estimators.orders.graded import graded_order
from estimators.orders.order import Order

STEPS = 24
TABLE = np.random.default_rng(1).normal(size=(STEPS, STEPS))
REFERENCE = Order.of(range(STEPS))


def worth(order: Order) -> float:
    return float(sum(TABLE[step, item] for step, items in enumerate(order.steps) for item in items))


def test_grades_go_from_the_best_to_the_worst() -> None:
    means = [
        np.mean([worth(graded_order(REFERENCE, TABLE, grade, seed)) for seed in range(8)])
        for grade in (-1, -0.5, 0, 0.5, 1)
    ]
    assert np.all(np.diff(means) > 0)
    best = TABLE[linear_sum_assignment(TABLE)].sum()
    assert best < means[0] < 0.7 * best, "the jitter costs a part"


def test_extreme_orders_differ_by_seed_and_the_same_seed_gives_the_same() -> None:
    orders = [graded_order(REFERENCE, TABLE, -1, 3, i) for i in range(6)]
    assert len(set(orders)) == 6
    assert orders[2] == graded_order(REFERENCE, TABLE, -1, 3, 2)
    assert all(order.multiset_digest == REFERENCE.multiset_digest for order in orders)


@pytest.mark.parametrize("grade", [-1.0, 0.3])
def test_steps_keep_their_lengths_epochs_their_items_and_items_their_weights(grade: float) -> None:
    part = [{"items": [2 * s, 2 * s + 1], "weights": [1.0, 0.5]} for s in range(6)]
    twice = Order.of([*part, *part])
    order = graded_order(twice, TABLE[:12, :12], grade, 0)
    assert [len(step) for step in order.steps] == [2] * 12
    for first in (0, 6):
        drawn = sorted(pair for step in order.entries[first : first + 6] for pair in step)
        assert drawn == sorted(pair for step in twice.entries[:6] for pair in step)

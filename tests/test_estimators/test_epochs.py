"""Random orders of windows of several epochs, and orders as samplers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from estimators.errors import OrderError
from estimators.orders.distance import Distance
from estimators.orders.epochs import epochs
from estimators.orders.order import Order, named_order, random_order, random_orders, random_placements, random_steps
from estimators.trajectory import ensemble_orders

TWO = Order.of([*range(6), *range(6)])
PAIRS = Order.of([[0, 1], [2, 3], [4, 5]] * 3)


def consumed(steps: object) -> Counter[int]:
    return Counter(i for step in steps for i in step)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("order", "count"), [(TWO, 2), (PAIRS, 3)])
def test_random_orders_reshuffle_epoch_by_epoch(order: Order, count: int) -> None:
    size = len(order) // count
    for draw in (random_order, random_steps):
        orders = [draw(order, seed) for seed in range(40)]
        for one in orders:
            parts = [one.steps[first : first + size] for first in range(0, len(one), size)]
            assert all(consumed(part) == consumed(order.steps[:size]) for part in parts)
            assert list(map(len, one.steps)) == list(map(len, order.steps))
        assert len({one.steps[:size] for one in orders}) > 3
        assert any(one.steps[:size] != one.steps[size : 2 * size] for one in orders), "epochs are shuffled apart"
    assert all(consumed(o.steps[:size]) == consumed(order.steps[:size]) for o in random_orders(order, 5, 3))
    named = named_order("random:3", order)
    assert named == random_order(order, 3)


def test_all_placements_are_permuted_on_request() -> None:
    orders = [named_order(f"random-all:{seed}", TWO) for seed in range(20)]
    assert all(consumed(order.steps) == consumed(TWO.steps) for order in orders)
    assert any(consumed(order.steps[:6]) != consumed(TWO.steps[:6]) for order in orders)
    assert orders[3] == random_placements(TWO, 3)


@pytest.mark.parametrize("order", [Order.of(range(7)), Order.of([[0, 1], [2, 3]]), Order.of([0, 1, 1, 2])])
def test_a_window_without_epochs_is_one(order: Order) -> None:
    assert len(epochs(order.entries)) == 1
    assert random_order(order, 5) == random_placements(order, 5)


def test_epochs_are_passes_over_the_same_items() -> None:
    assert list(map(len, epochs(TWO.entries))) == [6, 6]
    assert len(epochs(Order.of([0, 1, 1, 0]).entries)) == 2
    assert len(epochs(Order.of([0, 0, 1, 1]).entries)) == 1, "an item twice in a part"
    assert len(epochs(Order.of([0, 1, 0]).entries)) == 1
    weighted = Order.of([{"items": [0], "weights": [2]}, 1, 0, 1])
    assert len(epochs(weighted.entries)) == 1, "another weight in another part"
    assert len(epochs(())) == 1


def test_random_orders_count_as_random_in_windows_of_epochs() -> None:
    long = Order.of([*range(20)] * 4)
    found = np.mean([Distance(long)(random_order(long, seed)) for seed in range(200)])
    assert found == pytest.approx(1.0, abs=0.03)


def test_an_ensemble_keeps_to_the_epochs() -> None:
    for order in ensemble_orders(TWO, 4, 0):
        assert consumed(order.steps[:6]) == consumed(order.steps[6:]) == consumed(TWO.steps[:6])


def test_a_loader_gives_what_the_order_says() -> None:
    rows = TensorDataset(torch.arange(100, 108))
    order = Order.of([[3, 1], [0, 2], [7, 5]])
    loader = DataLoader(rows, batch_sampler=order.batch_sampler())
    one_by_one = DataLoader(rows, sampler=order.sampler(), batch_size=2)
    for given in (loader, one_by_one, loader):  # every pass is the same
        assert [batch.tolist() for (batch,) in given] == [[103, 101], [100, 102], [107, 105]]
    assert order.indices() == [3, 1, 0, 2, 7, 5]
    assert (len(order.sampler()), len(order.batch_sampler())) == (6, 3)
    assert Order.of([2, 0]).indices(samples=3) == [6, 7, 8, 0, 1, 2]
    assert list(Order.of([2, 0]).batch_sampler(samples=2)) == [[4, 5], [0, 1]]


def test_what_a_loader_cannot_give_is_refused() -> None:
    assert list(Order.of([[0, 1], [2, 3]]).without([1]).batch_sampler()) == [[0], [2, 3]]
    with pytest.raises(OrderError, match="got none at step 1"):
        Order.of([0, 1, 2]).without([1]).sampler()
    with pytest.raises(OrderError, match=r"equal weight in a step, got \[1.0, 0.5\] at step 0"):
        Order.of([{"items": [0, 1], "weights": [1, 0.5]}]).indices()
    with pytest.raises(OrderError, match="1 sample per item"):
        Order.of([0]).indices(0)


def test_the_first_steps_of_an_order_keep_their_weights() -> None:
    order = Order.of([{"items": [0, 1], "weights": [1, 0.5]}, 2])
    assert order.first(1).entries == order.entries[:1]
    assert order.first(2) == order
    for wrong in (0, 3, -1):
        with pytest.raises(OrderError, match=r"expected 1\.\.2 steps"):
            order.first(wrong)

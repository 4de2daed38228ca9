"""States that may be overwritten: the same bits as new ones, of every rule; and what is nobody's own stays as it is."""

from __future__ import annotations

import pytest
import torch

from estimators.adjoint import Anchored
from estimators.orders.order import Order, random_orders
from estimators.position_table import added_up, look_up, summed
from estimators.replay import OrderBatch, Picks
from estimators.rules import make_rule
from estimators.rules.base import next_state

SIZE, RUNS = 40, 6


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"eps": 0.0}, {"weight_decay": 0.1, "clip": 0.5}])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "momentum"])
def test_a_step_in_place_has_the_bits_of_a_new_state(name: str, options: dict[str, object]) -> None:
    taken = {k: v for k, v in options.items() if name.startswith("adam") or k in ("weight_decay", "clip")}
    rule, draw = make_rule(name, **taken), torch.Generator().manual_seed(0)
    state = rule.init(torch.randn(RUNS, SIZE, generator=draw))
    own = state.map(torch.clone)
    for _ in range(4):
        gradient = torch.randn(RUNS, SIZE, generator=draw)
        gradient[0] = 0.0
        before = state.map(torch.clone)
        after = next_state(rule, state, gradient, 0.1)
        assert torch.equal(state.theta, before.theta), "nothing is overwritten that is not given away"
        assert all(torch.equal(state.memory[k], before.memory[k]) for k in state.memory)
        own = next_state(rule, own, gradient, 0.1, owned=True)
        assert torch.equal(own.theta, after.theta)
        assert all(torch.equal(own.memory[k], after.memory[k]) for k in after.memory)
        state = after


def test_adam_writes_where_it_may() -> None:
    rule = make_rule("adamw")
    state = rule.init(torch.randn(RUNS, SIZE))
    places = [state.theta.data_ptr(), *(b.data_ptr() for b in state.memory.values())]
    after = next_state(rule, state, torch.randn(RUNS, SIZE), 0.1, owned=True)
    assert [after.theta.data_ptr(), *(b.data_ptr() for b in after.memory.values())] == places


@pytest.mark.parametrize("count", [2, 30])
def test_what_is_interpolated_before_it_is_picked_is_the_same(count: int) -> None:
    """With fewer items than orders it is interpolated first, else after; and as items with weights are."""
    draw = torch.Generator().manual_seed(1)
    tables = torch.randn(2, 5, SIZE, generator=draw)
    anchored = Anchored([0, 4], lambda a: tables[a])
    batch = OrderBatch.pack(random_orders(Order.of(range(5)), count, 0))
    assert batch.plain
    for step in range(5):
        picks, share = batch.at(step), step / 4
        slow = [
            (1.0 - share) * tables[0][i] + share * tables[1][i] if step else tables[0][i] for i in picks.items[:, 0]
        ]
        if step == 4:
            slow = [tables[1][i] for i in picks.items[:, 0]]
        assert torch.equal(anchored.pick(step, picks), torch.stack(slow))
        assert torch.equal(anchored.pick(step, Picks(picks.items, picks.weights)), torch.stack(slow))


def test_a_batch_with_weights_is_not_plain() -> None:
    orders = [Order.of([0, 1, 2]), Order.of([2, {"items": [1], "weights": [0.0]}, 0])]
    assert not OrderBatch.pack(orders).plain
    assert not OrderBatch.pack([Order.of([[0, 1], [2]])]).plain


@pytest.mark.parametrize(
    "order", [Order.of([0, 3, 1, 2]), Order.of([[0, 1], [], [2], {"items": [3, 1], "weights": [2, 1]}])]
)
def test_sums_of_tables_are_sums_of_look_ups(order: Order) -> None:
    draw = torch.Generator().manual_seed(2)
    tables = torch.randn(4, 3, 4, generator=draw, dtype=torch.float64)
    batch = OrderBatch.pack([order, Order.of([3, 2, 1, 0])])
    slow = torch.stack([look_up(tables[:, j], batch).sum(-1) for j in range(3)], dim=1)
    assert torch.allclose(summed(tables, batch), slow, rtol=1e-14)
    assert torch.equal(summed(tables, OrderBatch.pack([order]))[0], summed(tables, batch)[0])


def test_columns_are_added_one_by_one() -> None:
    x = torch.randn(7, 3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(added_up(x), x.sum(-1), rtol=1e-12)
    assert torch.equal(added_up(x)[2, 1], added_up(x[2, 1][None])[0])

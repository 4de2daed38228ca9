"""Reweighting in place against derivatives and replays written out, in float64."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators.adjoint import DualTransition
from estimators.errors import OrderError
from estimators.orders.order import Order
from estimators.replay import OrderBatch, RuleTransition, TrueGradients, replay
from estimators.reweighting import (
    InPlaceTransition,
    OwnGradients,
    attributions,
    first_order_values,
    own_rows,
    require_in_place,
    response_squares,
)
from estimators.rules import make_rule

D, N = 5, 6
DRAW = torch.Generator().manual_seed(8)
REFERENCE = Order.of([[4, 1], [0, 3, 5], [2]])
TABLES = [torch.randn(len(step), D, dtype=torch.float64, generator=DRAW) for step in REFERENCE.steps]
CENTRE = torch.randn(4, D, dtype=torch.float64, generator=DRAW)
WEIGHTS, INJECTIONS = (torch.randn(4, D, dtype=torch.float64, generator=DRAW) for _ in range(2))
START, SLOPE = (torch.randn(D, dtype=torch.float64, generator=DRAW) for _ in range(2))
ORDERS = [
    REFERENCE,
    Order.of([{"items": [4, 1], "weights": [1, 3]}, [0, 5], [2]]),
    Order.of([[4], [3, 0, 5], []]),
]


def rate(step: int) -> float:
    return 0.1 / (1 + step)


def shares(order: Order, step: int) -> Tensor:
    """The share of each of the reference step's items in an order's step, in their order."""
    pairs = dict(order.entries[step])
    weights = torch.tensor([pairs.get(item, 0.0) for item in REFERENCE.steps[step]], dtype=torch.float64)
    return weights / weights.sum() if weights.any() else weights


def test_rows_are_those_of_the_step_and_equal_items_share_the_first() -> None:
    assert own_rows(REFERENCE, range(N)) == [{4: 0, 1: 1}, {0: 0, 3: 1, 5: 2}, {2: 0}]
    assert own_rows(REFERENCE, [0, 1, 2, 0, 1, 0]) == [{1: 0}, {0: 0}, {2: 0}]


def test_an_order_that_moves_an_item_or_has_other_steps_is_refused() -> None:
    rows = own_rows(REFERENCE, range(N))
    for order in ORDERS:
        require_in_place(order, rows)
    with pytest.raises(OrderError, match="item 3 at step 0"):
        require_in_place(Order.of([[4, 3], [0, 5], [2]]), rows)
    with pytest.raises(OrderError, match="item 0 at step 2"):
        require_in_place(Order.of([[4, 1], [3, 5], [2, 0]]), rows)
    with pytest.raises(OrderError, match="expected orders of 3 steps, got 2"):
        require_in_place(Order.of([[4, 1], [0, 3, 5]]), rows)


def test_values_are_inner_products_and_attributions_their_derivatives_by_weights() -> None:
    """d/dw_j of <lambda, sum w g / sum w> at weights of one, by autograd."""
    injection, gradients = INJECTIONS[:2], TABLES[1]
    values = first_order_values(injection.float(), gradients.float())
    assert values.dtype == torch.float64
    values = first_order_values(injection, gradients)
    torch.testing.assert_close(values, injection @ gradients.T)
    weights = torch.ones(3, dtype=torch.float64)

    def read(w: Tensor) -> Tensor:
        return injection @ (w @ gradients / w.sum())

    exact: Any = torch.autograd.functional.jacobian(read, weights)
    torch.testing.assert_close(attributions(values), exact)
    torch.testing.assert_close(attributions(values[0]), exact[0])
    torch.testing.assert_close(attributions(values[None])[0], exact)
    assert not attributions(values[:, :1]).any(), "a step's only item"


def test_squares_are_of_responses_about_the_steps_mean() -> None:
    injection, gradients = INJECTIONS[:2], TABLES[1]
    mean = sum(gradients[j] for j in range(3)) / 3
    slow = [sum((lam * (g - mean)) ** 2 for g in gradients) for lam in injection]
    torch.testing.assert_close(response_squares(injection, gradients), torch.stack(slow))
    torch.testing.assert_close(response_squares(injection, TABLES[2]), (injection * TABLES[2]) ** 2)


@pytest.mark.parametrize("sampled", [False, True])
def test_gradients_of_a_step_are_weighted_means_with_the_norm_of_all_coordinates(sampled: bool) -> None:
    kept = torch.tensor([0, 3]) if sampled else torch.arange(D)
    rows = own_rows(REFERENCE, range(N))
    made = OwnGradients(rows, lambda t: TABLES[t][:, kept], lambda t: TABLES[t] @ TABLES[t].T)
    batch = OrderBatch.pack(ORDERS)
    for step in range(3):
        gradient, norms = made(step, batch.at(step), CENTRE[:3, kept])
        whole = torch.stack([shares(order, step) @ TABLES[step] for order in ORDERS])
        torch.testing.assert_close(gradient, whole[:, kept])
        assert norms is not None
        torch.testing.assert_close(norms, whole.norm(dim=1))
    assert OwnGradients(rows, lambda t: TABLES[t])(0, batch.at(0), CENTRE[:3])[1] is None


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_the_remainder_and_the_linear_part_are_the_dual_weighted_readout(name: str, clip: float | None) -> None:
    """Gathered is what the replay adds to <lambda_t, G_t>: with that sum it is <slope, delta_T> + sum <w_t, delta_t>."""
    rule = make_rule(name, clip=clip)
    rows = own_rows(REFERENCE, range(N))
    gradients = OwnGradients(rows, TABLES.__getitem__, lambda t: TABLES[t] @ TABLES[t].T)
    batch, start = OrderBatch.pack(ORDERS), rule.init(START).rows(len(ORDERS))
    made = InPlaceTransition(rule, rate, gradients, CENTRE.__getitem__, WEIGHTS.__getitem__, INJECTIONS.__getitem__)
    end = replay(made, made.start(start), batch)
    remainder = made.remainder(end, 3, SLOPE)
    linear = [sum(INJECTIONS[t] * (shares(order, t) @ TABLES[t]) for t in range(3)) for order in ORDERS]
    dual = DualTransition(RuleTransition(rule, rate, gradients), CENTRE.__getitem__, lambda t: WEIGHTS[t][None])
    exact = dual.contributions(replay(dual, dual.start(start, 1), batch), 3, SLOPE[None])[:, 0]
    torch.testing.assert_close(remainder + torch.stack(linear), exact, rtol=1e-11, atol=1e-13)  # type: ignore[arg-type]
    alone = replay(RuleTransition(rule, rate, gradients), start, batch)
    assert torch.equal(end.theta, alone.theta), "gathering changes nothing of the replay"


def test_for_a_linear_rule_without_curvature_nothing_remains() -> None:
    """With the trajectory, weights and injections of SGD on linear losses, the remainder is the reference order's."""
    rule, T = make_rule("sgd"), 3
    rows = own_rows(REFERENCE, range(N))
    flat = {item: TABLES[t][row] for t, held in enumerate(rows) for item, row in held.items()}
    states = [START]
    truth = RuleTransition(rule, rate, TrueGradients(lambda theta, item: flat[item]))
    batch = OrderBatch.pack(ORDERS)
    replay(
        truth, rule.init(START).rows(1), OrderBatch.pack([REFERENCE]), listener=lambda t, z: states.append(z.theta[0])
    )
    made = InPlaceTransition(
        rule,
        rate,
        OwnGradients(rows, TABLES.__getitem__),
        states.__getitem__,
        lambda t: torch.zeros(D, dtype=torch.float64),
        lambda t: -rate(t) * SLOPE,
    )
    found = made.remainder(replay(made, made.start(rule.init(START).rows(3)), batch), T, SLOPE)
    torch.testing.assert_close(found, found[:1].expand(3, D), rtol=0, atol=1e-13)
    moved = replay(truth, rule.init(START).rows(3), batch).theta - states[-1]
    assert all((a - b).norm() > 1e-3 for a, b in itertools.combinations(moved, 2))

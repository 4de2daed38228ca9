"""The loop, what it is fed with, and its transitions, against loops written out by hand in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators.errors import DivergenceError
from estimators.orders.order import Order
from estimators.replay import (
    CachedGradients,
    CurvedGradients,
    OrderBatch,
    Picks,
    RuleTransition,
    TrueGradients,
    batches,
    replay,
)
from estimators.rules import make_rule

D, N = 7, 5
draw = torch.Generator().manual_seed(0)
MATRICES = torch.randn(N, D, D, dtype=torch.float64, generator=draw)
HESSIANS = MATRICES @ MATRICES.transpose(1, 2) / D
CENTRES = torch.randn(N, D, dtype=torch.float64, generator=draw)
START = torch.randn(D, dtype=torch.float64, generator=draw)
ORDERS = [Order.of(o) for o in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 2, 0, 1, 1])]
RULES = [
    ("adamw", {"betas": (0.9, 0.95), "weight_decay": 0.1, "clip": 1.0}),
    ("momentum", {"kind": "nesterov", "beta": 0.8}),
    ("sgd", {}),
]


def gradient(theta: Tensor, item: int) -> Tensor:
    """Of ½ (theta - c)ᵀ H (theta - c): a loss whose first-order Taylor gradient is exact."""
    return HESSIANS[item] @ (theta - CENTRES[item])


def rate(step: int) -> float:
    return 0.1 / (1 + step)


@pytest.mark.parametrize(("name", "options"), RULES)
def test_training_in_the_loop_is_training_written_out(name: str, options: dict[str, object]) -> None:
    rule = make_rule(name, **options)
    final = replay(
        RuleTransition(rule, rate, TrueGradients(gradient)), rule.init(START).rows(3), OrderBatch.pack(ORDERS)
    )
    for row, order in enumerate(ORDERS):
        state = rule.init(START)
        for t, (item,) in enumerate(order.steps):
            state = rule.step(state, gradient(state.theta, item), rate(t))[0]
        assert torch.equal(final.theta[row], state.theta)


@pytest.mark.parametrize(("name", "options"), RULES)
def test_exact_curvature_is_exact_on_quadratic_losses(name: str, options: dict[str, object]) -> None:
    rule = make_rule(name, **options)
    trajectory: list[Tensor] = [START]
    truth = RuleTransition(rule, rate, TrueGradients(gradient))
    replay(
        truth,
        rule.init(START).rows(1),
        OrderBatch.pack(ORDERS[:1]),
        listener=lambda t, z: trajectory.append(z.theta[0].clone()),
    )
    lowrank = CurvedGradients(trajectory.__getitem__, gradient, lambda theta, item, u: HESSIANS[item] @ u)
    batch = OrderBatch.pack(ORDERS)
    found = replay(RuleTransition(rule, rate, lowrank), rule.init(START).rows(3), batch).theta
    expected = replay(truth, rule.init(START).rows(3), batch).theta
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(found[0], expected[0]), "the reference order must be bitwise"
    table = torch.stack([torch.stack([gradient(theta, i) for i in range(N)]) for theta in trajectory])
    flat = replay(RuleTransition(rule, rate, CachedGradients(table.__getitem__)), rule.init(START).rows(3), batch).theta
    assert torch.equal(flat[0], expected[0])
    assert not torch.allclose(flat[1], expected[1], rtol=0, atol=1e-6), "order 0 cannot be exact here"


@pytest.mark.parametrize("steps_at_once", [False, True])
@pytest.mark.parametrize(("name", "options"), RULES)
def test_exact_curvature_counts_items_by_their_weights(
    name: str, options: dict[str, object], steps_at_once: bool
) -> None:
    """Steps of several items, of equal and of different weights, and of none: exact on quadratic losses."""
    rule = make_rule(name, **options)
    steps: list[Any] = [[0, 1], {"items": [2, 3, 4], "weights": [1, 3, 0]}, [], [3, 3, 4]]
    orders = [Order.of(o) for o in ([[0, 1], [2, 3], [], [4, 0]], steps, list(reversed(steps)))]

    def mean(theta: Tensor, items: Sequence[int], weights: Sequence[float]) -> Tensor:
        return sum(w * gradient(theta, i) for i, w in zip(items, weights, strict=True))  # type: ignore[return-value]

    truth, trajectory = RuleTransition(rule, rate, TrueGradients(gradient)), [START]
    start, batch = rule.init(START).rows(len(orders)), OrderBatch.pack(orders)
    replay(
        truth,
        rule.init(START).rows(1),
        OrderBatch.pack(orders[:1]),
        listener=lambda t, z: trajectory.append(z.theta[0]),
    )
    curved = CurvedGradients(
        trajectory.__getitem__, gradient, lambda theta, item, u: HESSIANS[item] @ u, mean if steps_at_once else None
    )
    found = replay(RuleTransition(rule, rate, curved), start, batch).theta
    expected = replay(truth, start, batch).theta
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(expected[1:], expected[:1], rtol=0, atol=1e-2), "the orders differ"


def test_a_step_of_several_items_takes_their_mean_gradient() -> None:
    order = Order.of([[0, 1], [2], [], [3, 3, 4]])
    rule = make_rule("sgd")
    theta = replay(
        RuleTransition(rule, rate, TrueGradients(gradient)), rule.init(START).rows(1), OrderBatch.pack([order])
    ).theta[0]
    expected = START
    for t, items in enumerate(order.steps):
        if items:
            expected = expected - rate(t) * sum(gradient(expected, i) for i in items) / len(items)
    assert torch.allclose(theta, expected, rtol=0, atol=1e-14)


def test_resuming_in_the_middle_gives_the_same_bytes() -> None:
    rule = make_rule("adamw")
    transition, batch = RuleTransition(rule, rate, TrueGradients(gradient)), OrderBatch.pack(ORDERS)
    states = {0: rule.init(START).rows(3)}
    final = replay(transition, states[0], batch, listener=states.__setitem__)
    for step in range(1, 5):
        assert torch.equal(replay(transition, states[step], batch, first=step).theta, final.theta)


def test_a_batch_is_bitwise_its_rows() -> None:
    rule = make_rule("adamw", clip=0.3)
    transition = RuleTransition(rule, rate, TrueGradients(gradient))
    together = replay(transition, rule.init(START).rows(3), OrderBatch.pack(ORDERS)).theta
    for row, order in enumerate(ORDERS):
        assert torch.equal(
            together[row], replay(transition, rule.init(START).rows(1), OrderBatch.pack([order])).theta[0]
        )


def test_sampled_coordinates_replay_bitwise_with_stored_norms() -> None:
    rule = make_rule("adamw", clip=0.5)
    table = torch.stack([torch.stack([gradient(START + t, i) for i in range(N)]) for t in range(5)]).float()
    start, batch = rule.init(START.float()), OrderBatch.pack(ORDERS)
    whole = replay(RuleTransition(rule, rate, CachedGradients(table.__getitem__)), start.rows(3), batch).theta
    kept = torch.tensor([1, 4, 6])
    norms = torch.stack([torch.stack([torch.linalg.vector_norm(g) for g in row]) for row in table])
    sampled = CachedGradients(table[..., kept].__getitem__, norms.__getitem__)
    found = replay(RuleTransition(rule, rate, sampled), start.restrict(kept).rows(3), batch).theta
    assert torch.equal(found, whole[:, kept])


def test_batches_group_by_length_and_keep_places() -> None:
    orders = [Order.of(o) for o in ([0, 1], [0], [1, 0], [1], [0, 0])]
    found = [(places, [o.tolist() for o in group]) for places, group in batches(orders, 2)]
    assert found == [([1, 3], [[0], [1]]), ([0, 2], [[0, 1], [1, 0]]), ([4], [[0, 0]])]


def test_combine_with_one_item_returns_the_row_unchanged() -> None:
    table = torch.randn(4, 3, generator=draw)
    picks = Picks(torch.tensor([[2], [0]]), torch.ones(2, 1, dtype=torch.float64))
    assert torch.equal(picks.combine(table), table[[2, 0]])
    assert torch.equal(picks.combine(table[[0, 2]], {0: 0, 2: 1}), table[[2, 0]])


def test_a_gradient_that_is_not_finite_stops_the_loop_by_name() -> None:
    rule = make_rule("sgd")
    broken = CachedGradients(lambda t: torch.full((N, D), float("nan")))
    with pytest.raises(DivergenceError, match=r"step 0.*finite gradients"):
        replay(RuleTransition(rule, rate, broken), rule.init(START).rows(1), OrderBatch.pack(ORDERS[:1]))


def test_weights_are_shares_of_their_step() -> None:
    steps: list[Any] = [
        {"items": [3, 1], "weights": [1, 3]},
        [4],
        {"items": [2, 0], "weights": [0, 5]},
        {"items": [2], "weights": [0]},
    ]
    packed = OrderBatch.pack([Order.of(steps), Order.of([[0, 1], [1, 2], [], [3, 4]])])
    assert packed.items[0].tolist() == [[1, 3], [4, 0], [0, 0], [0, 0]]
    assert packed.weights[0].tolist() == [[0.75, 0.25], [1, 0], [1, 0], [0, 0]]
    assert packed.weights[1].tolist() == [[0.5, 0.5], [0.5, 0.5], [0, 0], [0.5, 0.5]]
    huge = OrderBatch.pack([Order.of([{"items": [0, 1], "weights": [1e300, 5e299]}])])
    assert huge.weights[0, 0].tolist() == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize(("name", "options"), RULES)
def test_a_weighted_step_trains_on_the_weighted_mean(name: str, options: dict[str, object]) -> None:
    rule = make_rule(name, **options)
    order = Order.of([{"items": [0, 1, 2], "weights": [1, 0.5, 0]}, {"items": [3], "weights": [0]}, [4, 4]])
    found = replay(
        RuleTransition(rule, rate, TrueGradients(gradient)), rule.init(START).rows(1), OrderBatch.pack([order])
    ).theta[0]
    state = rule.init(START)
    for t in range(3):
        means = [
            lambda x: (gradient(x, 0) + 0.5 * gradient(x, 1)) / 1.5,
            torch.zeros_like,
            lambda x: gradient(x, 4),
        ]
        state = rule.step(state, means[t](state.theta), rate(t))[0]
    assert torch.allclose(found, state.theta, rtol=0, atol=1e-14)


def test_equal_multisets_of_a_step_give_equal_bits() -> None:
    rule = make_rule("adamw")
    orders = [Order.of(o) for o in ([[0, 1, 2], [3, 4]], [[2, 0, 1], [4, 3]])]
    orders.append(Order.of([{"items": [3, 1, 2, 0], "weights": [0, 7, 7, 7]}, [4, 3]]))
    transition = RuleTransition(rule, rate, TrueGradients(gradient))
    found = replay(transition, rule.init(START).rows(3), OrderBatch.pack(orders)).theta
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_mean_gradient_is_asked_for_steps_of_several_items_alone() -> None:
    asked: list[tuple[Sequence[int], Sequence[float]]] = []

    def mean(theta: Tensor, items: Sequence[int], weights: Sequence[float]) -> Tensor:
        asked.append((items, weights))
        return sum(w * gradient(theta, i) for i, w in zip(items, weights, strict=True))  # type: ignore[return-value]

    rule, order = make_rule("sgd"), Order.of([[1, 0], [3], [], {"items": [2, 4], "weights": [1, 3]}])
    ends = [
        replay(
            RuleTransition(rule, rate, TrueGradients(gradient, m)), rule.init(START).rows(1), OrderBatch.pack([order])
        )
        for m in (None, mean)
    ]
    assert asked == [([0, 1], [0.5, 0.5]), ([2, 4], [0.25, 0.75])]
    assert torch.allclose(ends[0].theta, ends[1].theta, rtol=0, atol=1e-14)


def test_a_sampled_norm_does_not_depend_on_what_else_is_in_the_batch() -> None:
    """Where some coordinates are stored, a lone item's norm is known, whatever other orders of the batch consume."""
    rule = make_rule("sgd", clip=1.0)
    table, norms = torch.stack([gradient(START, i) for i in range(N)])[:, :3], 10.0 + torch.arange(N).double()
    cached = CachedGradients(lambda t: table, lambda t: norms, 2.0)
    lone, pair = Order.of([0, 1]), Order.of([[0, 1], [2]])
    start = rule.init(START[:3])
    ends = [
        replay(RuleTransition(rule, rate, cached), start.rows(len(o)), OrderBatch.pack(o)).theta[0]
        for o in ([lone], [lone, pair])
    ]
    assert torch.equal(ends[0], ends[1])

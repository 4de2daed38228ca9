"""Items whose injections are unlike have products of their own in the backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from estimators.adjoint import UNLIKE, Answers, Sweep, unlikeness
from estimators.orders.order import Order
from estimators.replay import OrderBatch, RuleTransition, TrueGradients, replay
from estimators.rules import make_rule
from estimators.state import State
from estimators.trajectory import CentreTransition, balanced_mixture

D = N = 8
draw = torch.Generator().manual_seed(3)
SLOPE = torch.randn(1, D, dtype=torch.float64, generator=draw)
CENTRES = torch.randn(N, D, dtype=torch.float64, generator=draw)
SPREAD = torch.exp(torch.randn(N, D, dtype=torch.float64, generator=draw))
"""How large an item's gradient is by coordinate, and its curvature with it."""


def rate(step: int) -> float:
    return 0.05


def gradient(theta: Tensor, item: int) -> Tensor:
    return SPREAD[item] * (CENTRES[item] + 0.5 * theta.roll(1))


def product(theta: Tensor, item: int, u: Tensor) -> Tensor:
    """The transposed Jacobian: the pass needs no symmetry."""
    return (0.5 * SPREAD[item] * u).roll(-1)


def begun(warmup: int) -> State:
    """AdamW's state after so many steps on items in turn."""
    rule, state = make_rule("adamw"), make_rule("adamw").init(torch.zeros(D, dtype=torch.float64))
    orders = OrderBatch.pack([Order.of([i % N for i in range(warmup)])])
    true = TrueGradients(gradient)
    return replay(RuleTransition(rule, rate, true), state.rows(1), orders).row(0) if warmup else state


def swept(warmup: int, unlike: int, pooled_at: list[int] | None = None) -> dict[int, Tensor]:
    """The weights [1, D] of every step about a mixture of four items. pooled_at: hears where products of the mean injection are
    taken; None for a pass that has the items' own everywhere."""
    rule, start = make_rule("adamw"), begun(warmup)
    mixture, states = balanced_mixture(Order.of(range(N)), 4, 0), [start]
    centre = CentreTransition(rule, rate, lambda step, theta, item: gradient(theta, item))
    replay(centre, start.rows(1), OrderBatch.pack([mixture]), listener=lambda t, z: states.append(z.row(0)))

    def pooled(step: int, theta: Tensor, directions: Tensor, answer: object) -> Tensor:
        assert pooled_at is not None
        pooled_at.append(step)
        return torch.stack([torch.stack([product(theta, i, u) for i in range(N)]).mean(0) for u in directions])

    def item_gradient(step: int, item: int) -> Tensor:
        return gradient(states[step].theta, item)

    given = None if pooled_at is None else pooled
    sweep = Sweep(rule, rate, mixture, states.__getitem__, item_gradient, product, given, unlike=unlike)
    return {s.step: s.weight for s in sweep.backward(sweep.start(SLOPE))}


def test_from_a_cold_start_a_step_has_the_items_own_products_once_memory_has_begun() -> None:
    """All but the first step, where nothing is displaced, and late ones: there the pass is that of the items' own."""
    at: list[int] = []
    mixed, own, mean = swept(0, 1, at), swept(0, 0), swept(0, 0, [])
    assert 0 in at
    assert 1 not in at
    late = max(set(range(N)) - set(at))
    assert late < N - 1
    assert all(torch.equal(mixed[step], mean[step]) for step in range(late + 1, N)), "settled: as ever, bit for bit"
    assert not torch.allclose(mixed[1], mean[1], rtol=0.1)
    assert not torch.equal(own[N - 1], mean[N - 1])


def test_where_every_step_is_taken_for_unlike_the_pass_is_that_of_the_items_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("estimators.adjoint.UNLIKE", -1.0)
    found, own = swept(0, 1, []), swept(0, 0)
    assert all(torch.equal(found[step], own[step]) for step in range(1, N))


def test_once_second_moments_are_settled_no_bit_changes() -> None:
    """After 400 steps an injection hardly depends on the item's gradient."""
    at: list[int] = []
    found, mean = swept(400, 1, at), swept(400, 0, [])
    assert at == list(range(N - 1, -1, -1))
    assert all(torch.equal(found[step], mean[step]) for step in range(N))


def mean_of(injections: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    touched = torch.stack(list(gradients)) != 0
    return (injections * touched[:, None]).sum(0) / touched.sum(0).clamp(min=1)


def test_unlikeness_is_what_injections_differ_by_where_items_touch() -> None:
    gradients = [torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])]
    injections = torch.tensor([[[3.0, 5.0, 1e9], [0.0, 0.0, 0.0]], [[1.0, -1e9, 7.0], [0.0, 0.0, 0.0]]])
    found = unlikeness(injections, gradients, mean_of(injections, gradients))
    assert found[0].item() == pytest.approx((1 + 1) / (2 * 2**2 + 5**2 + 7**2)), "0 where only one item touches"
    assert found[1].item() == 0, "a read-out that has not entered yet"
    assert found[0] < UNLIKE


def test_an_item_that_does_not_touch_a_coordinate_does_not_answer_there() -> None:
    """Where memory has not begun, its injection is up to 1/eps; a difference along that would be noise."""
    gradients = [torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])]
    injections, nothing = torch.tensor([[[3.0, 1e8]], [[1.0, 2.0]]]), State(torch.zeros(2), {}, {})
    answers = Answers(nothing, gradients, injections, mean_of(injections, gradients), nothing)
    assert answers.touching.tolist() == [[[3.0, 0.0]], [[1.0, 2.0]]]


def test_one_item_is_like_itself() -> None:
    injection, gradient = torch.randn(1, 3, 5, generator=draw), torch.ones(5)
    assert torch.equal(unlikeness(injection, [gradient], injection[0]), torch.zeros(3, dtype=torch.float64))

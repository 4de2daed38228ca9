"""Replay with curvature against slow exact loops in float64, and the metric in which its low rank is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators.adjoint import Anchored, AnchoredGradients, StreamedAnchors, anchors_around
from estimators.errors import DivergenceError
from estimators.lanczos import RitzPairs
from estimators.lowrank import (
    BentGradients,
    Curvature,
    LowRankTransition,
    curvature_anchors,
    low_rank,
    refresh_steps,
    scarcity,
    sensitivity,
    touching,
)
from estimators.orders.order import Order
from estimators.replay import OrderBatch, replay
from estimators.rules import make_rule
from estimators.rules.base import Rule
from estimators.state import State

D, N = 40, 6
draw = torch.Generator().manual_seed(0)
SLOPES = torch.randn(N, D, dtype=torch.float64, generator=draw)
TARGETS = torch.randn(N, D, dtype=torch.float64, generator=draw)
START = torch.randn(D, dtype=torch.float64, generator=draw)
CENTRE = START + 0.05 * torch.randn(N + 1, D, dtype=torch.float64, generator=draw).cumsum(0)
ORDERS = [Order.of(o) for o in ([5, 4, 3, 2, 1, 0], [1, 0, 2, 4, 3, 5], [2, 2, 0, 0, 5, 1])]
RULES = ["adamw", "momentum"]


def rate(step: int) -> float:
    return 0.05 / (1 + step)


def gradient(theta: Tensor, item: int) -> Tensor:
    """Of sum(log cosh(theta - target)) + (slope . theta)^2/2: neither quadratic nor diagonal."""
    return torch.tanh(theta - TARGETS[item]) + SLOPES[item] * (SLOPES[item] @ theta) / D


def hessian(theta: Tensor, item: int) -> Tensor:
    return torch.diag(1 - torch.tanh(theta - TARGETS[item]).square()) + torch.outer(SLOPES[item], SLOPES[item]) / D


def mean(of: Callable[[Tensor, int], Tensor], theta: Tensor) -> Tensor:
    return torch.stack([of(theta, i) for i in range(N)]).mean(0)


def rule_of(name: str) -> Rule:
    return make_rule(name, betas=[0.9, 0.95]) if name == "adamw" else make_rule(name, beta=0.9, clip=3.0)


def exact_pairs(rule: Rule, step: int) -> RitzPairs:
    state = rule.step(rule.init(START), gradient(START, 0), 0.1)[0]
    H = mean(hessian, CENTRE[step])
    return low_rank(lambda u: H @ u, sensitivity(rule, state, 0.9), D, 0)


def transition(rule: Rule, every: int, pairs: Callable[[int], RitzPairs], anchors: list[int]) -> LowRankTransition:
    tables = [torch.stack([gradient(CENTRE[t], i) for i in range(N)]) for t in range(N)]
    return LowRankTransition(
        rule,
        rate,
        Anchored(list(range(N)), tables.__getitem__),
        CENTRE.__getitem__,
        Curvature(anchors, pairs),
        refresh_steps(N, every),
        lambda step, theta: mean(gradient, theta) - mean(gradient, CENTRE[step]),
        lambda anchor: scarcity([tables[anchor]]),
    )


def ends(made: LowRankTransition, orders: list[Order]) -> Tensor:
    start = made.start(made.rule.init(START).rows(len(orders)))
    return replay(made, start, OrderBatch.pack(orders)).theta


@pytest.mark.parametrize("name", RULES)
def test_at_full_rank_without_refresh_it_is_the_recursion_with_the_exact_mean_hessian(name: str) -> None:
    rule = rule_of(name)
    found = ends(transition(rule, 0, lambda t: exact_pairs(rule, t), list(range(N))), ORDERS)
    for end, order in zip(found, ORDERS, strict=True):
        y = rule.init(START)
        for t, (item,) in enumerate(order.steps):
            bent = mean(hessian, CENTRE[t]) @ (y.theta - CENTRE[t])
            y = rule.step(y, gradient(CENTRE[t], item) + bent, rate(t))[0]
        assert (end - y.theta).norm() < 1e-8 * (y.theta - START).norm()


@pytest.mark.parametrize("every", [1, 2, 4])
@pytest.mark.parametrize("name", RULES)
def test_refreshed_it_is_the_recursion_with_true_mean_differences(name: str, every: int) -> None:
    rule, rank = rule_of(name), 3
    kept = [RitzPairs(v[:rank], L[:rank]) for v, L in (exact_pairs(rule, t) for t in (1, 4))]
    found = ends(transition(rule, every, kept.__getitem__, [1, 4]), ORDERS)
    refreshed = {1: range(N), 2: (1, 3, 5), 4: (2,)}[every]
    for end, order in zip(found, ORDERS, strict=True):
        y, held = rule.init(START), torch.zeros(D, dtype=torch.float64)
        for t, (item,) in enumerate(order.steps):
            values, L = kept[0 if t <= 2 else 1]
            low = L.T @ (values * (L @ (y.theta - CENTRE[t])))
            true = mean(gradient, y.theta) - mean(gradient, CENTRE[t])
            held = true - low if t in refreshed else held
            y = rule.step(y, gradient(CENTRE[t], item) + low + held, rate(t))[0]
        assert (end - y.theta).norm() < 1e-9 * (y.theta - START).norm()


def test_low_rank_in_the_rules_metric_is_the_hessian_where_the_rule_moves() -> None:
    H, weight = mean(hessian, START), torch.rand(D, dtype=torch.float64, generator=draw)
    weight[::7] = 0.0
    values, L = low_rank(lambda u: H @ u, weight, D, 3)
    live = weight > 0
    torch.testing.assert_close((L.T @ torch.diag(values) @ L)[live][:, live], H[live][:, live], atol=1e-9, rtol=0)
    assert (L[:, ~live] == 0).all()
    assert torch.isfinite(L).all()
    nothing = low_rank(lambda u: H @ u, torch.zeros(D, dtype=torch.float64), 3, 0)
    assert not nothing.values.any()
    assert not nothing.vectors.any()


def test_the_metric_is_adams_preconditioner_clamped_at_a_quantile() -> None:
    rule = make_rule("adamw", betas=[0.9, 0.95], eps=1e-8)
    v = torch.logspace(-12, 0, D, dtype=torch.float64)
    state = State(START, {"m": START, "v": v}, rule.step(rule.init(START), START, 0.1)[0].clock)
    plain = sensitivity(rule, state)
    expected = 1 / ((0.95 * v / (1 - 0.95**2)).sqrt() + 1e-8)
    torch.testing.assert_close(plain / plain[-1], expected / expected[-1])
    clamped = sensitivity(rule, state, 0.75)
    assert clamped.max() == plain.sort().values[round(0.75 * D) - 1]
    assert torch.equal(clamped[plain <= clamped.max()], plain[plain <= clamped.max()])


def test_the_quantile_of_many_coordinates_is_that_of_a_subsample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("estimators.lowrank.QUANTILE_OF", 8)
    rule = make_rule("adamw", betas=[0.9, 0.95])
    v = torch.logspace(-12, 0, D, dtype=torch.float64)
    state = State(START, {"m": START, "v": v}, rule.init(START).clock)
    plain = sensitivity(rule, state)
    assert sensitivity(rule, state, 0.5).max() == plain[::5].sort().values[3]


def test_where_curvature_and_gradients_are_taken() -> None:
    assert curvature_anchors(64, 4) == [8, 24, 40, 56]
    assert curvature_anchors(1, 4) == [0]
    assert curvature_anchors(3, 8)[-1] <= 2
    assert refresh_steps(64, 16) == [8, 24, 40, 56]
    assert refresh_steps(5, 1) == [0, 1, 2, 3, 4]
    assert refresh_steps(5, 0) == refresh_steps(5, 16) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_run_has_the_same_bits_alone_and_in_a_stack(dtype: torch.dtype) -> None:
    size, rank = 1003, 7
    numbers = torch.Generator().manual_seed(1)
    pairs = RitzPairs(torch.rand(rank, dtype=torch.float64), torch.randn(rank, size, dtype=dtype, generator=numbers))
    curvature = Curvature([0], lambda index: pairs)
    delta = torch.randn(9, size, dtype=dtype, generator=numbers)
    together = curvature(0, delta)
    assert all(torch.equal(curvature(0, delta[i : i + 1])[0], together[i]) for i in range(9))


def test_what_leads_too_far_is_said() -> None:
    huge = RitzPairs(torch.full((1,), -1e200, dtype=torch.float64), torch.full((1, D), 1e100, dtype=torch.float64))
    made: Any = transition(rule_of("momentum"), 0, lambda index: huge, [0])
    with pytest.raises(DivergenceError, match="refresh the curvature more often"):
        ends(made, ORDERS)


def test_a_correction_falls_to_the_items_that_have_a_gradient_and_its_mean_stays() -> None:
    table = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0], [1.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    made = transition(rule_of("momentum"), 0, lambda index: exact_pairs(rule_of("momentum"), 0), [0])
    made = replace(made, gradients=Anchored([0], lambda a: table), scarcity=lambda a: scarcity([table[:1], table[1:]]))
    both = OrderBatch.pack([Order.of([[0, 1]]), Order.of([[2, 3]]), Order.of([[0, 0]])])
    assert touching(made.gradients, 0, both.at(0), made.scarcity).tolist() == [
        [1.0, 0.0, 2.0],
        [1.0, 0.0, 0.0],
        [1.0, 0.0, 4.0],
    ]
    singles = OrderBatch.pack([Order.of([i]) for i in range(4)]).at(0)
    assert touching(made.gradients, 0, singles, made.scarcity).mean(0).tolist() == [1.0, 0.0, 1.0]
    nothing = OrderBatch.pack([Order.of([[]])]).at(0)
    assert touching(made.gradients, 0, nothing, made.scarcity).tolist() == [[0.0, 0.0, 0.0]]


def test_streamed_rows_are_those_of_whole_tables_and_no_others_are_read() -> None:
    draw = torch.Generator().manual_seed(5)
    tables = torch.randn(3, N, D, generator=draw, dtype=torch.float64)
    asked: list[tuple[int, list[int]]] = []

    def rows(index: int, items: Sequence[int]) -> Tensor:
        asked.append((index, list(items)))
        return tables[index][list(items)]

    anchors = [0, 2, N - 1]
    whole, streamed = Anchored(anchors, tables.__getitem__), StreamedAnchors(anchors, rows)
    batch = OrderBatch.pack([Order.of([[t, 1] for t in range(N)]), Order.of([[N - 1 - t] for t in range(N)])])
    for t in range(N):
        asked.clear()
        assert torch.equal(streamed.pick(t, batch.at(t)), whole.pick(t, batch.at(t)))
        low, high, _ = anchors_around(anchors, t)
        assert asked == [(index, sorted({t, 1, N - 1 - t})) for index in ([low] if low == high else [low, high])]
    nothing = OrderBatch.pack([Order.of([[]])]).at(0)
    assert not streamed.pick(0, nothing).any()


def bent_gradients(
    kept: Tensor, norm: float | None, weight: Tensor | float, delta: Tensor, response: Tensor
) -> BentGradients:
    """Gradients about the centre on some coordinates, to which curvature answers with `response` [k] at a displacement [k]."""
    table, k = torch.stack([gradient(CENTRE[0], i) for i in range(N)])[:, kept], len(kept)
    norms = None if norm is None else Anchored([0], lambda a: torch.full((N, 1), norm, dtype=torch.float64))
    pairs = RitzPairs(1 / (response @ delta)[None], response[None])
    return BentGradients(
        AnchoredGradients(Anchored([0], lambda a: table), norms, weight),
        lambda step: CENTRE[0, kept],
        Curvature([0], lambda index: pairs),
        lambda anchor: torch.ones(k, dtype=torch.float64),
        lambda step: torch.ones(k, dtype=torch.bool),
    )


FIRST = OrderBatch.pack([Order.of([0])]).at(0)


def test_the_norm_of_a_sample_has_what_curvature_changes_on_its_coordinates() -> None:
    """On all coordinates it is the norm; on a sample what changes of the square is weighted by 1/p."""
    response, delta, plain = torch.linspace(0.5, 1.5, D).double(), torch.ones(D).double(), gradient(CENTRE[0], 0)
    whole = bent_gradients(torch.arange(D), plain.norm().item(), 1.0, delta, response)
    bent, norm = whole(0, FIRST, (CENTRE[0] + delta)[None])
    torch.testing.assert_close(bent[0], plain + response, rtol=1e-12, atol=0)
    assert norm is not None
    assert norm.item() == pytest.approx((plain + response).norm().item(), rel=1e-12)
    kept, weight = torch.arange(0, D, 2), 1 + torch.rand(D // 2, dtype=torch.float64, generator=draw)
    sampled = (kept, plain.norm().item(), weight, delta[kept], response[kept])
    norm = bent_gradients(*sampled)(0, FIRST, (CENTRE[0] + delta)[None, kept])[1]
    change = (weight * ((plain + response).square() - plain.square())[kept]).sum()
    assert norm is not None
    assert norm.item() == pytest.approx((plain.square().sum() + change).sqrt().item(), rel=1e-12)
    unclipped = bent_gradients(kept, None, weight, delta[kept], response[kept])
    assert unclipped(0, FIRST, (CENTRE[0] + delta)[None, kept])[1] is None


def test_the_norm_of_a_sample_is_at_least_that_of_its_own_coordinates() -> None:
    """Weighted changes may take off more than there is: the square would be negative, and the root no number."""
    kept, plain = torch.arange(0, D, 4), gradient(CENTRE[0], 0)
    own, delta = plain[kept], torch.ones(len(kept), dtype=torch.float64)
    made = bent_gradients(kept, plain.norm().item(), 100.0, delta, -0.9 * own)
    bent, norm = made(0, FIRST, (CENTRE[0, kept] + delta)[None])
    torch.testing.assert_close(bent[0], 0.1 * own, rtol=1e-9, atol=0)
    assert norm is not None
    assert norm.item() == pytest.approx(0.1 * own.norm().item(), rel=1e-9)

"""Centre, backward sweep and goal-oriented estimate against slow exact references in float64."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators.adjoint import (
    Anchored,
    DualTransition,
    Sweep,
    inclusion_probabilities,
    independent_halves,
    mean_touched,
    partial_sums,
    poisson_sample,
    quadratic_part,
    sampling_variance,
    spread_anchors,
)
from estimators.errors import OrderError
from estimators.orders.order import Order
from estimators.replay import CachedGradients, CurvedGradients, OrderBatch, RuleTransition, TrueGradients, replay
from estimators.rules import make_rule
from estimators.state import State
from estimators.trajectory import CentreTransition, balanced_groups, balanced_mixture, ensemble_orders

D = N = 6
draw = torch.Generator().manual_seed(0)
MATRICES = torch.randn(N, D, D, dtype=torch.float64, generator=draw)
HESSIANS = MATRICES @ MATRICES.transpose(1, 2) / D
CENTRES = torch.randn(N, D, dtype=torch.float64, generator=draw)
START = torch.randn(D, dtype=torch.float64, generator=draw)
SLOPES = torch.randn(2, D, dtype=torch.float64, generator=draw)
REFERENCE = Order.of(range(N))
ORDERS = [Order.of(o) for o in ([5, 4, 3, 2, 1, 0], [1, 0, 2, 4, 3, 5], [2, 2, 0, 0, 5, 1])]


def rate(step: int) -> float:
    return 0.05 / (1 + step)


def estimates(rule: Any, mixture: Order, bend: float, taken: int = N) -> tuple[Tensor, list[State]]:
    """<slope, displacement after `taken` steps> of every order as the adjoint has it, with all curvature scaled by `bend`; and
    the trajectory."""

    def gradient(theta: Tensor, item: int) -> Tensor:
        return bend * HESSIANS[item] @ (theta - CENTRES[item]) + CENTRES[item]

    states = [rule.init(START)]
    centre = CentreTransition(rule, rate, lambda step, theta, item: gradient(theta, item))
    batch = OrderBatch.pack([mixture])
    replay(centre, states[0].rows(1), batch, listener=lambda t, z: states.append(z.row(0)))
    sweep = Sweep(
        rule,
        rate,
        mixture,
        states.__getitem__,
        lambda step, item: gradient(states[step].theta, item),
        lambda theta, item, u: bend * HESSIANS[item] @ u,
        entering=lambda step: SLOPES if step == taken else None,
    )
    ends = SLOPES if taken == N else torch.zeros_like(SLOPES)
    weights = {s.step: s.weight for s in sweep.backward(sweep.start(ends))}
    tables = [torch.stack([gradient(z.theta, i) for i in range(N)]) for z in states]
    inner = RuleTransition(rule, rate, CachedGradients(tables.__getitem__))
    dual = DualTransition(inner, lambda t: states[t].theta, weights.__getitem__)
    start = dual.start(states[0].rows(len(ORDERS)), 2)
    assert start.memory["gathered"].dtype == START.dtype
    end = replay(dual, start, OrderBatch.pack(ORDERS))
    return dual.contributions(end, N, ends).sum(-1), states


@pytest.mark.parametrize("taken", [N, 4, 1])
@pytest.mark.parametrize(("name", "options"), [("sgd", {}), ("momentum", {"kind": "nesterov", "beta": 0.8})])
def test_for_linear_rules_the_sweep_is_the_curved_replay_exactly(
    name: str, options: dict[str, Any], taken: int
) -> None:
    """With the reference order as centre: replay with the reference item's curvature at every step, whatever is swapped; of a
    read-out that is taken earlier, replay of the orders' first steps alone."""
    rule = make_rule(name, **options)
    found, states = estimates(rule, REFERENCE, 1.0, taken)
    lowrank = CurvedGradients(
        lambda t: states[t].theta,
        lambda theta, item: HESSIANS[item] @ (theta - CENTRES[item]) + CENTRES[item],
        lambda theta, item, u: torch.zeros_like(u),
    )

    class WithReferenceCurvature:
        def __call__(self, step: int, picks: Any, theta: Tensor) -> tuple[Tensor, None]:
            gradient = lowrank(step, picks, theta)[0]
            return gradient + (theta - states[step].theta) @ HESSIANS[step], None

    first = OrderBatch.pack([order.first(taken) for order in ORDERS])
    end = replay(RuleTransition(rule, rate, WithReferenceCurvature()), states[0].rows(len(ORDERS)), first)
    assert torch.allclose(found, (end.theta - states[taken].theta) @ SLOPES.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
def test_whatever_curvature_the_replay_has_is_taken_off_to_first_order(name: str) -> None:
    """Of a linear rule all of it, so that nothing changes; where it is the sweep's own, all of the correction."""
    rule = make_rule(name)
    plain, states = estimates(rule, REFERENCE, 1.0)
    gradients = lambda step, item: HESSIANS[item] @ (states[step].theta - CENTRES[item]) + CENTRES[item]  # noqa: E731
    sweep = Sweep(rule, rate, REFERENCE, states.__getitem__, gradients, lambda theta, item, u: HESSIANS[item] @ u)
    found = {s.step: s for s in sweep.backward(sweep.start(SLOPES))}
    tables = [torch.stack([gradients(t, i) for i in range(N)]) for t in range(N)]

    def lowrank(matrices: Tensor) -> tuple[Tensor, Tensor]:
        """The estimate, and the replay alone read linearly."""
        response = lambda step, picks, theta: (theta - states[step].theta) @ matrices[step]  # noqa: E731

        class Bent:
            def __call__(self, step: int, picks: Any, theta: Tensor) -> tuple[Tensor, None]:
                return picks.combine(tables[step]) + response(step, picks, theta), None

        dual = DualTransition(
            RuleTransition(rule, rate, Bent()),
            lambda t: states[t].theta,
            lambda t: found[t].weight,
            response,
            lambda t: found[t].injection,
        )
        end = replay(dual, dual.start(states[0].rows(len(ORDERS)), 2), OrderBatch.pack(ORDERS))
        return dual.contributions(end, N, SLOPES).sum(-1), (end.theta - states[-1].theta) @ SLOPES.T

    arbitrary = torch.randn(N, D, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    other = lowrank(arbitrary + arbitrary.transpose(1, 2))[0]
    assert torch.allclose(other, plain, rtol=0, atol=1e-12) == (name != "adamw")
    whole, alone = lowrank(HESSIANS)
    assert torch.allclose(whole, alone, rtol=0, atol=1e-12)
    assert not torch.allclose(whole, lowrank(torch.zeros_like(HESSIANS))[1], rtol=0, atol=1e-6)


def test_for_adamw_the_error_is_second_order_in_curvature() -> None:
    rule = make_rule("adamw", betas=(0.9, 0.95), weight_decay=0.1)
    errors = []
    for bend in (1e-2, 1e-3):
        found, states = estimates(rule, balanced_mixture(REFERENCE, 3, seed=1), bend)

        def gradient(theta: Tensor, item: int, bend: float = bend) -> Tensor:
            return bend * HESSIANS[item] @ (theta - CENTRES[item]) + CENTRES[item]

        truth = replay(
            RuleTransition(rule, rate, TrueGradients(gradient)),
            rule.init(START).rows(len(ORDERS)),
            OrderBatch.pack(ORDERS),
        )
        exact = (truth.theta - states[-1].theta) @ SLOPES.T
        errors.append((found - exact).abs().max().item())
    # each item has its own curvature, which the mean over the mixture leaves out at first order: the ratio is near 10,
    # and far below the first-order effect itself
    assert errors[1] < errors[0] / 8, errors


def test_a_centre_of_every_item_is_the_mean_transition() -> None:
    rule = make_rule("adamw", betas=(0.9, 0.95))
    mixture = balanced_mixture(REFERENCE, N, seed=0)
    table = torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    centre = CentreTransition(rule, rate, lambda step, theta, item: table[item])
    found = centre(0, OrderBatch.pack([mixture]).at(0), rule.init(START).rows(1)).row(0)
    assert torch.allclose(found.memory["v"], 0.05 * table.square().mean(0), rtol=1e-12)
    assert torch.allclose(found.memory["m"], 0.1 * table.mean(0), rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_an_ensemble_has_every_step_once_in_every_part_of_the_window(count: int) -> None:
    orders = ensemble_orders(REFERENCE, count, seed=3)
    assert all(sorted(order.steps) == sorted(REFERENCE.steps) for order in orders)
    width = N // count
    for item in REFERENCE.steps:
        assert sorted(order.steps.index(item) // width for order in orders) == list(range(count))
    assert orders == ensemble_orders(REFERENCE, count, seed=3)
    assert orders != ensemble_orders(REFERENCE, count, seed=4)


def test_an_ensemble_larger_than_the_window_begins_again() -> None:
    orders = ensemble_orders(REFERENCE, N + 2, seed=0)
    assert len(orders) == N + 2
    assert all(sorted(order.steps) == sorted(REFERENCE.steps) for order in orders)
    first = [order.steps[0] for order in orders[:N]]
    assert len(set(first)) == N, "the first N are a Latin square"


def test_orders_of_an_ensemble_make_batches_anew_and_keep_weights_and_lengths() -> None:
    reference = Order.of_entries(
        [[(0, 1.0), (1, 0.5)], [(2, 1.0), (3, 1.0)], [(4, 2.0), (5, 1.0)], [(1, 1.0), (0, 1.0)]]
    )
    orders = ensemble_orders(reference, 2, seed=1)
    pairs = sorted(pair for step in reference.entries for pair in step)
    for order in orders:
        assert sorted(pair for step in order.entries for pair in step) == pairs
        assert [len(step) for step in order.steps] == [2, 2, 2, 2]
    assert {tuple(sorted(s)) for s in orders[0].steps} != {tuple(sorted(s)) for s in reference.steps}


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 1), (2, 3), (3, 2), (1, 6)])
def test_groups_are_balanced_and_of_distinct_items(count: int, size: int) -> None:
    groups = balanced_groups(REFERENCE, count, size, seed=3)
    assert len(groups) == N
    assert {len(step) for step in groups} == {count}
    assert all(len(set(group)) == size == len(group) for step in groups for group in step)
    assert set(Counter(i for step in groups for group in step for i in group).values()) == {count * size}
    assert groups == balanced_groups(REFERENCE, count, size, seed=3)
    if size == 1:
        assert [[item for (item,) in step] for step in groups] == [
            list(step) for step in balanced_mixture(REFERENCE, count, seed=3).steps
        ]


def test_sensitivities_are_means_over_the_items_that_touch_a_coordinate() -> None:
    injections = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    gradients = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, -1.0], [0.0, 0.0, 3.0], [4.0, 0.0, 0.0]], dtype=torch.float64)
    found = mean_touched(injections, gradients)
    torch.testing.assert_close(found[:, 0], injections[[0, 1, 3], :, 0].mean(0))
    torch.testing.assert_close(found[:, 2], injections[[1, 2], :, 2].mean(0))
    assert not found[:, 1].any()


@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_mixtures_are_balanced_distinct_and_seeded(count: int) -> None:
    mixture = balanced_mixture(REFERENCE, count, seed=3)
    assert all(len(set(step)) == count for step in mixture.steps)
    assert set(Counter(i for step in mixture.steps for i in step).values()) == {count}
    assert mixture == balanced_mixture(REFERENCE, count, seed=3)
    assert count == N or mixture != balanced_mixture(REFERENCE, count, seed=4)


def test_a_mixture_of_more_items_than_there_are_is_refused() -> None:
    with pytest.raises(OrderError, match=r"1\.\.6 items a step, got 7"):
        balanced_mixture(REFERENCE, 7, seed=0)


@pytest.mark.parametrize("rate", [1e-3, 0.3, 0.0])
@pytest.mark.parametrize(("steps", "count"), [(32, 3), (64, 5), (31, 4), (4, 9), (5, 1), (1, 3)])
def test_anchors_at_a_constant_rate_are_even_over_steps(steps: int, count: int, rate: float) -> None:
    assert spread_anchors(steps, count, lambda _: rate) == spread_anchors(steps, count)


def test_anchors_are_dense_where_the_rate_is_high() -> None:
    rates = [4.0] * 4 + [1.0] * 16 + [0.0] * 5
    assert spread_anchors(25, 5, rates.__getitem__) == [0, 2, 4, 12, 24], "steps without a rate move nothing"
    assert spread_anchors(25, 40, rates.__getitem__)[-1] == 24


def test_anchors_interpolate_linearly_and_hold_at_the_ends() -> None:
    assert spread_anchors(32, 3) == [0, 16, 31]
    assert spread_anchors(4, 9) == [0, 1, 2, 3]
    assert spread_anchors(5, 1) == [0]
    slope, base = torch.randn(N, D, generator=draw), torch.randn(N, D, generator=draw)
    anchored = Anchored([0, 4, 7], lambda a: base + slope * [0, 4, 7][a])
    for t in range(8):
        assert torch.allclose(anchored(t), base + slope * t, atol=1e-5)
        picks = OrderBatch.pack(ORDERS).at(min(t, N - 1))
        assert torch.equal(anchored.pick(t, picks), picks.combine(anchored(t))), (
            "interpolating picked rows or all of them"
        )
    assert torch.equal(Anchored([0], lambda a: base)(5), base)


def test_probabilities_are_proportional_below_one_and_sum_to_the_size() -> None:
    scores = torch.tensor([100.0, 5.0, 1.0, 1.0, 0.0, 3.0])
    p = inclusion_probabilities(scores, 3, uniform=0.0)
    assert p.sum() == pytest.approx(3.0)
    assert p[0] == 1.0
    assert (p[1] / p[2]).item() == pytest.approx(5.0)
    assert torch.equal(inclusion_probabilities(scores, 6), torch.ones(6, dtype=torch.float64))
    assert (inclusion_probabilities(scores, 2) > 0).all(), "the uniform part reaches every coordinate"


def test_sampled_sums_are_unbiased_with_the_stated_variance() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.standard_normal(40)) * torch.linspace(0.1, 3, 40, dtype=torch.float64)
    p = inclusion_probabilities(values.abs() + 0.2, 12)
    sums, stated = [], []
    for seed in range(4000):
        kept = poisson_sample(p, seed)
        sums.append((values[kept] / p[kept]).sum().item())
        stated.append(sampling_variance(values[kept][None], p[kept]).item())
    exact = (values.square() * (1 - p) / p).sum().item()
    assert np.mean(sums) == pytest.approx(values.sum().item(), abs=4 * (exact / 4000) ** 0.5), "biased"
    assert np.var(sums) == pytest.approx(exact, rel=0.12), "the variance is not the stated one"
    assert np.mean(stated) == pytest.approx(exact, rel=0.12), "the estimate of the variance is biased"


@pytest.mark.parametrize("p", [0.2, 0.7, 1.0])
def test_halves_are_independent_samples_with_the_probabilities_they_state(p: float) -> None:
    """Of coordinates that were drawn with probability p: each half holds a of all, both hold a², a = 1 - sqrt(1 - p)."""
    count = 40_000
    first, second, either = independent_halves(torch.full((count,), p, dtype=torch.float64), 3)
    a = 1 - (1 - p) ** 0.5
    assert torch.allclose(either, torch.full((count,), a, dtype=torch.float64))
    assert (first | second).all(), "what was drawn is in one of them"
    for held, share in ((first, a), (second, a), (first & second, a * a)):
        found = p * held.double().mean().item()
        assert found == pytest.approx(share, abs=4 * p / count**0.5 / 2)
    other = independent_halves(torch.full((count,), p, dtype=torch.float64), 4)[0]
    assert p == 1.0 or not torch.equal(first, other)


@pytest.mark.parametrize("signs", [(1.0, 1.0), (1.0, -1.0), (-1.0, 0.0)])
def test_the_quadratic_part_of_a_sample_is_unbiased(signs: tuple[float, float]) -> None:
    """Over all samples of five coordinates, with their probabilities: not only where signs cancel."""
    contributions = torch.tensor([[1.0, -2.0, 0.5, 3.0, -0.3], [0.2, 1.0, -1.5, 0.4, 2.0]], dtype=torch.float64)
    p, sign = torch.tensor([0.2, 0.9, 0.5, 0.7, 1.0], dtype=torch.float64), torch.tensor(signs, dtype=torch.float64)
    total, mean = 0.0, 0.0
    for held in itertools.product((False, True), repeat=len(p)):
        kept = torch.tensor(held)
        probability = torch.where(kept, p, 1 - p).prod().item()
        values, variances = (part.sum(-1)[0] for part in partial_sums(contributions[None, :, kept], p[kept], 2))
        total, mean = total + probability, mean + probability * quadratic_part(values, variances, sign).item()
    assert total == pytest.approx(1.0)
    exact = 0.5 * (sign * contributions.sum(-1).square()).sum().item()
    assert mean == pytest.approx(exact, rel=1e-12)
    assert quadratic_part(contributions.sum(-1), torch.zeros(2), sign).item() == pytest.approx(exact, rel=1e-12)


def test_all_pairs_of_steps_are_seen_by_the_reference_curvature_test() -> None:
    """The orders above move items both ways and repeat some; otherwise the exactness test would prove little."""
    moved = {(a, b) for o in ORDERS for a, b in itertools.pairwise(i for s in o.steps for i in s)}
    assert len(moved) > N


def test_pooled_products_are_given_what_a_gradient_answers_with() -> None:
    """The injections of any gradient, as the rule pulls the costate back through it: those of the first read-outs left out
    where these have products of their own."""
    rule = make_rule("adamw", clip=0.5)
    states = [rule.init(START)]
    trajectory = CentreTransition(rule, rate, lambda step, theta, item: CENTRES[item])
    replay(trajectory, states[0].rows(1), OrderBatch.pack([REFERENCE]), listener=lambda t, z: states.append(z.row(0)))
    steep, answered = 100.0 * CENTRES[0], dict[int, Tensor]()

    def pooled(step: int, theta: Tensor, directions: Tensor, answer: Any) -> Tensor:
        answered[step] = answer(steep)
        return torch.zeros_like(directions)

    def swept(own: int) -> Sweep:
        return Sweep(
            rule,
            rate,
            REFERENCE,
            states.__getitem__,
            lambda step, item: CENTRES[item],
            lambda theta, item, u: torch.zeros_like(u),
            pooled,
            own,
        )

    start = swept(0).start(SLOPES)
    list(swept(0).backward(start))
    last = answered[N - 1]
    assert torch.equal(last, rule.pullback(states[N - 1], steep, rate(N - 1), start)[1])
    mean = rule.pullback(states[N - 1], CENTRES[N - 1], rate(N - 1), start)[1]
    assert (last.norm(dim=1) < 0.1 * mean.norm(dim=1)).all(), "clipping lets a steep gradient count little"
    list(swept(1).backward(start))
    assert torch.equal(answered[N - 1], last[1:])

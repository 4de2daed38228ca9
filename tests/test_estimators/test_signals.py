"""What a rule needs of a step beside its mean gradient: who supplies it, and who is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from estimators.contract import normal
from estimators.errors import RuleError
from estimators.orders.order import Order
from estimators.parameters import ParameterLayout
from estimators.replay import CachedGradients, CurvedGradients, OrderBatch, RuleTransition, TrueGradients, replay
from estimators.rules import make_rule
from estimators.rules.base import Rule
from estimators.rules.signals import Signals

LAYOUT = ParameterLayout(("a.weight", "a.bias"), ((2, 3), (2,)))
D, N = LAYOUT.size, 8
MATRICES = normal(N, D, D, seed=1)
HESSIANS = MATRICES @ MATRICES.mT / D
CENTRES, START = normal(N, D, seed=2), normal(D, seed=3)
ORDERS = [
    Order.of(o) for o in ([(0, 1, 2, 3), (4, 5, 6, 7)], [(7, 1, 5, 3), (4, 0, 6, 2)], [(0, 1, 2), (3, 4, 5, 6, 7)])
]
RULES: list[tuple[str, dict[str, Any]]] = [
    ("adamw_corrected", {"clip": 0.5, "weight_decay": 0.1}),
    ("adamw_corrected", {"cross_fit": "none", "correction": "square"}),
    ("shampoo_corrected", {"eps": 0.1}),
]


def gradient(theta: Tensor, item: int) -> Tensor:
    return HESSIANS[item] @ (theta - CENTRES[item])


def diagonal(theta: Tensor, item: int) -> Tensor:
    return HESSIANS[item].diagonal()


def rate(step: int) -> float:
    return 0.1 / (1 + step)


def bound(name: str, options: dict[str, Any]) -> Rule:
    return make_rule(name, **options).on(LAYOUT)


TRUE = TrueGradients(gradient, curvature=diagonal)


@pytest.mark.parametrize(
    ("name", "options"),
    [*RULES, ("sophia", {"period": 2}), ("sophia_corrected", {"period": 2, "gamma": 1.0, "eps": 0.1})],
)
def test_training_in_the_loop_is_training_written_out(name: str, options: dict[str, Any]) -> None:
    rule = bound(name, options)
    batch = OrderBatch.pack(ORDERS)
    final = replay(RuleTransition(rule, rate, TRUE), rule.init(START).rows(3), batch)
    for row, order in enumerate(ORDERS):
        state = rule.init(START)
        for t, items in enumerate(order.canonical().steps):
            stack = torch.stack([gradient(state.theta, item) for item in items])
            curvature = torch.stack([diagonal(state.theta, item) for item in items])
            state = rule.step(state, stack.mean(0), rate(t), signals=Signals(stack, curvature))[0]
        assert torch.allclose(final.theta[row], state.theta, rtol=0, atol=1e-12)
        alone = replay(RuleTransition(rule, rate, TRUE), rule.init(START).rows(1), OrderBatch.pack([order]))
        assert torch.equal(alone.theta[0], final.theta[row]), "a run depends on the others in its batch"
        assert all(torch.equal(alone.memory[k][0], final.memory[k][row]) for k in alone.memory)


@pytest.mark.parametrize(("name", "options"), RULES)
def test_exact_curvature_is_exact_on_quadratic_losses(name: str, options: dict[str, Any]) -> None:
    rule, trajectory = bound(name, options), [START]
    truth = RuleTransition(rule, rate, TRUE)
    keep = lambda t, z: trajectory.append(z.theta[0].clone())  # noqa: E731
    replay(truth, rule.init(START).rows(1), OrderBatch.pack(ORDERS[:1]), listener=keep)
    curved = CurvedGradients(trajectory.__getitem__, gradient, lambda theta, item, u: HESSIANS[item] @ u)
    batch = OrderBatch.pack(ORDERS)
    found = replay(RuleTransition(rule, rate, curved), rule.init(START).rows(3), batch).theta
    expected = replay(truth, rule.init(START).rows(3), batch).theta
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(found[0], expected[0]), "the reference order must be bitwise"


def test_what_supplies_no_items_or_curvature_is_refused_with_what_would_do() -> None:
    rule, batch = bound("adamw_corrected", {}), OrderBatch.pack(ORDERS[:1])
    table = torch.stack([gradient(START, i) for i in range(N)])
    cached = RuleTransition(rule, rate, CachedGradients(lambda t: table))
    with pytest.raises(RuleError, match=r"`adamw_corrected` needs micro_batches of a step.*use --estimator retrain"):
        replay(cached, rule.init(START).rows(1), batch)
    sophia = bound("sophia", {})
    with pytest.raises(RuleError, match="expected a source of it, got gradients alone; use --estimator retrain"):
        replay(RuleTransition(sophia, rate, TrueGradients(gradient)), sophia.init(START).rows(1), batch)
    for weighted in (Order.of([{"items": [0, 1], "weights": [1.0, 2.0]}]), Order.of([()])):
        with pytest.raises(RuleError, match="expected items of equal weight"):
            replay(RuleTransition(rule, rate, TRUE), rule.init(START).rows(1), OrderBatch.pack([weighted]))


def test_groups_pass_their_tensors_of_the_signals_on() -> None:
    """A matrix by Muon, a vector by a corrected rule: as each does it alone."""
    groups = [
        {"name": "matrices", "rule": "muon", "tensors": ["*.weight"]},
        {"name": "rest", "rule": "adamw_corrected", "options": {"weight_decay": 0.1}, "scale": 0.5},
    ]
    rule = make_rule("grouped", groups=groups).on(LAYOUT)
    assert rule.signals == {"micro_batches"}
    muon, rest = (
        make_rule("muon").on(ParameterLayout(("w",), ((2, 3),))),
        make_rule("adamw_corrected", weight_decay=0.1),
    )
    state, one, two = rule.init(START), muon.init(START[:6]), rest.init(START[6:])
    for t, items in enumerate(ORDERS[0].steps):
        stack = torch.stack([gradient(state.theta, item) for item in items])
        mean = stack.mean(0)
        state = rule.step(state, mean, rate(t), signals=Signals(stack))[0]
        one = muon.step(one, mean[:6], rate(t))[0]
        two = rest.step(two, mean[6:], 0.5 * rate(t), signals=Signals(stack[:, 6:]))[0]
    assert torch.equal(state.theta, torch.cat([one.theta, two.theta]))
    with pytest.raises(RuleError, match="the rule `grouped`: expected `micro_batches` beside the mean gradient"):
        rule.step(state, START, 0.1)
    sophia = make_rule("grouped", groups=[{"name": "all", "rule": "sophia", "options": {"period": 2}}]).on(LAYOUT)
    began = sophia.init(START)
    assert sophia.needs(began.clock) == {"curvature"}
    after = sophia.step(began, START, 0.1, signals=Signals(curvature=torch.ones(2, D).double()))[0]
    assert sophia.needs(after.clock) == frozenset()

"""The linear update that `benchmarks/ablations.py` compares with the true rule."""

from __future__ import annotations

import pytest
import torch
from frozen import FrozenSecondMoment
from torch import Tensor

from estimators.adjoint import DualTransition
from estimators.orders.order import Order
from estimators.replay import CachedGradients, OrderBatch, RuleTransition, replay
from estimators.rules import make_rule
from estimators.rules.adam import Adam
from estimators.state import State
from estimators.trajectory import CentreTransition, balanced_mixture

ITEMS, SIZE = 6, 5
SCALE = torch.linspace(0.5, 3.0, SIZE, dtype=torch.float64)
ORDERS = [Order.of([5, 4, 3, 2, 1, 0]), Order.of([1, 0, 2, 2, 5, 3])]


def rate(step: int) -> float:
    return 0.05 / (1 + step)


def contributions(alike: bool, clip: float | None = None) -> tuple[Tensor, Tensor]:
    """What every coordinate contributes under two orders, replayed by the true rule and with the trajectory's second moment.

    alike: whether all items' gradients have the same size element by element, so that only their signs tell them apart.
    """
    draw = torch.Generator().manual_seed(0)
    raw = torch.randn(ITEMS, ITEMS, SIZE, dtype=torch.float64, generator=draw)
    table = SCALE * raw.sign() if alike else SCALE * raw
    rule = make_rule("adamw", betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, clip=clip)
    assert isinstance(rule, Adam)
    centre = [rule.init(SCALE.clone())]
    mean = CentreTransition(rule, rate, lambda step, theta, item: table[step, item])
    mixture = OrderBatch.pack([balanced_mixture(Order.of(range(ITEMS)), 2, 0)])
    replay(mean, centre[0].rows(1), mixture, listener=lambda t, z: centre.append(z.row(0)))
    weights = torch.randn(ITEMS + 1, 1, SIZE, dtype=torch.float64, generator=draw)

    def found(inner: RuleTransition | FrozenSecondMoment) -> Tensor:
        dual = DualTransition(inner, lambda t: centre[t].theta, weights.__getitem__)
        end: State = replay(dual, dual.start(centre[0].rows(len(ORDERS)), 1), OrderBatch.pack(ORDERS))
        return dual.contributions(end, ITEMS, weights[ITEMS])

    gradients = CachedGradients(table.__getitem__)
    frozen = FrozenSecondMoment(rule, rate, gradients, lambda t: centre[t + 1].memory["v"])
    return found(RuleTransition(rule, rate, gradients)), found(frozen)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_with_a_second_moment_that_does_not_move_it_is_the_adjoint(clip: float | None) -> None:
    true, frozen = contributions(alike=True, clip=clip)
    assert true.abs().max() > 0.01
    assert torch.allclose(frozen, true, rtol=1e-12, atol=1e-15)


def test_else_it_differs() -> None:
    true, frozen = contributions(alike=False)
    assert (frozen - true).norm() > 0.05 * true.norm()


def test_what_it_does_not_cover_is_refused() -> None:
    rule = make_rule("adamw", eps=0.0)
    assert isinstance(rule, Adam)
    with pytest.raises(ValueError, match="expected eps > 0 and decoupled decay"):
        FrozenSecondMoment(rule, rate, CachedGradients(lambda t: SCALE), lambda t: SCALE)

"""Any optimizer of torch as a rule: it goes step by step as the object itself does, in a stack of runs too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from estimators.errors import RuleError
from estimators.parameters import ParameterLayout
from estimators.rules.optimizer_rule import OptimizerRule
from estimators.rules.rates import GroupRates

SHAPES = ((4, 3), (5,), (2, 2))
LAYOUT = ParameterLayout(("a", "b", "c"), SHAPES)
STEPS, RATE = 20, 0.05


def tensors() -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(*shape, generator=draw, dtype=torch.float64)) for shape in SHAPES]


def gradient(step: int, theta: Tensor) -> Tensor:
    return torch.sin(theta + step) * (1 + 0.1 * torch.arange(LAYOUT.size, dtype=theta.dtype))


class Counting(Optimizer):
    """Sign descent that slows down, with a Python counter in its state."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["count"] = state.get("count", 0) + 1
                p.data -= group["lr"] / state["count"] * p.grad.sign()


MAKERS: dict[str, Callable[[Any], Optimizer]] = {
    "rprop": lambda p: torch.optim.Rprop(p, lr=RATE),
    "adamax": lambda p: torch.optim.Adamax(p, lr=RATE),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=RATE, momentum=0.5, centered=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=RATE),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=RATE, amsgrad=True),
    "counting": lambda p: Counting(p, lr=RATE),
}


def by_torch(optimizer: Optimizer, parameters: list[nn.Parameter]) -> Tensor:
    for step in range(STEPS):
        theta = LAYOUT.join([p.detach() for p in parameters])
        for p, part in zip(parameters, LAYOUT.split(gradient(step, theta)), strict=True):
            p.grad = part.clone()
        for group in optimizer.param_groups:
            group["lr"] = RATE / (1 + step)
        optimizer.step()
    return LAYOUT.join([p.detach() for p in parameters])


@pytest.mark.parametrize("name", MAKERS)
def test_it_goes_as_the_optimizer_does(name: str) -> None:
    rule = OptimizerRule(optimizer=MAKERS[name](tensors())).on(LAYOUT)
    start = LAYOUT.join([p.detach() for p in tensors()])
    state = rule.init(torch.stack([2 * start, start]))
    for step in range(STEPS):
        state, moved = rule.step(state, gradient(step, state.theta), RATE / (1 + step))
        assert {k: v.shape for k, v in state.memory.items()} == {
            k: v.shape for k, v in rule.init(state.theta).memory.items()
        }
    assert state.clock == {"step": float(STEPS)}
    assert moved.shape == (2, LAYOUT.size)
    expected = by_torch(MAKERS[name](parameters := tensors()), parameters)
    torch.testing.assert_close(state.theta[1], expected, rtol=0, atol=1e-12)


def test_the_object_is_left_alone() -> None:
    optimizer = torch.optim.Adamax(parameters := tensors(), lr=RATE)
    before = [p.detach().clone() for p in parameters]
    rule = OptimizerRule(optimizer=optimizer).on(LAYOUT)
    rule.step(rule.init(torch.zeros(LAYOUT.size)), torch.ones(LAYOUT.size), 0.1)
    assert not optimizer.state
    assert optimizer.param_groups[0]["lr"] == RATE
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(parameters, before, strict=True))


def test_groups_have_their_rates() -> None:
    a, b, c = tensors()
    tables: list[dict[str, Any]] = [{"params": [b], "name": "b"}, {"params": [c, a]}]
    optimizer = torch.optim.SGD(tables, lr=0.1)
    rule = OptimizerRule(optimizer=optimizer, tensors=("b", "c", "a")).on(LAYOUT)
    moved = rule.step(rule.init(torch.zeros(LAYOUT.size)), torch.ones(LAYOUT.size), GroupRates(0.5, {"b": 0.25}))[1]
    assert [part.unique().tolist() for part in LAYOUT.split(moved)] == [[-0.5], [-0.25], [-0.5]]


def test_what_it_cannot_do_is_said() -> None:
    rule = OptimizerRule(optimizer=torch.optim.Rprop(tensors())).on(LAYOUT)
    state = rule.init(torch.zeros(LAYOUT.size))
    with pytest.raises(RuleError, match="derivative"):
        rule.pullback(state, torch.ones(LAYOUT.size), 0.1, state)
    with pytest.raises(RuleError, match="updated together"):
        rule.restrict(slice(0, 12))
    assert rule.blocks(LAYOUT.size, 1) == [slice(0, LAYOUT.size)]


def test_objects_that_do_not_fit() -> None:
    with pytest.raises(RuleError, match="tensors of shapes"):
        OptimizerRule(optimizer=torch.optim.SGD(tensors()[:2])).on(LAYOUT)
    with pytest.raises(RuleError, match="got `z`"):
        OptimizerRule(optimizer=torch.optim.SGD(tensors()[:1]), tensors=("z",)).on(LAYOUT)
    lbfgs = torch.optim.LBFGS(tensors())
    with pytest.raises((RuleError, TypeError)):
        OptimizerRule(optimizer=lbfgs).on(LAYOUT).init(torch.zeros(LAYOUT.size))

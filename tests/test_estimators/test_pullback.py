"""The adjoint of every rule: dual to its tangent, equal to automatic differentiation, finite where that is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from estimators.errors import RuleError
from estimators.rules import make_rule
from estimators.rules.base import Rule
from estimators.rules.sgd import SGD
from estimators.state import State

D, RATE = 9, 0.03
RULES: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {}),
    ("sgd", {"weight_decay": 0.2}),
    ("momentum", {"kind": "heavy_ball", "weight_decay": 0.1, "decay": "decoupled"}),
    ("momentum", {"kind": "ema", "clip": 1.0}),
    ("momentum", {"kind": "nesterov", "weight_decay": 0.1}),
    ("adam", {"betas": (0.9, 0.95), "weight_decay": 0.3}),
    ("adamw", {"betas": (0.9, 0.95)}),
    ("adamw", {"betas": (0.9, 0.95), "weight_decay": 0.3, "clip": 1.0}),
    ("adamw", {"betas": (0.9, 0.95), "clip": 1e6}),
]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def warm(rule: Rule) -> State:
    """A state after three steps, with every buffer in use."""
    state = rule.init(normal(D, seed=0))
    for t in range(3):
        state = rule.step(state, normal(D, seed=10 + t), RATE)[0]
    return state


def like(state: State, seed: int) -> State:
    return State(
        normal(D, seed=seed), {k: normal(D, seed=seed + 1 + i) for i, k in enumerate(state.memory)}, state.clock
    )


def dot(a: State, b: State) -> Tensor:
    return a.theta @ b.theta + sum(a.memory[k] @ b.memory[k] for k in a.memory)


@pytest.mark.parametrize(("name", "options"), RULES)
def test_the_pullback_is_dual_to_the_tangent(name: str, options: dict[str, Any]) -> None:
    rule = make_rule(name, **options)
    state, gradient = warm(rule), normal(D, seed=3)
    dstate, dgradient, costate = like(state, 20), normal(D, seed=30), like(state, 40)
    forward = dot(costate, rule.tangent(state, gradient, RATE, dstate, dgradient))
    before, sensitivity = rule.pullback(state, gradient, RATE, costate)
    assert torch.allclose(forward, dot(before, dstate) + sensitivity @ dgradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "options"), RULES)
def test_the_pullback_is_the_vjp_of_the_step(name: str, options: dict[str, Any]) -> None:
    rule = make_rule(name, **options)
    state, gradient, costate = warm(rule), normal(D, seed=3), like(warm(rule), 40)
    names = list(state.memory)

    def step(theta: Tensor, g: Tensor, *buffers: Tensor) -> tuple[Tensor, ...]:
        z = rule.step(State(theta, dict(zip(names, buffers, strict=True)), state.clock), g, RATE)[0]
        return (z.theta, *(z.memory[k] for k in names))

    pull: Any = torch.func.vjp(step, state.theta, gradient, *(state.memory[k] for k in names))[1]
    theta, g, *buffers = pull((costate.theta, *(costate.memory[k] for k in names)))
    before, sensitivity = rule.pullback(state, gradient, RATE, costate)
    for found, expected in [
        (before.theta, theta),
        (sensitivity, g),
        *zip(before.memory.values(), buffers, strict=True),
    ]:
        assert torch.allclose(found, expected, rtol=0, atol=1e-10)


def test_coordinates_never_touched_have_finite_sensitivities() -> None:
    rule = make_rule("adamw", betas=(0.9, 0.95))
    state, gradient = rule.init(normal(D, seed=0)), normal(D, seed=3)
    gradient[4] = 0.0
    before, sensitivity = rule.pullback(state, gradient, RATE, like(state, 40))
    assert all(torch.isfinite(t).all() for t in (before.theta, sensitivity, *before.memory.values()))


def test_a_rule_without_a_derivative_refuses_by_name() -> None:
    class Sign(SGD):
        name = "sign"
        smooth = False

    with pytest.raises(RuleError, match=r"`sign`.*smooth rule.*`replay`"):
        Sign().pullback(warm(SGD()), normal(D, seed=3), RATE, like(warm(SGD()), 40))

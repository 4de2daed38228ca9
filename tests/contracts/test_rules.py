"""Every registered rule keeps the published contract of rules, and the contract sees rules that break it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from coupled import MATRICES, Lying, Orthogonal, Trusting
from torch import Tensor

from estimators import contract
from estimators.contract import CHECKS, ContractError, check_rule, layouts_of
from estimators.errors import RuleError
from estimators.parameters import ParameterLayout
from estimators.rules import RULES, SGD, AdamW, Group, Grouped, Momentum, make_rule
from estimators.rules.base import Rule
from estimators.state import State

OPTIONS: dict[str, dict[str, Any]] = {"plain": {}, "decayed": {"weight_decay": 0.1, "clip": 2.0}}
EVERY: dict[str, type[Rule]] = RULES | {rule.name: rule for rule in (Orthogonal, Trusting)}


OWN: dict[str, dict[str, Any]] = {
    "shampoo": {"eps": 0.1},  # below which differences of nearly equal eigenvalues say nothing
    "shampoo_corrected": {"eps": 0.1},
    "soap": {"period": 2},
    "adamw_mols": {"calibration": 2},  # which the checks' few steps reach
    "sophia": {"period": 2},
    "sophia_corrected": {"period": 2},
}


def made(name: str, options: dict[str, Any]) -> Rule:
    if name == "grouped":  # decay belongs to its groups
        own = {key: value for key, value in options.items() if key != "clip"}
        groups = [{"name": "decayed", "tensors": ["*.weight"], "options": own}, {"name": "plain", "options": own}]
        return make_rule(name, groups=groups, clip=options.get("clip"))
    return EVERY[name](**options, **OWN.get(name, {}))


PAIRS = [("plain", "flat"), ("plain", "matrices"), ("decayed", "matrices"), ("decayed", "groups")]
CASES = [(name, *pair) for name in EVERY for pair in PAIRS if pair[1] in layouts_of(EVERY[name])]


@pytest.mark.parametrize(("name", "options", "layout"), CASES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_rule_keeps_the_contract(
    check: Callable[[Rule, ParameterLayout], None], name: str, options: str, layout: str
) -> None:
    rule = made(name, OPTIONS[options])
    check(rule, layouts_of(rule)[layout])


@pytest.mark.parametrize("clip", [None, 2.0])
@pytest.mark.parametrize("name", [name for name in RULES if name != "grouped"])
def test_grouped_keeps_it_with_every_rule_as_a_member(name: str, clip: float | None) -> None:
    member = Group(name="matrices", rule=made(name, {}), tensors=("*.weight",), scale=0.5)
    rule = Grouped(groups=(member, Group(name="rest", rule=AdamW(weight_decay=0.1))), clip=clip)
    check_rule(rule, [contract.LAYOUTS["matrices"]])


PART = slice(20, 25)
"""The bias of the layout `matrices`, a block of every coupling but the widest."""


@pytest.mark.parametrize("layout", [None, contract.LAYOUTS["matrices"]], ids=["without a layout", "bound"])
def test_the_derivative_of_clipping_needs_all_coordinates(layout: ParameterLayout | None) -> None:
    whole = AdamW(clip=2.0, layout=layout)
    state, gradient = whole.init(torch.ones(57)), torch.ones(57)
    part, own = whole.restrict(PART), state.restrict(PART)
    moved = part.step(own, gradient[PART], 0.1, norm=gradient.norm())[1]
    assert torch.equal(moved, whole.step(state, gradient, 0.1)[1][PART])
    with pytest.raises(RuleError, match=r"expected all coordinates for the derivative of a clipped step"):
        part.tangent(own, own.theta, 0.1, own, own.theta)
    with pytest.raises(RuleError, match=r"expected all coordinates for the derivative of a clipped step"):
        part.pullback(own, own.theta, 0.1, own)
    free = AdamW(layout=layout).restrict(PART)
    free.pullback(own, own.theta, 0.1, own)
    if layout is not None:
        whole.restrict(slice(None)).pullback(state, gradient, 0.1, state)
        part.on(layout).pullback(state, gradient, 0.1, state)


@pytest.mark.parametrize("kind", ["heavy_ball", "ema", "nesterov"])
def test_every_kind_of_momentum_keeps_it(kind: Any) -> None:
    check_rule(Momentum(kind=kind))


@dataclass(frozen=True, kw_only=True)
class Sign(Momentum):
    """The sign of momentum (Bernstein et al. 2018), which has no derivative to speak of."""

    name: ClassVar[str] = "sign"
    smooth: ClassVar[bool] = False

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        _, memory, clock = super().update(state, gradient, rate)
        return -rate * memory["m"].sign(), memory, clock

    update_tangent = Rule.update_tangent


def test_a_rule_that_is_not_smooth_keeps_it() -> None:
    check_rule(Sign())


class Unhashable(SGD):
    __hash__ = None  # type: ignore[assignment]


class Widening(SGD):
    def init(self, theta: Tensor) -> State:
        return State(theta, {"m": torch.zeros(theta.shape, dtype=torch.float64, device=theta.device)}, {"step": 0.0})

    def update(self, state: State, gradient: Tensor, rate: float) -> Any:
        return -rate * gradient, dict(state.memory), {"step": state.clock["step"] + 1.0}


class Overwriting(Momentum):
    def update(self, state: State, gradient: Tensor, rate: float) -> Any:
        m = state.memory["m"].mul_(self.beta).add_(gradient)
        return -rate * m, {"m": m}, {"step": state.clock["step"] + 1.0}


class Stopped(SGD):
    def update(self, state: State, gradient: Tensor, rate: float) -> Any:
        return -rate * gradient, {}, dict(state.clock)


class Mixing(SGD):
    def update(self, state: State, gradient: Tensor, rate: float) -> Any:
        mean = gradient.mean(0) if gradient.ndim > 1 else gradient
        return -rate * (gradient + 1e-9 * mean), {}, {"step": state.clock["step"] + 1.0}


class Secretive(SGD):
    def update(self, state: State, gradient: Tensor, rate: float) -> Any:
        return -rate * gradient * (1 + state.theta.square()), {}, {"step": state.clock["step"] + 1.0}


class Sloppy(AdamW):
    def update_tangent(self, state: State, gradient: Tensor, *rest: Any) -> Any:
        ddelta, dmemory = super().update_tangent(state, gradient, *rest)
        return 1.001 * ddelta, dmemory


class Crooked(AdamW):
    def update_pullback(self, state: State, gradient: Tensor, *rest: Any) -> Any:
        memory, dgradient = super().update_pullback(state, gradient, *rest)
        return memory, 1.00001 * dgradient


class Undefined(Momentum):
    def update_tangent(self, *arguments: Any) -> Any:
        ddelta, dmemory = super().update_tangent(*arguments)
        return ddelta * float("nan"), dmemory


class Rough(Sign):
    def pullback(self, state: State, gradient: Tensor, rate: float, costate: State, norm: Any = None) -> Any:
        return costate, gradient


BROKEN: list[tuple[Rule, str, str]] = [
    (Unhashable(), "check_declarations", "frozen dataclass"),
    (Widening(), "check_buffers", "expected tensors of torch.float32, got torch.float64"),
    (Overwriting(), "check_purity", "leave the state and the gradient as they are"),
    (Stopped(), "check_purity", "whose `step` counts"),
    (Mixing(), "check_rows", "the bits that it has alone"),
    (Lying(), "check_cuts", "blocks apart"),
    (Lying(), "check_permutations", "another order of tensors"),
    (Lying(), "check_derivatives_of_blocks", "derivatives of blocks"),
    (Undefined(), "check_derivatives_of_blocks", "derivatives of blocks"),
    (Secretive(), "check_reads_theta", "looks at theta, got reads_theta = False"),
    (Sloppy(), "check_tangent", "central differences"),
    (Undefined(), "check_tangent", "central differences"),
    (Crooked(), "check_pullback", "<pullback, direction>"),
    (Rough(), "check_pullback", "expected RuleError"),
]


@pytest.mark.parametrize(("rule", "check", "says"), BROKEN, ids=lambda value: getattr(value, "name", None))
def test_a_broken_rule_is_seen_and_named(rule: Rule, check: str, says: str) -> None:
    with pytest.raises(ContractError, match=f"the rule `{rule.name}`.*{says}"):
        getattr(contract, check)(rule, MATRICES)
    with pytest.raises(ContractError):
        check_rule(rule)


def test_every_check_has_a_rule_that_breaks_it() -> None:
    assert {check for _, check, _ in BROKEN} == {check.__name__ for check in CHECKS}

"""A step in blocks has the bits of the step in one piece."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from estimators.contract import normal, signals_of
from estimators.parameters import ParameterLayout
from estimators.rules import RULES, blockwise, make_rule
from estimators.rules.base import Rule
from estimators.rules.rates import GroupRates
from estimators.state import State

pytestmark = pytest.mark.fast
LAYOUT = ParameterLayout(("a.weight", "a.bias", "b.weight", "b.bias"), ((23, 31), (23,), (7, 40), (9,)))
COMMON: dict[str, Any] = {"clip": 0.5}
GROUPS = [
    {"name": "decayed", "tensors": ["*.weight"], "options": {"weight_decay": 0.1}},
    {"name": "plain", "rule": "momentum", "scale": 0.5},
]
RULE_OF: dict[str, Rule] = {
    name: make_rule(name, weight_decay=0.1, **COMMON)
    for name, kind in RULES.items()
    if name != "grouped" and kind.coupling == "coordinate"
} | {"grouped": make_rule("grouped", groups=GROUPS, **COMMON)}


def trained(rule: Rule, rows: tuple[int, ...], dtype: torch.dtype, rate: float) -> State:
    bound = rule.on(LAYOUT)
    state = bound.init(normal(*rows, LAYOUT.size, seed=1).to(dtype))
    for step in range(3):
        gradient = normal(*rows, LAYOUT.size, seed=10 + step).to(dtype)
        state, moved = bound.step(state, gradient, rate, signals=signals_of(bound, gradient))
        assert moved.shape == state.theta.shape
    return state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [(1,), (3,)])
@pytest.mark.parametrize("name", RULE_OF)
def test_blocks_change_no_bit(
    name: str, rows: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = GroupRates(0.05, {"plain": 0.02}) if name == "grouped" else 0.05
    whole = trained(RULE_OF[name], rows, dtype, rate)
    calls: list[int] = []
    monkeypatch.setattr(blockwise, "BLOCK", 50)
    monkeypatch.setattr(blockwise, "NARROWEST", 10)
    for module in ("base", "grouped"):
        monkeypatch.setattr(
            f"estimators.rules.{module}.in_blocks", lambda *a: calls.append(len(a[0])) or blockwise.in_blocks(*a)
        )
    parts = trained(RULE_OF[name], rows, dtype, rate)
    assert len(calls) == 3
    assert min(calls) >= blockwise.LEAST
    assert parts.clock == whole.clock
    assert parts.memory.keys() == whole.memory.keys()
    for ours, expected in zip(
        (parts.theta, *parts.memory.values()), (whole.theta, *whole.memory.values()), strict=True
    ):
        assert torch.equal(ours, expected)


def test_what_is_coupled_or_small_is_stepped_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    state = make_rule("adamw").init(torch.zeros(LAYOUT.size))
    assert not make_rule("adamw")._pieces(state)
    monkeypatch.setattr(blockwise, "BLOCK", 50)
    monkeypatch.setattr(blockwise, "NARROWEST", 10)
    assert make_rule("adamw")._pieces(state)
    lamb = make_rule("lamb").on(LAYOUT)
    assert not lamb._pieces(lamb.init(torch.zeros(LAYOUT.size)))

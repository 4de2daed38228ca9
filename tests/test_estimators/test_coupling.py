"""The contract of a rule's coupling: whatever is cut or permuted along it, numbers stay as they are."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from coupled import (
    LAYOUTS,
    MATRICES,
    TOLERANCE,
    Lying,
    Orthogonal,
    Trusting,
    cut_error,
    derivative_error,
    gradients,
    normal,
    permutation_error,
    trained,
)

from estimators.errors import RuleError
from estimators.parameters import Coupling, ParameterLayout
from estimators.position_table import StepStates, chunked_values, item_values
from estimators.rules import RULES, make_rule
from estimators.rules.base import Rule
from estimators.rules.clipping import global_norm
from estimators.state import State

KINDS: dict[str, dict[str, Any]] = {"plain": {}, "decayed": {"weight_decay": 0.1, "clip": 2.0}}
OWN = {rule.name: rule for rule in (Orthogonal, Trusting)}
EVERY = [*RULES, *OWN]


def made(name: str, kind: str = "plain") -> Rule:
    return OWN[name](**KINDS[kind]) if name in OWN else make_rule(name, **KINDS[kind])


def allowed(rule: Rule) -> float:
    """How far numbers may differ: not at all where coordinates are updated by themselves."""
    return 0.0 if rule.coupling == "coordinate" else TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EVERY)
def test_cutting_or_permuting_along_the_coupling_changes_nothing(name: str, kind: str, layout: str) -> None:
    rule = made(name, kind)
    assert rule.coupling in get_args(Coupling)
    assert cut_error(rule, LAYOUTS[layout]) <= allowed(rule)
    assert permutation_error(rule, LAYOUTS[layout]) <= allowed(rule)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [name for name in EVERY if name != "trusting"])
def test_derivatives_of_blocks_are_those_of_the_whole(name: str, kind: str, layout: str) -> None:
    rule = made(name, kind)
    assert derivative_error(rule, LAYOUTS[layout]) <= allowed(rule)


def test_a_rule_that_lies_about_its_coupling_fails() -> None:
    assert cut_error(Lying(), MATRICES) > 0.01
    assert permutation_error(Lying(), MATRICES) > 0.01
    assert derivative_error(Lying(), MATRICES) > 0.01


@pytest.mark.parametrize("name", EVERY)
def test_whether_the_update_reads_theta_is_said(name: str) -> None:
    rule = made(name).on(MATRICES)
    state, gradient = (
        trained(rule, normal(2, 57, seed=9), gradients(57), [normal(2, seed=1)] * 3),
        normal(2, 57, seed=4),
    )
    other = State(2 * state.theta, state.memory, state.clock)
    same = torch.equal(rule.update(state, gradient, 0.1)[0], rule.update(other, gradient, 0.1)[0])
    assert same is not rule.reads_theta


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EVERY)
def test_the_pullback_is_the_adjoint_of_the_tangent_on_a_layout(name: str, kind: str) -> None:
    rule, given = made(name, kind).on(MATRICES), gradients(57)
    state = trained(rule, normal(2, 57, seed=9), given, [global_norm(g) for g in given]).row(0)
    gradient, dgradient = normal(57, seed=4), normal(57, seed=5)

    def around(seed: int) -> State:
        memory = {k: normal(*b.shape, seed=seed + 1 + i) for i, (k, b) in enumerate(state.memory.items())}
        return State(normal(57, seed=seed), memory, state.clock)

    def inner(a: State, b: State) -> float:
        return float(a.theta @ b.theta + sum(a.memory[k] @ b.memory[k] for k in a.memory))

    direction, costate = around(30), around(40)
    before, sensitivity = rule.pullback(state, gradient, 0.1, costate)
    along = inner(costate, rule.tangent(state, gradient, 0.1, direction, dgradient))
    assert inner(before, direction) + float(sensitivity @ dgradient) == pytest.approx(along, rel=1e-10)


@pytest.mark.parametrize("name", EVERY)
def test_a_stack_of_runs_is_each_run_alone_bitwise(name: str) -> None:
    rule, given, start = made(name, "decayed").on(MATRICES), gradients(57), normal(2, 57, seed=9)
    norms = [global_norm(g) for g in given]
    stack = trained(rule, start, given, norms)
    for row in range(2):
        alone = trained(rule, start[row], [g[row] for g in given], [n[row] for n in norms])
        assert torch.equal(stack.theta[row], alone.theta)


@pytest.mark.parametrize("name", EVERY)
def test_buffers_are_counted_as_init_makes_them(name: str) -> None:
    rule = made(name)
    memory = rule.on(MATRICES).init(torch.zeros(57)).memory
    assert rule.buffers(MATRICES) == {k: len(b) for k, b in memory.items()}
    assert rule.state_size(MATRICES) == 57 + sum(len(b) for b in memory.values())
    assert rule.state_vectors(MATRICES) == {"sgd": 1, "adam": 3, "adamw": 3}.get(name, 2)


def test_a_coupled_rule_never_takes_part_of_a_block_and_says_so() -> None:
    rule = Orthogonal().on(MATRICES)
    state, gradient = rule.init(normal(57, seed=1)), normal(57, seed=2)
    with pytest.raises(RuleError, match=r"the rule `orthogonal`: expected all 20 coordinates of `a.weight` or none"):
        rule.restrict(slice(0, 10))
    with pytest.raises(RuleError, match=r"expected a layout of the parameters.*got none; bind one: rule.on"):
        Orthogonal().step(state, gradient, 0.1)
    with pytest.raises(RuleError, match="expected a layout"):
        Orthogonal().restrict(slice(0, 10))
    with pytest.raises(RuleError, match="expected a layout"):
        Orthogonal().blocks(57, 10)
    assert make_rule("adamw").restrict(slice(0, 10)) == make_rule("adamw"), "which needs no layout"


@pytest.mark.parametrize("name", ["adamw", "orthogonal"])
def test_a_bound_rule_refuses_a_state_that_was_cut_without_it(name: str) -> None:
    rule = made(name).on(MATRICES)
    state = rule.init(normal(57, seed=1)).restrict(slice(0, 20))
    gradient = normal(20, seed=2)
    for call in (
        lambda: rule.step(state, gradient, 0.1),
        lambda: rule.tangent(state, gradient, 0.1, state, gradient),
        lambda: rule.pullback(state, gradient, 0.1, state),
        lambda: rule.blocks(20, 5),
    ):
        with pytest.raises(RuleError, match=r"expected all 57 coordinates of its layout, got 20; take rule.restrict"):
            call()
    assert rule.restrict(slice(0, 20)).step(state, gradient, 0.1)[0].theta.shape == (20,)


def test_memory_that_is_not_by_coordinate_is_not_cut() -> None:
    state = Trusting().on(MATRICES).init(normal(57, seed=1))
    with pytest.raises(RuleError, match=r"expected memory of 57 numbers, one for each coordinate, got 3 in `v`; use"):
        state.restrict(slice(0, 20))


def test_the_layout_is_no_option_of_a_configuration() -> None:
    with pytest.raises(RuleError, match="expected options among weight_decay, decay, clip; got layout"):
        make_rule("sgd", layout=MATRICES)


@pytest.mark.parametrize("cached", [1, 125, 1 << 16])
def test_chunks_of_the_table_of_positions_hold_whole_matrices(monkeypatch: pytest.MonkeyPatch, cached: int) -> None:
    monkeypatch.setattr("estimators.position_table.CACHED", cached)
    rule, given = Orthogonal().on(MATRICES), gradients(57)
    before = trained(rule, normal(2, 57, seed=9), given, [global_norm(g) for g in given]).row(0)
    after, costate = (
        rule.step(before, given[0][0], 0.1)[0],
        State(normal(1, 57, seed=3), {"m": normal(1, 57, seed=4)}, {}),
    )
    states, items = StepStates(before, after, costate), normal(5, 57, seed=6)
    whole = item_values(rule, 0.1, states, items, global_norm(items))
    places, parts = zip(*chunked_values(rule, 0.1, states, items, global_norm(items)), strict=True)
    assert len(places) == {1: 3, 125: 2, 1 << 16: 1}[cached]
    assert torch.allclose(torch.cat(parts, dim=-1), whole, rtol=1e-12, atol=1e-14)


def test_groups_follow_the_coordinates_that_are_taken() -> None:
    layout = ParameterLayout(MATRICES.names, MATRICES.shapes, ("x", "y", "z"))
    found = make_rule("adamw").on(layout).restrict(torch.tensor([0, 21, 22, 56])).parameters
    assert (found.groups, found.sizes) == (("x", "y", "z"), (1, 2, 1))

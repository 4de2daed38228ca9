"""What follows from a rule's coupling: a bound rule is never cut without its layout, nor through what is coupled.

The contract that every rule passes is in `tests/contracts/test_rules.py`.
"""

from __future__ import annotations

import pytest
import torch
from coupled import MATRICES, Orthogonal, Trusting

from estimators.contract import ONLY_MATRICES, gradients, normal, trained
from estimators.errors import RuleError
from estimators.parameters import ParameterLayout
from estimators.position_table import StepStates, chunked_values, item_values
from estimators.rules import RULES, make_rule
from estimators.rules.base import Rule
from estimators.rules.clipping import global_norm
from estimators.rules.sizes import state_size, state_vectors
from estimators.state import State

OWN = {rule.name: rule for rule in (Orthogonal, Trusting)}
EVERY = [*RULES, *OWN]


def made(name: str) -> Rule:
    if name == "grouped":
        return make_rule(name, groups=[{"name": "all"}])
    return OWN[name]() if name in OWN else make_rule(name)


ONE_BUFFER = {"momentum", "momentum_clock_matched", "lion", "lion_clock_matched", "muon", "orthogonal", "trusting"}
NUMBERS = {  # of memory, for matrices [4, 5], [8, 4] and a vector [5]; where it is not that of one buffer or of Adam
    "sgd": 0,
    "adafactor": (4 + 8) + (5 + 4) + 5,
    "shampoo": 57 + (16 + 25) + (64 + 16) + 25,
    "shampoo_corrected": 57 + (16 + 25) + (64 + 16) + 25,
    "soap": 2 * 57 + 2 * ((16 + 25) + (64 + 16)),
    "adamw_mols": 3 * 57,
    "sophia_corrected": 3 * 57,
    "trusting": 3,
}


@pytest.mark.parametrize("name", EVERY)
def test_buffers_are_counted_as_init_makes_them(name: str) -> None:
    rule, layout = made(name), MATRICES if name != "muon" else ONLY_MATRICES["matrices"]
    memory = rule.on(layout).init(torch.zeros(layout.size)).memory
    assert rule.buffers(layout) == {k: len(b) for k, b in memory.items()}
    expected = NUMBERS.get(name, layout.size * (1 if name in ONE_BUFFER else 2))
    assert state_size(rule, layout) == layout.size + expected
    assert state_vectors(rule, layout) == 1 + -(-expected // layout.size)


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
    before = trained(rule, MATRICES, row=0)
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

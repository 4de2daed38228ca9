"""The table of positions against its definition, and where it is exact."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from estimators.adjoint import Sweep
from estimators.errors import OrderError
from estimators.orders.order import Order
from estimators.position_table import StepStates, best_assignment, chunked_values, item_values, look_up
from estimators.replay import OrderBatch, RuleTransition, TrueGradients, replay
from estimators.rules import make_rule
from estimators.state import State
from estimators.trajectory import CentreTransition

D = N = 5
draw = torch.Generator().manual_seed(4)
ROOT = torch.randn(D, D, dtype=torch.float64, generator=draw)
HESSIAN = ROOT @ ROOT.T / D
SHIFTS = torch.randn(N, D, dtype=torch.float64, generator=draw)
START = torch.randn(D, dtype=torch.float64, generator=draw)
SLOPES = torch.randn(2, D, dtype=torch.float64, generator=draw)
REFERENCE = Order.of(range(N))


def rate(step: int) -> float:
    return 0.2 / (1 + step)


def gradient(theta: torch.Tensor, item: int) -> torch.Tensor:
    return HESSIAN @ theta - SHIFTS[item]


def table_of(rule: object) -> torch.Tensor:
    """M [T, r, items] about the reference order, with exact curvature."""
    states = [rule.init(START)]  # type: ignore[attr-defined]
    centre = CentreTransition(rule, rate, lambda step, theta, item: gradient(theta, item))  # type: ignore[arg-type]
    replay(centre, states[0].rows(1), OrderBatch.pack([REFERENCE]), listener=lambda t, z: states.append(z.row(0)))
    sweep = Sweep(
        rule,  # type: ignore[arg-type]
        rate,
        REFERENCE,
        states.__getitem__,
        lambda step, item: gradient(states[step].theta, item),
        lambda theta, item, u: HESSIAN @ u,
    )
    costates = {N: sweep.start(SLOPES)} | {s.step: s.costate for s in sweep.backward(sweep.start(SLOPES))}
    rows = []
    for t in range(N):
        found = torch.stack([gradient(states[t].theta, i) for i in range(N)])
        here = StepStates(states[t], states[t + 1], costates[t + 1])
        rows.append(item_values(rule, rate(t), here, found, found.norm(dim=-1)).sum(-1))  # type: ignore[arg-type]
    return torch.stack(rows)


@pytest.mark.parametrize(("name", "options"), [("sgd", {}), ("momentum", {"kind": "heavy_ball", "beta": 0.8})])
def test_it_is_exact_for_linear_rules_with_one_hessian(name: str, options: dict[str, object]) -> None:
    rule = make_rule(name, **options)
    table = table_of(rule)
    orders = [Order.of(o) for o in itertools.islice(itertools.permutations(range(N)), 0, 120, 7)]
    truth = replay(
        RuleTransition(rule, rate, TrueGradients(gradient)), rule.init(START).rows(len(orders)), OrderBatch.pack(orders)
    ).theta
    exact = (truth - truth[0]) @ SLOPES.T  # the first order is the reference
    for r in range(2):
        values = look_up(table[:, r], OrderBatch.pack(orders)).sum(-1)
        assert torch.allclose(values - values[0], exact[:, r], rtol=0, atol=1e-13)
        assert exact[:, r].abs().max() > 1e-3


def test_it_is_its_definition_for_adamw() -> None:
    """Written out with the rule's own step: parameters and both moments count."""
    rule = make_rule("adamw", betas=(0.9, 0.95), weight_decay=0.1, clip=1.0)
    before = State(
        START,
        {"m": 0.1 * SLOPES[0], "v": SLOPES[1].square()},
        rule.step(rule.init(START), SLOPES[0], 0.1)[0].clock,
    )
    after = rule.step(before, SLOPES[1], 0.1)[0]
    costate = State(SLOPES, {"m": 2 * SLOPES, "v": -SLOPES.flip(-1)}, {})
    found = item_values(rule, 0.1, StepStates(before, after, costate), SHIFTS, SHIFTS.norm(dim=-1))
    for r, i in itertools.product(range(2), range(N)):
        moved = rule.step(before, SHIFTS[i], 0.1)[0]
        pairs = [(costate.theta, moved.theta, after.theta)]
        pairs += [(costate.memory[k], moved.memory[k], after.memory[k]) for k in ("m", "v")]
        assert torch.allclose(found[r, i], sum(c[r] * (a - b) for c, a, b in pairs), rtol=1e-12, atol=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("clip", [None, 0.3])
def test_chunks_are_parts_of_the_whole(monkeypatch: pytest.MonkeyPatch, clip: float | None) -> None:
    """Clipped by the norm of all coordinates, not of the chunk's."""
    rule = make_rule("adamw", betas=(0.9, 0.95), clip=clip)
    before = State(
        START, {"m": 0.1 * SLOPES[0], "v": SLOPES[1].square()}, rule.step(rule.init(START), SHIFTS[0], 0.1)[0].clock
    )
    after = rule.step(before, SLOPES[1], 0.1)[0]
    here = StepStates(before, after, State(SLOPES, {"m": 2 * SLOPES, "v": -SLOPES.flip(-1)}, {}))
    every = item_values(rule, 0.1, here, SHIFTS, SHIFTS.norm(dim=-1))
    assert SHIFTS.norm(dim=-1).min() > 1, "every gradient is clipped, and the largest by more"
    monkeypatch.setattr("estimators.position_table.CACHED", 2 * N)
    places, parts = zip(*chunked_values(rule, 0.1, here, SHIFTS, SHIFTS.norm(dim=-1)), strict=True)
    assert [place.start for place in places] == [0, 2, 4]
    assert torch.equal(torch.cat(parts, dim=-1), every)


def test_a_step_of_several_items_counts_their_mean() -> None:
    table = torch.arange(6, dtype=torch.float64).view(2, 3).square()
    found = look_up(table, OrderBatch.pack([Order.of([[0, 2], [1]]), Order.of([[1], [2, 2]])]))
    assert found.tolist() == [[2.0, 16.0], [1.0, 25.0]]


def test_the_best_assignment_is_the_best_of_all_permutations() -> None:
    table = np.random.default_rng(0).normal(size=(N, N))
    sums = {p: sum(table[t, i] for t, i in enumerate(p)) for p in itertools.permutations(range(N))}
    best = tuple(i for (i,) in best_assignment(table).steps)
    assert sums[best] == pytest.approx(min(sums.values()))


def test_an_assignment_needs_as_many_items_as_steps() -> None:
    with pytest.raises(OrderError, match="got 3 items and 6 steps"):
        best_assignment(np.zeros((6, 3)))

"""Rules that update matrices together, on a run: right against training written out, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from centres import written_out, written_out_table
from coupled import Orthogonal, Trusting, orthogonalised
from runs import shared
from small import small_config
from torch import Tensor

import fut
from estimators.orders.order import Order
from estimators.parameters import ParameterLayout
from estimators.rules import RULES
from fut.errors import UsageError
from fut.methods.adjoint.identity import open_expansion
from fut.planning import plan

FLOAT64 = {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}
EXACT = {"num_runs": 2, "curvature": "items", "functionals": 0, "products": "exact"}
MATRICES: dict[str, Any] = {
    "model": FLOAT64,
    "rule": {"name": "orthogonal", "options": {"weight_decay": 0.1}},
    "schedule": {"rate": 0.02},
    "adjoint": EXACT,
    "reweighting": {"products": "exact"},
}
LONE: dict[str, Any] = MATRICES | {"rule": {"name": "trusting", "options": {}}, "schedule": {"rate": 1e-3}}
ORDER = [4, 0, 3, 1, 2]


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for rule in (Orthogonal, Trusting):
            patch.setitem(RULES, rule.name, rule)
        yield


def trained(path: Path, sections: dict[str, Any], **more: Any) -> fut.Run:
    merged = {name: sections.get(name, {}) | more.get(name, {}) for name in {*sections, *more}}
    return shared(path / "run", small_config(**merged), cached=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    """A run trained by the rule that orthogonalises matrices, with all terms cached. Read only."""
    made = trained(tmp_path_factory.mktemp("matrices"), MATRICES)
    made.cache("all")
    made.cache(["reweighting"])
    return made


def stepped_by_tensor(run: fut.Run, order: list[int], gradient: Callable[[Tensor, int, int], Tensor]) -> Tensor:
    """The orthogonalised rule tensor by tensor, on the module's own names: what no layout has cut or joined."""
    of, beta, decay, start = run.context.problem.objective, Orthogonal().beta, 0.1, run.context.state(0)
    theta, memory = of.parameters(start.theta), of.parameters(start.memory["m"])
    for t, item in enumerate(order):
        flat = torch.cat([p.flatten() for p in theta.values()])
        fresh, rate = of.parameters(gradient(flat, t, item)), run.context.problem.rate(t)
        memory = {n: beta * m + fresh[n] for n, m in memory.items()}
        moved = {n: orthogonalised(m) if m.ndim == 2 else m for n, m in memory.items()}
        theta = {n: p - rate * moved[n] - rate * decay * p for n, p in theta.items()}
    return torch.cat([p.flatten() for p in theta.values()])


def true_gradient(run: fut.Run) -> Callable[[Tensor, int, int], Tensor]:
    return lambda theta, step, item: run.context.problem.gradient(theta, item)


def test_the_layout_is_of_the_modules_own_tensors(run: fut.Run) -> None:
    layout = run.context.problem.objective.layout
    assert layout == run.context.problem.rule.parameters
    assert layout.size == run.context.parameters
    assert {"token.weight", "blocks.0.qkv.weight", "blocks.0.qkv.bias"} <= set(layout.names)
    theta, named = run.context.state(0).theta, run.context.problem.objective.parameters(run.context.state(0).theta)
    assert all(torch.equal(a, b) for a, b in zip(layout.split(theta), named.values(), strict=True))


def test_training_and_retraining_are_the_rule_tensor_by_tensor(run: fut.Run) -> None:
    for order in (list(range(5)), ORDER):
        expected = stepped_by_tensor(run, order, true_gradient(run))
        found = run.retrain(Order.of(order)).theta
        assert torch.allclose(torch.as_tensor(found), expected, rtol=0, atol=1e-12)


def test_replays_are_the_rule_on_the_gradients_they_say(run: fut.Run) -> None:
    problem = run.context.problem

    def plain(theta: Tensor, step: int, item: int) -> Tensor:
        return problem.gradient(run.context.state(step).theta, item)

    def lowrank(theta: Tensor, step: int, item: int) -> Tensor:
        base = run.context.state(step).theta
        return problem.gradient(base, item) + problem.product(base, item, theta - base)

    for name, gradient in (("replay", plain), ("replay-exact", lowrank)):
        expected = problem.probe_loss(stepped_by_tensor(run, ORDER, gradient))
        assert run.estimate([ORDER], name, known=False)[0].value == pytest.approx(expected, abs=1e-10)


def test_the_adjoint_is_its_formula(run: fut.Run) -> None:
    found = run.estimate([ORDER], "adjoint", known=False)[0]
    expected = written_out(run, ORDER, "ensemble", 2, 3) - written_out(run, list(range(5)), "ensemble", 2, 3)
    assert found.delta == pytest.approx(expected, rel=1e-9)


def test_the_table_of_positions_is_its_formula(run: fut.Run) -> None:
    terms = open_expansion(run.context).terms()
    found = np.stack([terms.read_items("positions", t, [0])[0] for t in range(run.steps)])
    assert found == pytest.approx(written_out_table(run).sum(-1), rel=1e-9, abs=1e-14)


def test_estimates_follow_real_retraining(tmp_path: Path) -> None:
    run = trained(tmp_path, MATRICES, schedule={"rate": 2e-3})
    run.cache("all")
    orders = [f"random:{seed}" for seed in range(8)]
    truth = np.array([run.retrain(order).loss for order in orders])
    for name, most in (("adjoint", 0.1), ("replay-exact", 0.1), ("replay", 0.6)):
        found = np.array([e.value for e in run.estimate(orders, name, known=False)])
        assert np.abs(found - truth).mean() < most * np.abs(truth - run.reference_loss).mean(), name


@pytest.mark.parametrize("cached", [1, 3000, 10**9])
def test_blocks_of_the_replay_never_cut_a_matrix(run: fut.Run, monkeypatch: pytest.MonkeyPatch, cached: int) -> None:
    expected = run.estimate([ORDER], "adjoint", known=False)[0].value
    monkeypatch.setattr("fut.methods.adjoint.estimator.BLOCK", {"cpu": cached})
    monkeypatch.setattr("estimators.position_table.CACHED", cached)
    estimator: Any = run.methods.open("adjoint")
    blocks = estimator._blocks(1)
    ends = run.context.problem.objective.layout.ends
    assert all(block.start in ends and block.stop in ends for block in blocks)
    assert cached > 1 or len(blocks) > 1, "a test of one block cuts nothing"
    assert run.estimate([ORDER], "adjoint", known=False)[0].value == pytest.approx(expected, abs=1e-12)


def test_attributions_are_derivatives_of_real_retraining(run: fut.Run) -> None:
    sections = MATRICES | {"data": {"items": 12, "per_step": 4, "batch": 1}}
    run = trained(run.path.parent / "several", sections)
    run.cache(["reweighting"])
    found, h = run.methods.attributions(), 1e-4

    def weighted(step: int, item: int, weight: float) -> Order:
        steps = enumerate(run.reference.entries)
        return Order.of_entries([[(i, weight if (t, i) == (step, item) else w) for i, w in s] for t, s in steps])

    for t, j in [(0, 0), (1, 2), (2, 1)]:
        up, down = (run.retrain(weighted(t, 4 * t + j, 1 + sign * h)).loss for sign in (1, -1))
        assert found[t, j] == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-4 * np.abs(found).max())
    truth = run.retrain("without:1").loss - run.reference_loss
    assert run.estimate(["without:1"], "reweighting", known=False)[0].delta == pytest.approx(truth, rel=0.3)


REFUSED: dict[str, tuple[dict[str, Any], list[str] | None, str]] = {
    "adjoint": ({"adjoint": {"coordinates": 300}}, None, r"got a sample of 300; set adjoint.coordinates = \d+, or use"),
    "reweighting": (
        {"reweighting": {"coordinates": 300}},
        ["adjoint", "reweighting"],
        r"reweighting: expected all \d+ coordinates .* set reweighting.coordinates",
    ),
    "replay": (
        {"cache": {"coordinates": 200}},
        ["gradient", "norm"],
        "got a sample of 200; set cache.coordinates = 0 and cache again",
    ),
    "lowrank": ({}, ["adjoint", "lowrank"], "lowrank: expected a rule that updates every coordinate by itself"),
    "rank": ({"adjoint": {"rank": 4}}, None, r"adjoint.rank: expected a rule that .* set adjoint.rank = 0"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_cut_matrices_is_refused_by_name_before_anything_is_computed(tmp_path: Path, what: str) -> None:
    more, names, says = REFUSED[what]
    run = trained(tmp_path, MATRICES, **more)
    with pytest.raises(UsageError, match=says) as refusal:
        run.cache(names)
    assert "`orthogonal`" in str(refusal.value)
    assert "coupling `matrix`" in str(refusal.value)
    assert not any((run.path / part).exists() for part in ("adjoint", "lowrank", "reweighting"))


def test_a_plan_says_what_a_coupled_rule_leaves_out() -> None:
    config = small_config(**MATRICES | {"adjoint": EXACT | {"coordinates": 300}, "reweighting": {"coordinates": 300}})
    found = plan(config)
    stages = {stage.stage for stage in found.stages}
    assert not {s for s in stages if s.startswith(("adjoint", "lowrank", "reweighting"))}
    assert "query: replay-exact" in stages
    for name in ("adjoint and positions", "lowrank", "reweighting"):
        assert any(note.startswith(f"left out: {name}") and "orthogonal" in note for note in found.notes)


def test_memory_that_is_not_by_coordinate_is_trained_replayed_and_otherwise_refused(tmp_path: Path) -> None:
    run = trained(tmp_path, LONE)
    layout: ParameterLayout = run.context.problem.objective.layout
    assert run.context.state(0).memory["v"].shape == (len(layout.names),)
    with pytest.raises(
        UsageError, match=r"adjoint: expected a rule with one number of memory .* `trusting` with \d+ in `v`; use"
    ):
        run.cache("all")
    with pytest.raises(UsageError, match="reweighting: expected a rule with one number of memory"):
        run.cache(["reweighting"])
    run.cache(["gradient", "norm", "update", "jvp"])
    truth = run.retrain("reverse").loss - run.reference_loss
    for name in ("replay", "replay-exact"):
        assert run.estimate(["reverse"], name, known=False)[0].delta == pytest.approx(truth, rel=0.3)

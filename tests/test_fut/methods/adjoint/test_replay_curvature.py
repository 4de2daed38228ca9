"""The adjoint's replay with low-rank curvature: against loops written out, on a sample, resumed, planned, and refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from centres import mean_of, trajectories
from runs import shared
from small import Cli, MakeRun, expand, flip, small_config, uneven_run
from torch import Tensor

import fut
from estimators.adjoint import mean_touched, spread_anchors
from estimators.lowrank import curvature_anchors, sensitivity
from estimators.orders.order import random_orders
from estimators.state import State
from fut.artifacts.directory import directory_bytes
from fut.errors import ResourceError, UsageError
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.multi_readout import MultiReadout
from fut.methods.adjoint.pipeline import EXPANSION, LOW_RANK
from fut.methods.adjoint.replay_curvature import curvature_of
from fut.methods.batching import raw_estimates
from fut.methods.curvature_batches import pooled_products
from fut.methods.registry import method_of
from storage import DamagedError

FLOAT64 = {"model": {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}}
EXACT = {"num_runs": 2, "curvature": "items", "functionals": 0, "products": "exact"}
CURVED = {"rank": 3, "curvatures": 2}


def pairs_of(run: fut.Run) -> list[tuple[Tensor, Tensor]]:
    """Values [r] and rows [r, D] of every curvature anchor."""
    terms = open_expansion(run.context).terms()
    read = lambda name, index: torch.from_numpy(terms.read(name, index))  # noqa: E731
    return [(read("eigenvalue", i)[0], read("lowrank", i)) for i in range(CURVED["curvatures"])]


def written_out(run: fut.Run, order: list[int]) -> float:
    """The estimate by loops and exact products: replay with curvature, whose own first-order effect is taken off."""
    problem, rule, T, pairs = run.context.problem, run.context.problem.rule, run.steps, pairs_of(run)
    centre, seen = trajectories(run, "ensemble", 2)
    slope = problem.probe_gradient(centre[T].theta)
    costate = State(slope, {k: torch.zeros_like(slope) for k in centre[0].memory}, {})
    weights, answers = [slope] * T, [slope] * T
    for t in reversed(range(T)):
        consumed = [problem.gradient(at, i) for i, at in seen[t]]
        pulled = [rule.pullback(centre[t], g, problem.rate(t), costate) for g in consumed]
        products = [problem.product(at, i, u) for (i, at), (_, u) in zip(seen[t], pulled, strict=True)]
        answers[t] = mean_touched(torch.stack([u[None] for _, u in pulled]), torch.stack(consumed))[0]
        weights[t] = sum(products) / 2  # type: ignore[assignment]
        before = mean_of([p for p, _ in pulled])
        costate = State(before.theta + weights[t], before.memory, {})
    anchors, curvatures = spread_anchors(T, 3, problem.rate), curvature_anchors(T, CURVED["curvatures"])
    tables = [torch.stack([problem.gradient(centre[a].theta, i) for i in range(run.items)]) for a in anchors]
    value, y = 0.0, run.context.state(0)
    for t, item in enumerate(order):
        delta = y.theta - centre[t].theta
        low = max(n for n, a in enumerate(anchors) if a <= t)
        share = 0.0 if anchors[low] == t else (t - anchors[low]) / (anchors[low + 1] - anchors[low])
        values, rows = pairs[min(range(len(curvatures)), key=lambda n: abs(curvatures[n] - t))]
        touch = (tables[low] != 0).double().mean(0)
        scarce = torch.where(touch > 0, 1 / touch.clamp(min=1e-9), 1.0) * (tables[low][item] != 0)
        response = (values * (rows @ delta)) @ rows * scarce * (answers[t] != 0)
        value += (weights[t] @ delta - answers[t] @ response).item()
        given = tables[low][item] if not share else (1 - share) * tables[low][item] + share * tables[low + 1][item]
        y = rule.step(y, given + response, problem.rate(t))[0]
    return value + (slope @ (y.theta - centre[T].theta)).item()


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [1, 0, 2, 4, 3]])
def test_the_estimate_is_its_formula(make_run: MakeRun, order: list[int]) -> None:
    run = make_run("adjoint", **FLOAT64, adjoint=EXACT | CURVED)
    found = run.estimate([order], "adjoint", known=False)[0]
    expected = written_out(run, order) - written_out(run, list(range(5)))
    assert found.delta == pytest.approx(expected, rel=1e-8)
    plain = make_run("adjoint", **FLOAT64, adjoint=EXACT).estimate([order], "adjoint", known=False)[0]
    assert found.delta != pytest.approx(plain.delta, rel=1e-5), "curvature in the replay should change something"
    assert found.delta == pytest.approx(plain.delta, rel=0.2), "but nothing of first order"


def test_the_pairs_are_of_mean_curvature_in_the_rules_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shared(tmp_path / "run", small_config(**FLOAT64), cached=False)
    monkeypatch.setattr("fut.methods.stages.discard_scratch", lambda files: None)
    expand(run.context, AdjointConfig.model_validate(CURVED | {"products": "exact"}))
    expansion = open_expansion(run.context)
    for index, step in enumerate(expansion.spec.curvatures):
        values, rows = curvature_of(expansion).pairs(index)
        weight = sensitivity(run.context.problem.rule, expansion.trajectory.state(step), 0.99)
        vectors = rows * weight / weight.max()  # P L, for which (P L)' H (P L) is diagonal
        bent = pooled_products(
            run.context.problem, expansion.spec.config, step, expansion.trajectory.places(step), vectors, fine=3
        )
        assert torch.allclose(vectors @ bent.T, values.diag(), rtol=0, atol=1e-8 * values.max().item())
        assert values.tolist() == sorted(values.tolist(), reverse=True)
        assert values.min() > 0


def test_without_rank_nothing_is_pinned_or_kept(make_run: MakeRun) -> None:
    runs = [make_run("adjoint", adjoint=adjoint) for adjoint in ({}, CURVED)]
    terms = [method_of("adjoint").fingerprint(run.context, "probe") for run in runs]
    assert "curvatures" not in terms[0], "without rank it has no effect"
    assert (terms[1]["rank"], terms[1]["curvatures"]) == (3, 2)
    assert "curvatures" not in AdjointConfig().identity()
    assert AdjointConfig(rank=2).identity()["rank"] == 2
    names = {spec.name for spec in open_expansion(make_run().context).terms().specs}
    assert not {"lowrank", "eigenvalue", "answer"} & names


@pytest.mark.parametrize(
    ("adjoint", "rule"),
    [({}, {}), ({"coordinates": 700}, {}), ({"coordinates": 700}, {"options": {"clip": 0.5}})],
)
def test_estimates_are_bitwise_the_reference_and_alike_in_any_batch(
    make_run: MakeRun, adjoint: dict[str, int], rule: dict[str, dict[str, float]]
) -> None:
    run = make_run("adjoint", adjoint=adjoint | CURVED, **({"rule": rule} if rule else {}))
    orders = [run.order(spec) for spec in ("identity", "reverse", "random:3")]
    estimator = run.methods.open("adjoint")
    together = raw_estimates(estimator, orders)
    assert together[0][0] == run.reference_loss
    alone = [raw_estimates(estimator, [order]) for order in orders]
    assert together == ([a[0][0] for a in alone], [a[1][0] for a in alone])


def test_a_sample_errs_by_what_it_states(tmp_path: Path, make_run: MakeRun) -> None:
    exact = make_run("adjoint", **FLOAT64, adjoint=CURVED)
    orders = random_orders(exact.reference, 12, 1)
    true = np.array(raw_estimates(exact.methods.open("adjoint", reading="linear"), orders)[0])
    errors, stated = [], []
    for seed in range(4):
        run = shared(tmp_path / str(seed), small_config(**FLOAT64), cached=False)
        expand(run.context, AdjointConfig.model_validate(CURVED | {"coordinates": 500}))
        pins = open_expansion(run.context)
        assert len(pins.indices) < exact.context.parameters / 3
        found, variances = raw_estimates(run.methods.open("adjoint", reading="linear"), orders)
        errors.append(np.array(found) - true)
        stated.append(variances)
    assert np.mean(np.square(errors)) < 0.05 * true.var()
    assert 0.2 < np.mean(np.square(errors)) / np.mean(stated) < 5


@pytest.mark.parametrize("name", ["lowrank", "eigenvalue", "answer"])
def test_a_damaged_part_is_found_and_made_again(tmp_path: Path, name: str) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    expand(run.context, AdjointConfig.model_validate(CURVED))
    expected = run.estimate(["reverse"], known=False, calibrated=False)[0].value
    chunk = next(p for p in (run.path / f"adjoint/terms/arrays/{name}/c").rglob("*") if p.is_file())
    flip(chunk, len(chunk.read_bytes()) // 2)
    with pytest.raises(DamagedError, match=name):
        fut.open(run.path, device="cpu").estimate(["reverse"], known=False, calibrated=False)
    run = fut.open(run.path, device="cpu")
    assert run.methods.repair() > 0
    run.cache(["adjoint"])
    assert fut.open(run.path, device="cpu").estimate(["reverse"], known=False, calibrated=False)[0].value == expected


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    whole = Path(shutil.copytree(run.path, tmp_path / "whole"))
    config = AdjointConfig.model_validate(CURVED)
    done = fut.open(whole, device="cpu")
    expand(done.context, config)
    made, find = list[Any](), fut.methods.adjoint.replay_curvature._pairs

    def stop(expansion: object, step: int) -> object:
        if made:
            raise KeyboardInterrupt
        made.append(step)
        return find(expansion, step)  # type: ignore[arg-type]

    monkeypatch.setattr("fut.methods.adjoint.replay_curvature._pairs", stop)
    with pytest.raises(KeyboardInterrupt):
        expand(run.context, config)
    seen: list[int] = []
    monkeypatch.setattr(
        "fut.methods.adjoint.replay_curvature._pairs", lambda e, step: (seen.append(step), find(e, step))[1]
    )
    expand(run.context, config)
    assert seen == [curvature_anchors(run.steps, 2)[1]]
    orders = [run.order("reverse")]
    assert raw_estimates(run.methods.open("adjoint"), orders) == raw_estimates(done.methods.open("adjoint"), orders)


def test_it_is_planned(make_run: MakeRun, tmp_path: Path, cli: Cli) -> None:
    run = make_run("adjoint", **FLOAT64, adjoint=CURVED)
    stages = [s for s in run.plan().stages if s.stage.startswith("adjoint:")]
    assert "adjoint: low rank" in [s.stage for s in stages]
    expansion = open_expansion(run.context)
    assert sum(s.gradients for s in stages) == EXPANSION.cost(expansion.spec).gradients
    assert sum(s.kept_bytes for s in stages) == EXPANSION.cost(expansion.spec).kept
    assert sum(s.scratch_bytes for s in stages) == EXPANSION.cost(expansion.spec).scratch
    kept = sum(np.prod(spec.shape) * 8 for spec in expansion.terms().specs) + 16 * run.context.parameters
    about = expansion.spec.trajectory.scratch_bytes  # stays too, at its height while it is made
    assert 0.75 * about < directory_bytes(run.path / "adjoint" / "trajectory") < about
    kept += about
    assert EXPANSION.cost(expansion.spec).kept == kept, "all coordinates are kept, in double precision"
    assert "adjoint: low rank" in cli("plan", run.path).out


def test_scratch_is_what_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fut.methods.stages.discard_scratch", lambda files: None)
    found = []
    for rank in (0, 8):
        run = fut.train(tmp_path / str(rank), small_config(data={"context": 40}), device="cpu")
        expand(run.context, AdjointConfig(rank=rank, functionals=0))
        found.append(
            (
                EXPANSION.cost(open_expansion(run.context).spec).scratch,
                directory_bytes(run.path / "adjoint" / "scratch"),
            )
        )
    said, taken = (after - before for before, after in zip(*found, strict=True))
    assert said == (8 * 4 + run.steps + 1) * run.context.parameters * 4
    assert 0.9 < taken / said < 1.3


def test_a_stage_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    huge = [replace(s, memory=lambda *of: 1 << 60) if s is LOW_RANK else s for s in EXPANSION.stages]
    monkeypatch.setattr(type(EXPANSION), "stages", tuple(huge))
    with pytest.raises(ResourceError, match=r"low rank.*lower adjoint\.rank"):
        expand(run.context, AdjointConfig.model_validate(CURVED))
    assert not (run.path / "adjoint").exists()


def test_items_of_several_shapes_are_refused(tmp_path: Path) -> None:
    run = uneven_run(tmp_path / "run")
    with pytest.raises(UsageError, match=r"adjoint\.rank: .* items have 5 shapes; set adjoint\.rank = 0"):
        expand(run.context, AdjointConfig(curvature="items", rank=2))


@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"items": 1}},
        {"adjoint": {"trajectory": "mixture"}},
        {"adjoint": {"num_runs": 1}},
        {"adjoint": {"coordinates": 600, "control": "never"}},
        {"data": {"items": 6, "per_step": 2}, "adjoint": {"coordinates": 900}},
        {"data": {"items": 6, "per_step": 3}, "rule": {"options": {"clip": 0.3}}, "adjoint": {"coordinates": 900}},
        {"rule": {"name": "sgd", "options": {}}},
    ],
)
def test_it_serves_every_window(tmp_path: Path, sections: dict[str, dict[str, Any]]) -> None:
    """The reference order is the reference bit for bit; another order is nearer to the truth than to no change."""
    sections = sections | {"adjoint": CURVED | sections.get("adjoint", {})}
    run = shared(tmp_path / "run", small_config(**FLOAT64, **sections), cached=False)
    run.cache(["adjoint"])
    same, other = run.estimate(["identity", "reverse"], known=False, calibrated=False)
    assert same.value == run.reference_loss
    truth = run.retrain(run.order("reverse")).loss - run.reference_loss
    assert abs(other.delta - truth) <= 0.7 * abs(truth) + 1e-15
    if sections["adjoint"].get("coordinates"):
        halves = [
            run.estimate(["reverse"], f"adjoint:sample={half}", known=False)[0].delta for half in ("first", "second")
        ]
        assert halves[0] != halves[1]
    if run.context.config.data.per_step > 1:
        without = run.estimate(["without:0"], known=False, calibrated=False)[0].delta
        assert without != 0


def test_a_rank_beyond_the_parameters_is_all_of_them(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    assert open_expansion(run.context, AdjointConfig(rank=10**9)).spec.rank == run.context.parameters


def test_several_readouts_have_it_as_one_has(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(**FLOAT64), cached=False)
    names = ["probe", "item:2", "item:0"]
    expand(run.context, AdjointConfig.model_validate(CURVED | {"readouts": names, "coordinates": 900}))
    orders = [run.order("reverse"), run.order("random:3")]
    several = MultiReadout(run.context, ["item:0", "probe", "item:2"])
    values = several.changes(orders, ["item:2", "item:0"])[0]
    for column, name in enumerate(("item:2", "item:0")):
        alone = run.estimate([order.steps for order in orders], "adjoint:reading=linear", readout=name, known=False)
        assert values[:, column].tolist() == pytest.approx([e.delta for e in alone], rel=1e-9)

"""The adjoint's replay with low-rank curvature: against loops written out, on a sample, resumed, planned and refused nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from centres import mean_of, trajectories
from small import Cli, MakeRun, flip, small_config
from torch import Tensor

import fut
from estimators.adjoint import mean_touched, spread_anchors
from estimators.curved import curvature_anchors, sensitivity
from estimators.order import random_orders
from estimators.state import State
from fut.calibration import _basis
from fut.config import AdjointConfig
from fut.estimation import raw_estimates
from fut.pooling import pooled_products
from fut.progress import silent
from storage import DamagedError

FLOAT64 = {"model": {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}}
EXACT = {"mixture": 2, "curvature": "items", "functionals": 0, "products": "exact"}
CURVED = {"rank": 3, "curvatures": 2}


def pairs_of(run: fut.Run) -> list[tuple[Tensor, Tensor]]:
    """Values [r] and rows [r, D] of every curvature anchor."""
    terms = run.expansion().terms()
    read = lambda name, index: torch.from_numpy(terms.read(name, index))  # noqa: E731
    return [(read("eigenvalue", i)[0], read("lowrank", i)) for i in range(CURVED["curvatures"])]


def written_out(run: fut.Run, order: list[int]) -> float:
    """The estimate by loops and exact products: replay with curvature, whose own first-order effect is taken off."""
    problem, rule, T, pairs = run.problem, run.problem.rule, run.steps, pairs_of(run)
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
    value, y = 0.0, run.state(0)
    for t, item in enumerate(order):
        delta = y.theta - centre[t].theta
        low = max(n for n, a in enumerate(anchors) if a <= t)
        share = 0.0 if anchors[low] == t else (t - anchors[low]) / (anchors[low + 1] - anchors[low])
        values, rows = pairs[min(range(len(curvatures)), key=lambda n: abs(curvatures[n] - t))]
        touch = (tables[low] != 0).double().mean(0)
        scarce = torch.where(touch > 0, 1 / touch.clamp(min=1e-9), 1.0) * (tables[low][item] != 0)
        response = (values * (rows @ delta)) @ rows * scarce
        value += (weights[t] @ delta - answers[t] @ response).item()
        given = tables[low][item] if not share else (1 - share) * tables[low][item] + share * tables[low + 1][item]
        y = rule.step(y, given + response, problem.rate(t))[0]
    return value + (slope @ (y.theta - centre[T].theta)).item()


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [1, 0, 2, 4, 3]])
def test_the_estimate_is_its_formula(make_run: MakeRun, order: list[int]) -> None:
    run = make_run(**FLOAT64, adjoint=EXACT | CURVED)
    found = run.estimate([order], "adjoint", known=False)[0]
    expected = written_out(run, order) - written_out(run, list(range(5)))
    assert found.delta == pytest.approx(expected, rel=1e-8)
    plain = make_run(**FLOAT64, adjoint=EXACT).estimate([order], "adjoint", known=False)[0]
    assert found.delta != pytest.approx(plain.delta, rel=1e-5), "curvature in the replay should change something"
    assert found.delta == pytest.approx(plain.delta, rel=0.2), "but nothing of first order"


def test_the_pairs_are_of_mean_curvature_in_the_rules_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fut.train(tmp_path / "run", small_config(**FLOAT64), device="cpu")
    monkeypatch.setattr("fut.expansion.Expansion._discard_scratch", lambda self: None)
    run.expand(AdjointConfig.model_validate(CURVED | {"products": "exact"}))
    expansion = run.expansion()
    for index, step in enumerate(expansion.curvatures):
        values, rows = expansion.low_rank.pairs(index)
        weight = sensitivity(run.problem.rule, expansion.state(step), 0.99)
        vectors = rows * weight / weight.max()  # P L, for which (P L)' H (P L) is diagonal
        bent = pooled_products(run.problem, expansion.config, step, expansion.places(step), vectors, fine=3)
        assert torch.allclose(vectors @ bent.T, values.diag(), rtol=0, atol=1e-8 * values.max().item())
        assert values.tolist() == sorted(values.tolist(), reverse=True)
        assert values.min() > 0


def test_without_rank_nothing_is_pinned_or_kept(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    runs, dumps = [make_run(adjoint=adjoint) for adjoint in ({}, CURVED)], json.dumps
    with monkeypatch.context() as patched:
        patched.setattr("json.dumps", lambda content, **options: (seen.append(content), dumps(content, **options))[1])
        for run in runs:
            _basis(run, "adjoint", "probe")
    terms = [content["terms"] for content in seen if "terms" in content]
    assert "rank" not in terms[0], "so that calibrations of earlier versions stay of use"
    assert (terms[1]["rank"], terms[1]["curvatures"]) == (3, 2)
    assert not {"rank", "curvatures"} & set(AdjointConfig().identity())
    assert AdjointConfig(rank=2).identity()["rank"] == 2
    names = {spec.name for spec in make_run().expansion().terms().specs}
    assert not {"lowrank", "eigenvalue", "answer"} & names


@pytest.mark.parametrize(
    ("adjoint", "rule"),
    [({}, {}), ({"coordinates": 700}, {}), ({"coordinates": 700}, {"options": {"clip": 0.5}})],
)
def test_estimates_are_bitwise_the_reference_and_alike_in_any_batch(
    make_run: MakeRun, adjoint: dict[str, int], rule: dict[str, dict[str, float]]
) -> None:
    run = make_run(adjoint=adjoint | CURVED, **({"rule": rule} if rule else {}))
    orders = [run.order(spec) for spec in ("identity", "reverse", "random:3")]
    estimator = run.estimator("adjoint")
    together = raw_estimates(estimator, orders)
    assert together[0][0] == run.reference_loss
    alone = [raw_estimates(estimator, [order]) for order in orders]
    assert together == ([a[0][0] for a in alone], [a[1][0] for a in alone])


def test_a_sample_errs_by_what_it_states(tmp_path: Path, make_run: MakeRun) -> None:
    exact = make_run(**FLOAT64, adjoint=CURVED)
    orders = random_orders(exact.reference, 12, 1)
    true = np.array(raw_estimates(exact.estimator("adjoint", reading="linear"), orders)[0])
    errors, stated = [], []
    for seed in range(4):
        run = fut.train(tmp_path / str(seed), small_config(**FLOAT64), device="cpu")
        run.expand(AdjointConfig.model_validate(CURVED | {"coordinates": 500}))
        pins = run.expansion()
        assert len(pins.indices) < exact.parameters / 3
        found, variances = raw_estimates(run.estimator("adjoint", reading="linear"), orders)
        errors.append(np.array(found) - true)
        stated.append(variances)
    assert np.mean(np.square(errors)) < 0.05 * true.var()
    assert 0.2 < np.mean(np.square(errors)) / np.mean(stated) < 5


@pytest.mark.parametrize("name", ["lowrank", "eigenvalue", "answer"])
def test_a_damaged_part_is_found_and_made_again(tmp_path: Path, name: str) -> None:
    run = fut.train(tmp_path / "run", small_config(), device="cpu")
    run.expand(AdjointConfig.model_validate(CURVED))
    expected = run.estimate(["reverse"], known=False, calibrated=False)[0].loss
    chunk = next(p for p in (run.path / f"adjoint/terms/arrays/{name}/c").rglob("*") if p.is_file())
    flip(chunk, len(chunk.read_bytes()) // 2)
    with pytest.raises(DamagedError, match=name):
        fut.open(run.path, device="cpu").estimate(["reverse"], known=False, calibrated=False)
    run = fut.open(run.path, device="cpu")
    assert run.repair() > 0
    run.cache(["adjoint"])
    assert fut.open(run.path, device="cpu").estimate(["reverse"], known=False, calibrated=False)[0].loss == expected


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fut.train(tmp_path / "run", small_config(), device="cpu")
    whole = Path(shutil.copytree(run.path, tmp_path / "whole"))
    config = AdjointConfig.model_validate(CURVED)
    done = fut.open(whole, device="cpu")
    done.expand(config)
    made, find = [], fut.lowrank._pairs  # type: ignore[attr-defined]

    def stop(expansion: object, step: int) -> object:
        if made:
            raise KeyboardInterrupt
        made.append(step)
        return find(expansion, step)  # type: ignore[arg-type]

    monkeypatch.setattr("fut.lowrank._pairs", stop)
    with pytest.raises(KeyboardInterrupt):
        run.expand(config)
    seen: list[int] = []
    monkeypatch.setattr("fut.lowrank._pairs", lambda e, step: (seen.append(step), find(e, step))[1])
    run.expand(config)
    assert seen == [curvature_anchors(run.steps, 2)[1]]
    orders = [run.order("reverse")]
    assert raw_estimates(run.estimator("adjoint"), orders) == raw_estimates(done.estimator("adjoint"), orders)


def test_it_is_planned(make_run: MakeRun, tmp_path: Path, cli: Cli) -> None:
    run = make_run(adjoint=CURVED)
    stages = [s for s in run.plan().stages if s.stage.startswith("adjoint:")]
    assert "adjoint: low rank" in [s.stage for s in stages]
    expansion = run.expansion()
    assert sum(s.gradients for s in stages) == expansion.gradients()
    assert sum(s.bytes_kept for s in stages) == expansion.nbytes()
    assert sum(s.bytes_scratch for s in stages) == expansion.scratch_bytes()
    assert "adjoint: low rank" in cli("plan", run.path).out


def test_several_readouts_have_it_as_one_has(tmp_path: Path) -> None:
    run = fut.train(tmp_path / "run", small_config(**FLOAT64), device="cpu")
    run.expand(AdjointConfig.model_validate(CURVED | {"readouts": ["probe", "item:2"]}))
    alone = fut.train(tmp_path / "alone", small_config(**FLOAT64), device="cpu")
    alone.expand(AdjointConfig.model_validate(CURVED | {"readouts": ["item:2"], "functionals": 0}))
    found = [r.estimate(["reverse"], readout="item:2", known=False, calibrated=False)[0].loss for r in (run, alone)]
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    run.expansion().build(silent)

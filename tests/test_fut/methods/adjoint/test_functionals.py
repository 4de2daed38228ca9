"""The quadratic read-out: functionals against exact curvature, their estimates against a loop, sums against sampling theory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import MakeRun, expand, flip, small_config
from torch import Tensor

import fut
from estimators.adjoint import Anchored, inclusion_probabilities, partial_sums, poisson_sample, quadratic_part
from estimators.control_variates import signed_variance
from estimators.orders.order import Order, random_order
from fut.errors import NotCachedError, UsageError
from fut.methods.adjoint import quadratic_directions as functionals
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.estimator import Adjoint
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.quadratic import bend_of, known_functionals
from fut.methods.adjoint.quadratic_directions import principal_functionals, simulated_displacements
from fut.methods.timings import LEAST
from fut.models import autodiff as derivatives
from fut.readouts.readout import make_readouts

FLOAT64 = {"model": {"dtype": "float64"}}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch stays, so that a test can look at the trajectory's whole states."""
    monkeypatch.setattr("fut.methods.stages.discard_scratch", lambda files: None)


def probe_bend(expansion: Expansion, delta: Tensor) -> Tensor:
    """Exact H delta of the probe chunks that functionals look at."""
    problem, theta = expansion.problem, expansion.trajectory.state(expansion.spec.steps).theta
    chunks = problem.data.probe[: functionals.CHUNKS]
    return torch.stack([derivatives.hessian_vector(problem.objective, theta, c, delta) for c in chunks]).mean(0)


def test_functionals_hold_the_curvature_of_simulated_displacements(
    make_run: MakeRun, kept: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("adjoint", **FLOAT64)
    run.cache(["adjoint"])
    expansion = open_expansion(run.context)
    monkeypatch.setattr(functionals, "SAMPLES", 1)  # as many simulated orders as functionals: nothing is left out
    monkeypatch.setattr(functionals, "STEP", 1e-6)
    (probe,) = make_readouts(run.context.problem, ["probe"], {})
    q, signs = principal_functionals(expansion, probe, 5)
    for delta in simulated_displacements(expansion, 5):
        exact = delta @ probe_bend(expansion, delta)
        assert ((signs * (q @ delta).square()).sum() - exact).abs() < 1e-3 * exact.abs()


def test_the_strongest_directions_come_first(make_run: MakeRun, kept: None) -> None:
    run = make_run("adjoint", **FLOAT64)
    run.cache(["adjoint"])
    expansion = open_expansion(run.context)
    (probe,) = make_readouts(run.context.problem, ["probe"], {})
    some, more = (principal_functionals(expansion, probe, m) for m in (3, 3))
    assert torch.equal(some[0], more[0])  # the same seed, the same draw
    moved = simulated_displacements(expansion, functionals.SAMPLES * 3)
    shares = (moved @ some[0].T).square().mean(0)
    assert shares[0] > shares[1] > shares[2]


@pytest.mark.parametrize(("kind", "rate"), [("ensemble", 1e-3), ("ensemble", 0.03), ("mixture", 1e-3)])
def test_the_estimate_is_the_linear_one_and_half_the_squares(
    make_run: MakeRun, kept: None, kind: str, rate: float
) -> None:
    run = make_run("adjoint", **FLOAT64, adjoint={"functionals": 4, "trajectory": kind}, schedule={"rate": rate})
    order = random_order(run.reference, 5)
    expansion = open_expansion(run.context)
    found = [slow_functionals(run, o) for o in (order, run.reference)]
    centre, slopes = expansion.trajectory.state(run.steps).theta, slopes_of(expansion)
    known = slopes @ (run.context.state(run.steps).theta - centre)  # what the reference run's functionals really are
    added, mean, origin, gain = found[0][1] - found[1][1], known, torch.zeros(4).double(), 1.0
    if kind == "ensemble":
        true = torch.stack(
            [known, *(slopes @ (run.retrain(o).theta - centre) for o in expansion.spec.trajectory.members)]
        )
        guess = torch.stack(
            [slow_functionals(run, o)[1] - found[1][1] for o in (run.reference, *expansion.spec.trajectory.members)]
        )
        mean, origin = true.mean(0), guess.mean(0)
        gain = float(np.polyfit((guess - origin).flatten(), (true - mean).flatten(), 1)[0])
        assert 0 < gain < 0.95 or rate < 1e-2, "at a high rate functionals cannot be told so well"
        gain = min(gain, 1.0)
    squares = known_functionals(expansion)[1] * (
        (mean + gain * (added - origin)).square() - (mean - gain * origin).square()
    )
    expected = found[0][0] - found[1][0] + 0.5 * squares.sum()
    estimate = run.estimate([order], "adjoint")[0]
    assert estimate.delta == pytest.approx(float(expected), rel=1e-9, abs=1e-15)
    assert abs(float(expected) - float(found[0][0] - found[1][0])) > 1e-9  # the squares do count


def slow_functionals(run: fut.Run, order: Order) -> tuple[Tensor, Tensor]:
    """Linear part and functionals [m] of an order, by a plain loop over steps, from the scratch of the sweep."""
    expansion, problem = open_expansion(run.context), run.context.problem
    terms = expansion.terms()
    tables = [torch.from_numpy(terms.read("gradient", a)) for a in range(len(expansion.spec.anchors))]
    gradients = Anchored(expansion.spec.anchors, lambda a: tables[a])
    state, total, bent = (
        run.context.state(0),
        torch.tensor(0.0),
        torch.zeros(expansion.spec.functionals, dtype=torch.float64),
    )
    for step in range(run.steps + 1):
        weight = torch.from_numpy(terms.read("weight", step))[0]
        total = total + weight @ (state.theta - torch.from_numpy(terms.read("centre", step)[0]))
        if step < run.steps:
            gradient = gradients(step)[order.steps[step][0]]
            bent = bent + expansion.sweep.injection(step) @ gradient
            state = problem.rule.step(state, gradient, problem.rate(step))[0]
    return total, bent


def slopes_of(expansion: Expansion) -> Tensor:
    """The functionals [m, D], from the scratch of the sweep."""
    return torch.from_numpy(expansion.sweep.swept.read_array(expansion.spec.steps, "functional"))


@pytest.mark.parametrize(("name", "rate", "error"), [("sgd", 1e-2, 0.02), ("adamw", 1e-4, 0.25)])
def test_looked_up_functionals_are_those_of_real_training(
    make_run: MakeRun, kept: None, name: str, rate: float, error: float
) -> None:
    """At a low rate, against the endpoints of retrained orders; to first order in gradients, of which AdamW is no linear rule."""
    sections = {"rule": {"name": name, "options": {}}, "schedule": {"rate": rate}, "data": {"batch": 16}}
    run = make_run(
        "adjoint", **FLOAT64, **sections, adjoint={"functionals": 5, "num_anchors": 5}, warmup={"steps": 40, "ramp": 2}
    )
    slopes, bend = slopes_of(open_expansion(run.context)), bend_of(open_expansion(run.context), None)
    orders = [random_order(run.reference, 7, i) for i in range(6)]
    found = bend.looked_up(run.methods.open("adjoint").batch(orders))
    true = torch.stack([slopes @ (run.retrain(o).theta - run.context.state(run.steps).theta) for o in orders])
    assert (found - true).norm() < error * true.norm()


@pytest.mark.parametrize("per_step", [1, 2])
def test_a_table_of_a_sample_is_unbiased_and_states_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per_step: int
) -> None:
    """Without a control variate; with one the table is of all coordinates, whatever the sample."""
    data = {"items": 4 * per_step, "per_step": per_step, "batch": 1}
    config = small_config(model={"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}, data=data)

    def table(seed: int, **changes: object) -> tuple[fut.Run, Tensor, Tensor]:
        run = fut.train(tmp_path / f"{seed}{len(changes)}{changes.get('control')}", config, device="cpu")
        monkeypatch.setattr("fut.methods.adjoint.sampling.poisson_sample", lambda p, _: poisson_sample(p, seed))
        expand(run.context, AdjointConfig.model_validate({"functionals": 2} | changes))
        bend = bend_of(open_expansion(run.context), None)
        order = run.order("reverse")
        return run, *bend.split(bend.looked_up(run.methods.open("adjoint").batch([order]))[0])

    exact, signed = table(0)[1:]
    assert signed.numel() == 0
    run, controlled, signed = table(1, coordinates=400, control="always")
    assert open_expansion(run.context).spec.controlled
    assert signed.numel() == 0
    assert controlled.tolist() == pytest.approx(exact.tolist(), rel=1e-9)
    few = [table(seed, coordinates=400, control="never") for seed in range(8)]
    errors = torch.stack([values - exact for _, values, _ in few])
    stated = torch.stack([signed_variance(s) for *_, s in few])
    assert 0.2 < errors.square().sum() / stated.sum() < 5
    assert (errors.sum(0).square() < 12 * stated.sum(0)).all(), "no bias beyond three and a half errors of the mean"
    sampled, parts = few[0][0], list[Tensor]()
    batch = sampled.methods.open("adjoint").batch([sampled.order("reverse")])
    for half in ("first", "second"):
        bend = bend_of(open_expansion(sampled.context), half)
        values, signs = bend.split(bend.looked_up(batch)[0])
        assert (values - exact).square().sum() < 16 * signed_variance(signs).sum()
        parts.append(values)
    assert not torch.equal(*parts), "two samples, two estimates"
    halves = [bend_of(open_expansion(run.context), half) for half in ("first", "second")]
    assert torch.equal(halves[0].table, halves[1].table), "of all coordinates, whichever half is replayed"


def test_missing_functionals_are_not_done_without(own_run: Path) -> None:
    expected = fut.open(own_run, device="cpu").estimate(["reverse"], known=False)[0].value
    chunk = next(p for p in (own_run / "adjoint/terms/arrays/functionals/c").rglob("*") if p.is_file())
    flip(chunk, len(chunk.read_bytes()) // 2)
    run = fut.open(own_run, device="cpu")
    assert any("functionals" in damage.path for damage in run.check())
    with pytest.raises(OSError, match="functionals"):
        run.estimate(["reverse"], known=False)
    assert run.methods.repair() == 1
    with pytest.raises(NotCachedError, match="a complete table of functionals, got 1 blocks missing"):
        run.estimate(["reverse"], known=False)
    run.cache(["adjoint"])
    assert run.estimate(["reverse"], known=False)[0].value == expected


def test_sums_do_not_depend_on_the_batch(small_run) -> None:  # type: ignore[no-untyped-def]
    estimator = small_run.methods.open("adjoint")
    assert isinstance(estimator, Adjoint)
    assert estimator.functionals
    assert len(estimator.expansion.indices) % 512
    orders = [random_order(small_run.reference, 3, i) for i in range(7)]
    together = estimator.final_states(orders)
    for order, row in zip(orders, together, strict=True):
        assert torch.equal(estimator.final_states([order])[0], row)


def test_other_readouts_are_read_linearly(make_run: MakeRun) -> None:
    run = make_run("adjoint", **FLOAT64, adjoint={"functionals": 2, "readouts": ["probe", "item:1"]})
    run.cache(["adjoint"])
    opened: dict[str, Any] = {name: run.methods.open("adjoint", readout=name) for name in ("probe", "item:1")}
    counts = {name: estimator.functionals for name, estimator in opened.items()}
    assert counts == {"probe": 2, "item:1": 0}
    assert [tuple(s.shape) for s in open_expansion(run.context).terms().specs if s.name == "weight"] == [
        (run.steps + 1, 2, run.context.parameters)
    ], "functionals are looked up, and replayed by nobody"


def test_without_functionals_the_reading_is_linear(make_run: MakeRun) -> None:
    run = make_run("adjoint", adjoint={"functionals": 0})
    run.cache(["adjoint"])
    estimator: Any = run.methods.open("adjoint")
    assert estimator.functionals == 0
    assert run.estimate(["identity"], known=False)[0].value == run.reference_loss
    estimator = run.methods.open("adjoint")
    assert estimator.final_states([run.reference]).shape[1] == 2 * -(-run.context.parameters // LEAST), (
        "sums and variances"
    )


def test_squares_of_sampled_sums_are_unbiased() -> None:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(1, 2, 1500, generator=draw, dtype=torch.float64) + 0.1
    p = inclusion_probabilities(x.abs().mean(dim=(0, 1)), 150)
    signs = torch.ones(2, dtype=torch.float64)  # opposite ones would cancel what the variance takes off
    exact = float(quadratic_part(x.sum(-1)[0], torch.zeros(2), signs))
    found = []
    for seed in range(400):
        kept = poisson_sample(p, seed)
        values, variances = (part.sum(-1)[0] for part in partial_sums(x[..., kept], p[kept], 64))
        found.append(float(quadratic_part(values, variances, signs)))
    error = np.std(found) / len(found) ** 0.5
    assert abs(np.mean(found) - exact) < 4 * error


def test_partial_sums_are_sums() -> None:
    x = torch.randn(3, 2, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values, variances = partial_sums(x, torch.full((1000,), 0.25, dtype=torch.float64), 512)
    assert values.shape == (3, 2, 2)
    assert torch.allclose(values.sum(-1), 4 * x.sum(-1))
    assert torch.allclose(variances.sum(-1), 12 * x.square().sum(-1))


def test_the_reading_is_an_option(make_run: MakeRun) -> None:
    run = make_run("adjoint", **FLOAT64, adjoint={"functionals": 3})
    run.cache(["adjoint"])
    found = {r: run.estimate(["reverse"], f"adjoint:reading={r}")[0].delta for r in ("linear", "quadratic")}
    assert found["quadratic"] == run.estimate(["reverse"], "adjoint")[0].delta != found["linear"]
    assert run.estimate(["identity"], "adjoint:reading=linear", known=False)[0].value == run.reference_loss
    with pytest.raises(UsageError, match="reading: expected one of linear, quadratic, got `cubic`"):
        run.methods.open("adjoint:reading=cubic")
    other = make_run("adjoint", adjoint={"functionals": 0})
    other.cache(["adjoint"])
    with pytest.raises(UsageError, match="expected an expansion with functionals of `probe`"):
        other.methods.open("adjoint:reading=quadratic")

"""The adjoint estimator on a run: against its formulas written out, sampled, resumed, and refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from centres import written_out
from runs import shared
from small import Cli, MakeRun, expand, small_config, uneven_run

import fut
from estimators.errors import OrderError
from fut.data.text import build_dataset
from fut.errors import FutWarning, NotCachedError, UsageError
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.identity import open_expansion
from fut.methods.batching import raw_estimates
from fut.methods.curvature_batches import drawn_samples, pooled_batch, pooled_products, pooled_size
from fut.methods.expansion.trajectory import missing_steps, run_trajectory
from fut.methods.registry import method_of
from fut.models.autodiff import hessian_vector, hessian_vector_difference
from storage import IdentityError

FLOAT64 = {"model": {"width": 8, "layers": 1, "heads": 2, "dtype": "float64"}}
EXACT = {"num_runs": 2, "curvature": "items", "functionals": 0, "products": "exact"}


@pytest.mark.parametrize("kind", ["ensemble", "mixture"])
@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [1, 0, 2, 4, 3], [0, 0, 1, 4, 4]])
def test_the_estimate_is_its_formula(make_run: MakeRun, order: list[int], kind: str) -> None:
    run = make_run("adjoint", **FLOAT64, adjoint={"trajectory": kind} | EXACT)
    found = run.estimate([order], "adjoint", known=False)[0]
    expected = written_out(run, order, kind, 2, 3) - written_out(run, list(range(5)), kind, 2, 3)
    assert expected != 0
    assert found.delta == pytest.approx(expected, rel=1e-9)


def test_all_coordinates_sampled_is_no_sample(make_run: MakeRun) -> None:
    plain, sampled = make_run("adjoint", **FLOAT64), make_run("adjoint", **FLOAT64, adjoint={"coordinates": 10**9})
    orders = ["reverse", "random:1"]
    assert [e.value for e in plain.estimate(orders)] == [e.value for e in sampled.estimate(orders)]


def test_another_expansion_configuration_is_refused_by_name(make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(IdentityError, match=r"adjoint\.num_runs"):
        expand(run.context, AdjointConfig(num_runs=3))


def test_what_the_adjoint_cannot_answer(make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(OrderError, match="expected orders of 5 steps"):
        run.estimate(["drop:2"], "adjoint", known=False)
    with pytest.raises(UsageError, match="rebuilds parameters"):
        run.endpoint("reverse", "adjoint")
    with pytest.raises(NotCachedError, match="fut cache"):
        make_run(cached=False, data={"seed": 5}).estimate(["reverse"])


def test_calibration_gives_intervals_and_is_kept(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
    expand(run.context, None)
    assert run.estimate(["reverse"], known=False)[0].interval is None
    fitted = run.calibrate(orders=6, seed=11)
    found = fut.open(tmp_path / "run", device="cpu").estimate(["reverse"], known=False)[0]
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]
    assert found.value == fitted.fit.correct(raw_estimates(run.methods.open("adjoint"), [run.order("reverse")])[0][0])
    checked = run.verify(4, seed=11, estimators=["adjoint"])
    assert not {fut.Order.of(o).digest for o in checked.orders} & set(fitted.digests), "judged on what it was fitted on"
    row = checked.estimators["adjoint"]
    assert 0 <= row["coverage"] <= 1
    assert row["skill_uncalibrated"] is not None


def test_calibration_leaves_the_reference_order_at_the_reference_bitwise(tmp_path: Path) -> None:
    config = small_config()
    data = build_dataset(config)
    twin = fut.Dataset((*data.items[:4], data.items[1]), data.probe, data.warmup)
    run = fut.train(tmp_path / "run", config, data=twin, device="cpu")
    expand(run.context, None)
    fitted = run.calibrate(orders=6, seed=11)
    assert fitted.fit.correct(run.reference_loss) != run.reference_loss, "a fit that moves nothing would pass"
    same, twins, other = run.estimate(["identity", "swap:1,4", "swap:0,2"], known=False)
    for found in (same, twins):
        assert (found.value, found.delta) == (run.reference_loss, 0.0)
        assert found.interval == (run.reference_loss, run.reference_loss)
    assert other.source == "estimate"
    assert other.delta != 0.0


def test_a_calibration_is_not_used_on_terms_made_anew(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    run.calibrate(orders=3, estimator="taylor1")
    run.calibrate(orders=3, estimator="replay-exact")
    assert run.estimate(["reverse"], "taylor1", known=False)[0].interval is not None
    shutil.rmtree(own_run / "terms")
    run.cache(["update", "jvp"], run.context.config.cache.model_copy(update={"size": 32}))
    assert run.estimate(["reverse"], "taylor1", known=False)[0].interval is None
    assert run.estimate(["reverse"], "replay-exact", known=False)[0].interval is not None, "it replays no terms"


def test_a_pool_of_every_sample_has_the_mean_hessian(make_run: MakeRun) -> None:
    run = make_run("adjoint", **FLOAT64, adjoint={"pool": 5})
    problem, expansion = run.context.problem, open_expansion(run.context)
    theta = run.context.state(2).theta
    direction = problem.probe_gradient(theta)
    exact = sum(problem.product(theta, i, direction) for i in range(run.items)) / run.items
    found = pooled_products(problem, expansion.spec.config, 2, theta[None], direction[None], 1)[0]
    assert (found - exact).norm() < 1e-3 * exact.norm()  # type: ignore[union-attr]


def test_a_pool_is_divided_among_the_places_and_averaged_over_them(make_run: MakeRun) -> None:
    run = make_run("adjoint", **FLOAT64, adjoint={"pool": 15})
    problem, config = run.context.problem, open_expansion(run.context).spec.config
    places = torch.stack([run.context.state(t).theta for t in (0, 2, 4)])
    samples = len(problem.data.items[0][0])
    assert [pooled_size(problem, config, n) for n in (1, 3, 40)] == [
        15 * samples,
        5 * samples,
        max(1, samples * 15 // 40),
    ]
    direction = problem.probe_gradient(places[0])
    all_items = [
        (theta, i) for theta in places for i in range(run.items)
    ]  # a third of 15 steps is every sample there is
    exact = torch.stack([problem.product(theta, i, direction) for theta, i in all_items]).mean(0)
    found = pooled_products(problem, config, 2, places, direction[None], 1)[0]
    assert (found - exact).norm() < 1e-3 * exact.norm()
    one = torch.stack([problem.product(places[0], i, direction) for i in range(run.items)]).mean(0)
    assert (one - exact).norm() > 1e-2 * exact.norm(), "or places would not matter"


def test_an_ensemble_is_of_orders_as_they_are_really_trained(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(adjoint={"num_runs": 3}), cached=False)
    expansion = open_expansion(run.context)
    list(run_trajectory(expansion.trajectory, missing_steps(expansion.trajectory)))
    ends = [run.retrain(order).theta for order in expansion.spec.trajectory.members]
    assert torch.equal(expansion.trajectory.state(run.steps).theta, torch.stack(ends).sum(0) / 3)
    assert len(expansion.trajectory.runs.steps()) == 1, "of the runs only the latest states are kept"
    for t in range(run.steps):
        places = expansion.trajectory.places(t)
        mean = torch.stack(list(places)).sum(0) / 3
        assert torch.equal(mean if t else run.context.state(0).theta, expansion.trajectory.state(t).theta)
        for row, order in enumerate(expansion.spec.trajectory.members):
            own = run.context.problem.gradient(places[row], order.steps[t][0])
            assert torch.equal(expansion.trajectory.gradients_of(t)[row], own)


@pytest.mark.parametrize("curvature", ["pooled", "items"])
def test_exact_products_are_what_differences_come_near_to(make_run: MakeRun, curvature: str) -> None:
    """Central ones of a drawn batch, one-sided ones of items whose gradients are known."""
    adjoint = {"num_runs": 2, "curvature": curvature}
    runs = [make_run("adjoint", **FLOAT64, adjoint=adjoint | {"products": p}) for p in ("exact", "difference")]
    exact, near = (open_expansion(run.context).terms().read("weight", 2) for run in runs)
    assert 0 < np.linalg.norm(exact - near) < 1e-3 * np.linalg.norm(exact)
    theta = runs[0].context.state(2).theta
    u = runs[0].context.problem.probe_gradient(theta)
    found = pooled_products(
        runs[0].context.problem, open_expansion(runs[0].context).spec.config, 2, theta[None], u[None], 1
    )[0]
    batch = pooled_batch(runs[0].context.problem, open_expansion(runs[0].context).spec.config, 2)
    assert torch.equal(found, hessian_vector(runs[0].context.problem.objective, theta, batch, u))


def test_samples_cannot_be_pooled_from_items_of_several_shapes(tmp_path: Path) -> None:
    run = uneven_run(tmp_path / "run")
    with pytest.warns(
        FutWarning, match=r"items are taken whole, with adjoint.curvature = .items.*: items have 5 shapes"
    ):
        expand(run.context, None)
    assert open_expansion(run.context).spec.config.curvature == "items"
    assert open_expansion(run.context).spec.functionals == 0, "which need drawn batches"
    assert run.estimate(["reverse"], known=False)[0].delta != 0


@pytest.mark.parametrize("cached", [1, 700, 10**9])
def test_estimates_do_not_depend_on_blocks_or_batches(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, cached: int
) -> None:
    run = make_run()
    orders = [run.order(f"random:{i}") for i in range(5)]
    expected = raw_estimates(run.methods.open("adjoint"), orders)[0]
    monkeypatch.setattr("fut.methods.adjoint.estimator.BLOCK", {"cpu": cached})
    estimator: Any = run.methods.open("adjoint")
    assert len(estimator._blocks(5)) == (1 if cached == 10**9 else -(-run.context.parameters // 512))
    assert raw_estimates(run.methods.open("adjoint"), orders)[0] == expected
    assert [raw_estimates(run.methods.open("adjoint"), [o])[0][0] for o in orders] == expected


def test_the_expansion_says_what_it_errs_by_on_its_own_runs(tmp_path: Path, make_run: MakeRun, cli: Cli) -> None:
    run = make_run("adjoint", adjoint={"num_runs": 3})
    run.cache(["adjoint"])
    members = open_expansion(run.context).spec.trajectory.members
    truth = [run.retrain(order).loss for order in members]
    guess = [
        e.value for e in run.estimate([order.steps for order in members], "adjoint", known=False, calibrated=False)
    ]
    error = run.info()["adjoint_own_error"]
    assert error == pytest.approx(np.std(np.array(guess) - np.array(truth), ddof=1), rel=1e-6)
    assert error > 0
    assert f"off by {error:.2g} nats/token (standard deviation) on the 3 runs" in cli("info", run.path).out
    estimate = run.estimate(["reverse"], known=False, calibrated=False)[0]
    assert (
        f"on the few real runs that it is made of it errs by {error:.2g} nats/token (standard deviation"
        in estimate.note
    )
    assert "errs by" not in make_run("adjoint", adjoint={"num_runs": 2}).estimate(["reverse"], known=False)[0].note, (
        "mirror images"
    )
    alone = shared(tmp_path / "run", small_config(adjoint={"trajectory": "mixture"}), cached=False)
    alone.cache(["adjoint"])
    assert alone.info()["adjoint_own_error"] is None
    other = make_run(adjoint={"readouts": ["accuracy", "probe"]}, cached=False)
    other.cache(["adjoint"])
    assert other.info()["adjoint_own_error"] is None, "which would be a probability's, under nats/token"


def test_the_difference_step_is_checked_against_an_exact_product(tmp_path: Path, make_run: MakeRun, cli: Cli) -> None:
    run = make_run("adjoint", **FLOAT64)
    run.cache(["adjoint"])
    found = run.info()["adjoint_difference_error"]
    assert 0 < found < 1e-3
    problem, expansion = run.context.problem, open_expansion(run.context)
    assert not expansion.scratch.exists()
    own = fut.train(tmp_path / "run", run.context.config, device="cpu")
    expansion = open_expansion(own.context)
    list(run_trajectory(expansion.trajectory, missing_steps(expansion.trajectory)))
    theta, direction = (
        expansion.trajectory.state(own.steps).theta,
        problem.probe_gradient(expansion.trajectory.state(own.steps).theta),
    )
    batch = drawn_samples(problem.data.items, 1, np.random.default_rng([0, 23]))
    exact = hessian_vector(problem.objective, theta, batch, direction)
    difference = hessian_vector_difference(problem.objective, theta, batch, direction)
    assert found == pytest.approx(((difference - exact).norm() / exact.norm()).item(), rel=1e-6)
    assert "central difference is" in cli("info", run.path).out
    run = shared(tmp_path / "exact", small_config(adjoint={"products": "exact"}), cached=False)
    run.cache(["adjoint"])
    assert run.info()["adjoint_difference_error"] is None


@pytest.mark.parametrize("spacing", ["steps", "rate"])
def test_a_calibration_is_of_all_that_the_expansion_is_made_from(make_run: MakeRun, spacing: str) -> None:
    run = make_run("adjoint", adjoint={"spacing": spacing})
    pinned = dict(open_expansion(run.context).identity["adjoint"])
    terms = method_of("adjoint").fingerprint(run.context, "probe")
    assert terms == pinned | {"readouts": ["probe"]}
    assert terms["spacing"] == spacing

"""The accuracy protocol, on arrays against scipy, with stubs, and on a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from small import small_config

import fut
from estimators.orders.order import Order
from fut.errors import UsageError
from fut.estimation.accuracy import accuracy
from fut.estimation.results import Answers
from fut.estimation.service import EstimationService
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.pairwise.pipeline import PAIRWISE_TERMS
from fut.questions.accuracy.ask import without_stale
from fut.questions.accuracy.result import verify
from fut.report.section import Sampling, read_record
from storage import CheckpointStore

DRAW = np.random.default_rng(3)
TRUE = 2.0 + 0.01 * DRAW.normal(size=24)
CASES: dict[str, tuple[Any, Any]] = {
    "close": (TRUE, TRUE + 0.003 * DRAW.normal(size=24)),
    "opposite": (TRUE, -TRUE),
    "unrelated": (TRUE, DRAW.normal(size=24)),
    "ties": (np.round(TRUE, 2), np.round(TRUE + 0.003 * DRAW.normal(size=24), 2)),
    "two": ([1.0, 2.0], [3.0, 2.0]),
    "tiny": (TRUE, 2 + 1e-9 * DRAW.normal(size=24)),
}


@pytest.mark.parametrize("case", CASES)
def test_correlations_are_those_of_scipy(case: str) -> None:
    true, guess = CASES[case]
    found = accuracy(true, guess, 2.0)
    assert found.spearman == pytest.approx(spearmanr(true, guess).statistic, abs=1e-12)
    assert found.pearson == pytest.approx(pearsonr(true, guess).statistic, abs=1e-6 if case == "tiny" else 1e-12)
    assert (found.spearman_interval is None) == (len(true) < 8), "of a few orders a bootstrap shrinks to a point"
    low, high = found.spearman_interval or (-1, 1)
    assert -1 - 1e-12 <= low <= high <= 1 + 1e-12
    assert found.mae == pytest.approx(np.abs(np.subtract(true, guess)).mean())
    assert found.bias == pytest.approx(np.subtract(guess, true).mean())
    assert found.residual_sd == pytest.approx(np.subtract(guess, true).std(ddof=1))


@pytest.mark.parametrize("value", [2.0, 4.1234, 0.1, 5.583629608154297])
@pytest.mark.parametrize("n", [3, 7, 24, 32])
def test_estimates_that_do_not_vary_have_no_correlation(value: float, n: int) -> None:
    true = 2 + 0.01 * np.random.default_rng(n).normal(size=n)
    for found in (accuracy(true, [value] * n, 2.0), accuracy([value] * n, true, 2.0)):
        assert (found.spearman, found.spearman_interval) == (None, None)
        assert (found.pearson, found.pearson_interval) == (None, None)


def test_skill_is_positive_exactly_for_what_beats_the_baseline() -> None:
    reference = 2.0
    assert accuracy(TRUE, TRUE, reference).skill == 1.0
    assert accuracy(TRUE, [reference] * 24, reference).skill == 0.0
    assert 0 < accuracy(TRUE, TRUE + 0.001, reference).skill < 1
    assert accuracy(TRUE, 2 * reference - TRUE, reference).skill == pytest.approx(-1)


def test_an_estimate_that_is_no_number_counts_as_far_off_and_last() -> None:
    guess = TRUE.copy()
    guess[[3, 7]] = np.nan, np.inf
    found = accuracy(TRUE, guess, 2.0)
    assert found.diverged == 2
    assert found.skill < 0
    assert found.spearman is not None
    assert found.spearman < 1
    json.dumps(found.as_dict(), allow_nan=False)
    assert accuracy(TRUE, [np.nan] * 24, 2.0).diverged == 24


def test_coverage_is_the_share_of_truths_inside() -> None:
    intervals = [(t - 1, t + 1) if i < 6 else (t + 1, t + 2) for i, t in enumerate(TRUE)]
    assert accuracy(TRUE, TRUE, 2.0, intervals).coverage == 0.25
    assert accuracy(TRUE, TRUE, 2.0).coverage is None


@pytest.mark.parametrize(("true", "guess"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([[1.0, 2.0]], [[1.0, 2.0]])])
def test_lists_that_do_not_fit_are_refused(true: Any, guess: Any) -> None:
    with pytest.raises(ValueError, match="two equally long lists of n >= 2 losses"):
        accuracy(true, guess, 1.0)


def test_the_bootstrap_interval_covers() -> None:
    """Of 200 samples of 32 with correlation 0.7, a 90 % percentile interval covers 0.9 up to its known optimism.

    The binomial sd at 200 is 0.021; the percentile bootstrap of r at n = 32 is known to cover a few points less than
    nominal. 0.80 .. 0.97 fails for intervals of the wrong level (68 %, 99 %) and accepts ours.
    """
    draw, rho, inside = np.random.default_rng(11), 0.7, 0
    for _ in range(200):
        x, e = draw.normal(size=(2, 32))
        low, high = accuracy(x, rho * x + np.sqrt(1 - rho**2) * e, 0.0).pearson_interval or (1, -1)
        inside += low <= rho <= high
    assert 0.80 <= inside / 200 <= 0.97, f"covered {inside} of 200"


def test_verify_asks_every_estimator_about_the_same_orders() -> None:
    orders = [Order.of(o) for o in ([0, 1, 2], [2, 1, 0], [1, 0, 2])]
    truth = {o: 1.0 + 0.1 * i for i, o in enumerate(orders)}
    trained: list[Order] = []

    def retrain(order: Order) -> tuple[float, float]:
        trained.append(order)
        return truth[order], 2.0

    asks = {
        "oracle": lambda os: Answers([truth[o] for o in os], [(truth[o] - 1, truth[o] + 1) for o in os], 0.25, 6.0),
        "reference": lambda os: Answers([1.0] * len(os), None, None, 0.3),
    }
    found = verify(orders, 1.0, retrain, asks, {"oracle": {"precompute_gradients": 7}})
    assert trained == orders
    assert found.true_losses == [truth[o] for o in orders]
    assert (found.retrain_seconds, found.orders[1]) == (2.0, [2, 1, 0])
    row = found.estimators["oracle"]
    assert (row["spearman"], row["mae"], row["skill"], row["coverage"]) == (pytest.approx(1.0), 0.0, 1.0, 1.0)
    assert (row["endpoint_error"], row["seconds_per_order"], row["precompute_gradients"]) == (0.25, 2.0, 7)
    assert found.estimators["reference"]["spearman"] is None
    json.dumps(found.as_dict(), allow_nan=False)


def test_verify_reuses_retrained_orders_and_keeps_its_table(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fut.open(own_run, device="cpu").verify(3, seed=2, estimators=["taylor1"])
    assert list(first.estimators) == ["reference", "taylor1"]
    kept = json.loads((own_run / "verification/orders-3-seed-2.json").read_text())
    assert kept["true_losses"] == first.true_losses
    assert kept["estimators"].keys() == first.estimators.keys()

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("an order was trained a second time")

    monkeypatch.setattr("fut.methods.context.train_order", refuse)
    again = fut.open(own_run, device="cpu").verify(3, seed=2, estimators=["replay"])
    assert again.true_losses == first.true_losses
    with pytest.raises(AssertionError, match="trained a second time"):
        fut.open(own_run, device="cpu").verify(3, seed=3, estimators=["replay"])


def test_the_oracle_is_nearer_to_the_truth_than_the_baseline(small_run: fut.Run) -> None:
    found = small_run.verify(4, seed=0, estimators=["replay-exact", "taylor1"]).estimators
    assert found["replay-exact"]["skill"] > 0.5
    assert found["replay-exact"]["endpoint_error"] < 0.5
    assert found["reference"]["endpoint_error"] == pytest.approx(1.0)
    assert found["reference"]["skill"] == 0.0


def test_an_estimator_without_terms_is_refused_before_anything_is_trained(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    store = PAIRWISE_TERMS.open(run.context).open_terms()
    store.discard(store.blocks("jvp")[0])
    with pytest.raises(fut.NotCachedError, match="run `fut cache RUN --terms jvp"):
        run.verify(2, seed=9, estimators=["taylor1"])
    assert not list((own_run / "retrained").glob("*"))


def test_a_damaged_retrained_endpoint_is_named(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    run.retrain("reverse")
    (folder,) = (own_run / "retrained").iterdir()
    file = CheckpointStore(folder).path(5)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert [d.path for d in run.check()] == [str(file)]
    with pytest.raises(OSError, match=str(file)):
        fut.open(own_run, device="cpu").retrain("reverse")


def test_retraining_is_a_row_that_is_exact(own_run: Path) -> None:
    row = fut.open(own_run, device="cpu").verify(3, seed=5, estimators=["retrain"]).estimators["retrain"]
    assert (row["mae"], row["skill"], row["coverage"], row["endpoint_error"]) == (0.0, 1.0, 1.0, 0.0)
    assert row["query_gradients"] == fut.open(own_run, device="cpu").steps


def test_an_order_that_ends_at_the_reference_does_not_spoil_the_endpoint_error(own_run: Path, monkeypatch: Any) -> None:
    run = fut.open(own_run, device="cpu")
    drawn = [run.order("reverse"), run.reference]
    monkeypatch.setattr("fut.questions.accuracy.ask.fresh_orders", lambda *arguments: drawn)
    row = run.verify(2, seed=1, estimators=["replay-exact"]).estimators["replay-exact"]
    assert 0 < row["endpoint_error"] < 1


def test_no_coefficient_leaves_its_range_by_rounding() -> None:
    for seed in range(20):
        true = np.random.default_rng(seed).normal(size=12)
        found = accuracy(list(true), list(3 * true), 0.0)
        assert found.pearson is not None
        assert found.pearson_interval is not None
        assert max(found.pearson, *found.pearson_interval) <= 1.0


def test_what_was_said_of_other_terms_is_not_kept(tmp_path: Path) -> None:
    run = fut.train(tmp_path / "run", small_config(), device="cpu")
    run.cache(["adjoint"])
    run.verify(4, 3, ["adjoint", "replay-exact"])
    (path,) = (tmp_path / "run" / "verification").glob("*.json")

    def named() -> set[str]:
        service = EstimationService(fut.open(tmp_path / "run", device="cpu").context)
        return set(without_stale(json.loads(path.read_text()), service.basis)["estimators"])

    assert named() == {"reference", "adjoint", "replay-exact"}
    run.calibrate(4)
    assert named() == {"reference", "replay-exact"}, "calibrated since"
    run.verify(4, 3, ["adjoint", "replay-exact"])
    assert "adjoint" in named()
    shutil.rmtree(tmp_path / "run" / "adjoint")
    fut.open(tmp_path / "run", device="cpu").cache(["adjoint"], adjoint=AdjointConfig(num_runs=2, functionals=0))
    assert named() == {"reference", "replay-exact"}, "of another expansion"
    record = read_record(fut.open(tmp_path / "run", device="cpu").context, Sampling(0, "positions"))
    assert [set(v.estimators) for v in record.verified] == [named()]


def test_orders_are_drawn_once_each_and_never_the_reference(tmp_path: Path) -> None:
    run = fut.train(tmp_path / "run", small_config(data={"items": 3}), device="cpu")
    run.cache(["adjoint"])
    found = run.calibrate(5)
    assert sorted(found.orders) == [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    with pytest.raises(UsageError, match="calibrate: expected 6 random orders, each another one"):
        run.calibrate(6)
    with pytest.raises(UsageError, match=r"verify: expected 2 random orders, .* calibrated on"):
        run.verify(2, 1)
    for asked in (lambda: run.verify(2, -1), lambda: run.calibrate(3, -1), lambda: run.lds(2, seed=-1)):
        with pytest.raises((fut.OrderError, UsageError), match="a seed of 0 or more, got -1"):
            asked()


def test_an_interval_does_not_widen_towards_the_reference(own_run: Path) -> None:
    run = fut.open(own_run, device="cpu")
    found = run.calibrate(6)
    noisy = replace(found, variance=4 * found.fit.sd**2)
    widths = [
        np.ptp(noisy.nearer(run.reference_loss, s).interval(run.reference_loss, noisy.variance)) for s in (1, 0.5)
    ]
    assert widths[0] == pytest.approx(widths[1]), "no wider than for random orders"

"""The accuracy protocol, with stubs and on a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import shared
from small import small_config

import fut
from estimators.orders.order import Order
from fut.errors import UsageError
from fut.estimation.results import Answers
from fut.estimation.service import EstimationService
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.pairwise.pipeline import PAIRWISE_TERMS
from fut.questions.accuracy.ask import without_stale
from fut.questions.accuracy.result import verify
from fut.report.section import Sampling, read_record
from storage import CheckpointStore


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

    monkeypatch.setattr("fut.methods.context.train_order_at", refuse)
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
    with pytest.raises(fut.NotCachedError, match=r"run `fut cache RUN --terms update,jvp` .* first"):
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


def test_what_was_said_of_other_terms_is_not_kept(tmp_path: Path) -> None:
    run = shared(tmp_path / "run", small_config(), cached=False)
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
    run = shared(tmp_path / "run", small_config(data={"items": 3}), cached=False)
    run.cache(["adjoint"])
    found = run.calibrate(5)
    assert sorted(found.orders) == [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    with pytest.raises(UsageError, match="calibrate: expected at most 5 random orders"):
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

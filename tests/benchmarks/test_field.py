"""`benchmarks/field.py` on a run of a few thousand parameters: its banks, its second run, and what it says of both."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import field
import pytest

import fut
from estimators.orders.order import Order
from fut.display.numbers import jsonable
from fut.questions.accuracy.leave_out import random_subsets

SMALL = {
    "model.width": 8,
    "model.layers": 1,
    "model.heads": 2,
    "data.context": 12,
    "data.probe": 4,
    "warmup.steps": 4,
    "warmup.ramp": 2,
    "adjoint.functionals": 2,
    "model.dtype": "float64",
}


def arguments(work: Path) -> argparse.Namespace:
    given = [f"{key}={json.dumps(value)}" for key, value in SMALL.items()]
    return argparse.Namespace(
        steps=6, per_step=4, text="", settings=given, work=work, name="small", subsets=12, share=0.2, rate=1e-3
    )


@pytest.fixture(scope="module", params=[1, 2])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    setting = {"items": "iid", "epochs": request.param, "rate": 1e-3}
    return field.measure(setting, arguments(tmp_path_factory.mktemp("field")))


def test_a_row_is_complete_and_can_be_written(found: dict[str, Any]) -> None:
    again = json.loads(json.dumps(jsonable(found)))
    assert set(again["reference"]) == set(again["reference_told_nothing"])
    for part in ("reference", "reference_told_nothing", "other"):
        for name, one in again[part].items():
            assert len(one["effects"]) == 12, name
            assert ("skill" in one) == (
                name not in ("TracIn", "TracIn, own steps", "gradient cosine", "BM25", "random")
            )
    assert "reweighting moved by adjoint" in field.table(found)


def test_the_run_in_the_other_order_is_that_order(found: dict[str, Any]) -> None:
    """Trained anew on permuted data, it ends where the first run ends that is retrained in that order."""
    assert abs(found["other_run_gap"]) < 1e-9
    assert abs(found["order_effect"]) > 1e-6


def test_told_the_order_the_scores_are_nearer_to_retraining(found: dict[str, Any]) -> None:
    """Of a run of its own, `reweighting` is right in the other order, as it is in the reference order."""
    own = found["other"]["reweighting, of a run in that order"]
    assert found["reference"]["reweighting"]["pearson"] > 0.99
    assert own["pearson"] > 0.99
    assert own["mae"] < found["reference_told_nothing"]["reweighting"]["mae"]


def test_the_step_that_is_differentiated_is_the_one_that_was_trained(found: dict[str, Any]) -> None:
    assert found["reference"]["metagradient"]["step_error"] < 1e-9


def test_costs_count_every_sequence_of_the_probe(found: dict[str, Any]) -> None:
    """24 samples are consumed, and the probe has 4 sequences in one chunk: 3 passes and the read-out's gradient; of `adjoint`
    the plan's gradients, and 3 more for each of the read-out's own gradient and of 4 m + 1 for m = 2 directions."""
    runs = {name: one["training_runs"] * 24 for name, one in found["reference"].items()}
    assert runs["reweighting"] == runs["metagradient"] == pytest.approx(3 * 24 + 4)
    assert runs["TracIn, own steps"] == pytest.approx(24 + 6 * 4)
    assert runs["adjoint"] == runs["positions"] == pytest.approx(found["planned"]["adjoint"] + 3 * (1 + 9))
    assert found["planned"]["reweighting"] == pytest.approx(3 * 24 + 1)
    own = found["other"]["reweighting, of a run in that order"]["training_runs"]
    assert own * 24 == pytest.approx(runs["reweighting"] + 24)


def test_the_bank_is_of_retrained_orders(tmp_path: Path) -> None:
    config = field.configured({"items": "iid", "epochs": 2, "rate": 1e-3}, arguments(tmp_path))
    run = fut.train(tmp_path / "run", config)
    subsets = random_subsets(run.items, 2, 0.2, 0)
    items, other = field.shuffled(run)
    assert sorted(items) == list(range(run.items))
    assert other.steps[0] == tuple(sorted(items[:4]))
    assert other.steps[:3] == other.steps[3:]
    made = field.bank(run, other, subsets)
    for effect, left_out in zip(made.effects, subsets, strict=True):
        kept = Order.of([[i for i in step if i not in left_out] for step in other.steps])
        assert effect == pytest.approx(run.retrain(kept).loss - run.retrain(other).loss, abs=1e-12)

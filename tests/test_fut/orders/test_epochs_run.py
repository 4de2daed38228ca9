"""Windows of several epochs, through the run: what random orders are, what is calibrated on, and whether estimates hold."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from small import MakeRun

import fut
from estimators.orders.order import Order
from fut.estimation.nearness import Nearness

SECTIONS: dict[str, dict[str, Any]] = {
    "data": {"items": 8, "batch": 1, "per_step": 2, "epochs": 3},
    "model": {"dtype": "float64"},
}


@pytest.fixture(scope="module")
def epochal(make_run: MakeRun) -> fut.Run:
    """A run of three epochs of four steps of two items. Shared: read only."""
    return make_run(**SECTIONS)


def of_epochs(order: Order) -> list[Counter[int]]:
    return [Counter(i for step in order.steps[first : first + 4] for i in step) for first in (0, 4, 8)]


def test_every_random_order_goes_through_the_items_once_an_epoch(epochal: fut.Run) -> None:
    once = Counter(range(8))
    assert of_epochs(epochal.order("random:3")) == [once] * 3
    assert of_epochs(epochal.order("random-all:3")) != [once] * 3
    members = epochal.methods.open("adjoint").expansion.spec.trajectory.members  # type: ignore[attr-defined]
    assert all(of_epochs(member) == [once] * 3 for member in members)
    fit = epochal.calibrate(4)
    assert all(of_epochs(epochal.order(listed)) == [once] * 3 for listed in fit.orders)
    near = Nearness(epochal.context, epochal.context.readouts.get("probe"))
    shares = [near._distance.share(epochal.order(listed)) for listed in fit.orders]
    assert np.mean(shares) == 1.0, "a calibration applies in full to orders like those that it is of"


@pytest.mark.parametrize("name", ["random", "random-all"])
def test_estimates_rank_orders_of_several_epochs(epochal: fut.Run, name: str) -> None:
    orders = [f"{name}:{seed}" for seed in range(12)]
    true = [epochal.retrain(order).loss for order in orders]
    found = [e.value for e in epochal.estimate(orders, "adjoint", known=False, calibrated=False)]
    assert spearmanr(true, found)[0] > 0.85
    spread = np.std(np.array(true) - epochal.reference_loss)
    assert np.std(np.array(found) - true) < 0.5 * spread

"""A rate at which some orders train and some do not: the latter are named, and the others go on."""

from __future__ import annotations

import pytest
import torch
from plain_torch import config
from torch import nn

import fut
from estimators.errors import DivergenceError
from estimators.orders.order import Order, random_order
from fut.errors import FutWarning


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    torch.manual_seed(0)
    x = torch.randn(16, 4, 6)
    items = [(x[i] * (9 if i == 11 else 1),) for i in range(12)]
    return fut.train(
        tmp_path_factory.mktemp("run") / "run",
        config(12, "sgd", schedule={"kind": "linear", "rate": 0.2}),
        module=nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 6)),
        loss=lambda m, x: (m(x) - x).square().mean(),
        data=fut.Dataset(tuple(items), tuple((x[i],) for i in range(12, 16))),
        device="cpu",
    )


def trains(run: fut.Run, order: Order) -> bool:
    """Whether plain torch trains it."""
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 6))
    objective, theta = run.context.problem.objective, run.context.problem.objective.start()
    net.load_state_dict(objective.state_dict(theta))
    for t, (i,) in enumerate(order.steps):
        (x,) = run.context.problem.data.items[i]
        loss = (net(x) - x).square().mean()
        if not loss.isfinite():
            return False
        for p, g in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
            p.data -= run.context.problem.rate(t) * g
    return True


def test_verify_leaves_out_what_diverges_and_names_it(run: fut.Run) -> None:
    drawn = [random_order(run.reference, 0, i) for i in range(8)]
    found = run.verify(orders=8, estimators=["reference"])
    assert found.diverged == [order.tolist() for order in drawn if not trains(run, order)]
    assert 0 < len(found.diverged) < 7
    assert found.orders == [order.tolist() for order in drawn if trains(run, order)]
    assert len(found.true_losses) == len(found.estimated_losses["reference"]) == len(found.orders)
    lost = Order.of(found.diverged[0])
    assert any(f"{len(found.diverged)} of 8 orders diverged" in n and lost.digest[:12] in n for n in found.notes())
    with pytest.raises(
        DivergenceError, match=rf"order {lost.digest[:12]} \(\[.*, …\]\): it diverges: item \d+: .*lower schedule"
    ):
        run.retrain(lost)


def test_calibration_is_of_the_orders_that_train(run: fut.Run) -> None:
    with pytest.warns(
        FutWarning, match=r"calibrate: \d of 12 orders diverged when they were retrained, and are left out"
    ):
        found = run.calibrate(orders=12, estimator="replay-exact")
    assert 0 < len(found.orders) < 12
    assert all(trains(run, Order.of(order)) for order in found.orders)
    assert len(found.truths) == len(found.estimates) == len(found.orders)


def test_too_few_that_train_are_refused(run: fut.Run) -> None:
    seed = next(s for s in range(200) if not any(trains(run, random_order(run.reference, s, i)) for i in range(2)))
    with pytest.raises(
        DivergenceError, match="verify: expected at least 2 orders that train, got 0; 2 of 2 orders diverged"
    ):
        run.verify(orders=2, seed=seed, estimators=["reference"])

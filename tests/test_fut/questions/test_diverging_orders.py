"""Orders whose training diverges are named, and the others go on; an estimate that is not finite is never the best."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fut
from estimators.errors import DivergenceError
from estimators.orders.order import Order
from fut.divergence import named
from fut.errors import FutWarning
from fut.methods.adjoint.identity import open_expansion
from fut.methods.expansion.spec import Trajectory
from fut.questions.curriculum.evaluator import Budget
from fut.questions.curriculum.search import search
from fut.questions.domains.result import Domains, Entry

STEPS = 12


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 6))


def squared(module: nn.Module, one: Tensor) -> Tensor:
    return (module(one) - one).square().mean()


@pytest.fixture(scope="module")
def steep(tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    """A run at a rate at which the reference order trains, and orders that show item 11 early do not."""
    torch.manual_seed(0)
    x = torch.randn(16, 4, 6)
    items = tuple((x[i] * (9 if i == 11 else 1),) for i in range(STEPS))
    config = fut.load_config(
        data={"items": STEPS},
        warmup={"steps": 0},
        schedule={"kind": "linear", "rate": 0.2},
        rule={"name": "sgd", "options": {}},
    )
    return fut.train(
        tmp_path_factory.mktemp("steep") / "run",
        config,
        module=network(),
        loss=squared,
        data=fut.Dataset(items, tuple((x[i],) for i in range(STEPS, 16))),
        device="cpu",
    )


def test_verify_names_orders_that_diverge_and_compares_the_others(steep: fut.Run) -> None:
    found = steep.verify(8, 0, ["reference"])
    assert 0 < len(found.diverged) < 7
    assert len(found.orders) + len(found.diverged) == 8
    assert np.isfinite(found.true_losses).all()
    (first, *_) = found.diverged
    with pytest.raises(DivergenceError):
        steep.retrain(first)
    note = found.notes()[1]
    assert note.startswith(f"{len(found.diverged)} of 8 orders diverged when they were retrained, and are left out: ")
    assert named(Order.of(first)) in note
    assert found.as_dict()["diverged"] == found.diverged


def test_a_run_of_the_trajectory_that_diverges_is_named_and_another_stands_in_its_place(steep: fut.Run) -> None:
    with pytest.warns(FutWarning, match="diverges where it is trained for the adjoint's trajectory; another stands in"):
        steep.cache(["adjoint"])
    about = open_expansion(steep.context).spec.trajectory
    assert 0 < len(about.left_out) <= 3 * about.count
    assert about.count == len(set(about.members)) == 4
    for order in about.members:
        assert not diverges(steep, order)
    for number in about.left_out:
        assert diverges(steep, about.run(number))
    facts = steep.info()
    assert named(about.run(about.left_out[0])) in facts["adjoint_left_out"]
    assert facts["adjoint"]["left_out"] == list(about.left_out)
    whole = steep.whatif("reverse").changes[0].value
    again = fut.open(steep.path, module=network(), loss=squared, device="cpu")
    again.cache(["adjoint"])  # finds all there
    assert again.whatif("reverse").changes[0].value == whole
    again.cache(["adjoint"], readouts=["item:3"])
    assert np.isfinite(again.whatif("reverse", readouts=["item:3"], known=False).changes[0].value)


def test_where_most_orders_diverge_the_adjoint_says_so(steep: fut.Run, tmp_path: Path) -> None:
    run = fut.open(shutil.copytree(steep.path, tmp_path / "run"), module=network(), loss=squared, device="cpu")
    shutil.rmtree(run.path / "adjoint", ignore_errors=True)
    seeds = (Trajectory(run.context.problem, True, 1, seed) for seed in range(200))
    about = next(found for found in seeds if all(diverges(run, found.run(number)) for number in range(4)))
    adjoint = run.context.config.adjoint.model_copy(update={"num_runs": 1, "seed": about.seed})
    with (
        pytest.warns(FutWarning),
        pytest.raises(DivergenceError, match="expected at least a quarter of the orders to train"),
    ):
        run.cache(["adjoint"], adjoint=adjoint)


def diverges(run: fut.Run, order: Order) -> bool:
    """Whether its loss is not finite, or so large that it is about not to be."""
    try:
        return run.retrain(order).loss > 1e6
    except DivergenceError:
        return True


def test_calibration_goes_on_without_an_order_that_diverges(make_run: Callable[..., fut.Run], monkeypatch: Any) -> None:
    run = fut.open(make_run().path, device="cpu")
    train, seen = type(run.context).retrain, list[Order]()

    def sometimes(context: Any, order: Order, listener: Any = None) -> Any:
        seen.append(order)
        if len(seen) == 2:
            raise DivergenceError("item 3: expected a finite loss, got nan")
        return train(context, order, listener)

    monkeypatch.setattr(type(run.context), "retrain", sometimes)
    monkeypatch.setattr("fut.estimation.calibration.DIRECTORY", "elsewhere")
    with pytest.warns(FutWarning, match="1 of 5 orders diverged"):
        found = run.calibrate(5, seed=77)
    assert len(found.orders) == len(found.truths) == 4
    assert found.diverged == (named(seen[1]),)
    assert "1 others diverged" in found.fitted_on
    assert named(seen[1]) in found.notes()[1]
    seen.clear()
    with pytest.raises(DivergenceError, match="calibrate: expected at least 3 orders that train, got 2"):
        run.calibrate(3, seed=78)


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("method", ["local", "genetic", "assignment"])
def test_a_search_never_chooses_what_diverged(method: str, maximize: bool) -> None:
    start, wrong = Order.of(range(5)), iter([np.nan, np.inf, -np.inf] * 1000)

    def estimate(orders: Any) -> list[float]:
        return [
            next(wrong) if o.steps[0] == (4,) else float(sum(s * i for s, (i,) in enumerate(o.steps))) for o in orders
        ]

    table = np.outer(np.arange(5.0), np.arange(5.0))
    table[0, 4] = np.nan
    found = search(estimate, start, table, method=method, budget=Budget(evaluations=80), maximize=maximize, finalists=3)
    assert np.isfinite(found.value)
    assert all(order.steps[0] != (4,) for order, _ in found.finalists)


def entries() -> Iterator[Entry]:
    for name, value in (("a>b", float("nan")), ("b>a", 2.0), ("c", 3.0)):
        yield Entry(name, [name], [0, 1], value, value - 2.5, None, "")


def test_a_domain_order_that_diverged_is_neither_best_nor_worst() -> None:
    found = Domains("adjoint", "probe", "nats/token", 2.5, {"a": [0], "b": [1]}, list(entries()), [], None, "")
    assert (found.best.name, found.worst.name) == ("b>a", "c")
    again = Domains.from_dict(found.as_dict())
    assert again.best.name == "b>a"
    assert np.isnan(again.orders[0].value)
    assert replace(found, orders=found.orders[:1]).best.name == "a>b"

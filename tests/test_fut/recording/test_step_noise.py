"""Random numbers that stay at their step: what the user's own loop does with other batches, and what estimates say of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.optim import AdamW
from user_loops import PROBE, Net, batches, replay_error

import fut
from fut.api import render
from fut.errors import UsageError
from fut.methods.registry import METHODS
from fut.models.randomness import seeded
from fut.training.problem import Problem, build_problem, keyed_item

STEPS = 6
BY_STEP = {"model": {"noise_key": "step"}}


def net() -> Any:
    torch.manual_seed(0)
    model: Any = Net()
    model.norm = nn.Sequential(model.norm, nn.Dropout(0.3))
    return model


def loop(order: Sequence[Sequence[int]], around: Callable[[Any, Any], Any] | None = None) -> Any:
    """The user's own training on batches in an order; `around` of (model, optimizer) is open while it runs."""
    model, given = net(), list(batches(sum(map(len, order))))
    optimizer = AdamW(model.parameters(), lr=0.02)
    torch.manual_seed(5)
    with around(model, optimizer) if around else torch.enable_grad():
        for step in order:
            for number in step:
                (model(*given[number]) / len(step)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


def reference(per_step: int) -> list[list[int]]:
    return np.arange(STEPS * per_step).reshape(STEPS, per_step).tolist()


def recorded(path: Path, per_step: int = 1, settings: Any = BY_STEP) -> fut.Run:
    recorder = fut.Recorder(path, steps=STEPS)
    loop(reference(per_step), recorder.watch)
    return recorder.finish(PROBE, device="cpu", settings=settings)


def probe_loss(model: Any) -> float:
    with torch.no_grad():
        return float(torch.stack([model.eval()(**batch) for batch in PROBE]).mean())


@pytest.mark.parametrize("per_step", [1, 2], ids=["a batch a step", "accumulated"])
def test_another_order_is_what_the_loop_does_with_it(tmp_path: Path, per_step: int) -> None:
    """The generator goes on from batch to batch, so that a loop over other batches meets the same numbers, step by step."""
    run = recorded(tmp_path / "run", per_step)
    assert replay_error(run) <= 1e-5
    assert run.context.manifest.identity["config"]["model"]["noise_key"] == "step"
    assert run.retrain("identity").loss == run.reference_loss
    order = [reference(per_step)[step] for step in (3, 1, 5, 0, 2, 4)]
    expected = probe_loss(loop(order))
    assert run.retrain(order).loss == pytest.approx(expected, abs=2e-6)
    travels = recorded(tmp_path / "other", per_step, None)
    assert travels.reference_loss == run.reference_loss
    assert abs(travels.retrain(order).loss - expected) > 1e-4, "noise that travels is another training"
    opened = fut.open(run.path, module=net(), device="cpu")
    assert opened.retrain(order).loss == run.retrain(order).loss


RECORDED_STATES = "ignore:Hessian-vector products. torch has no forward derivative"


@pytest.mark.filterwarnings(RECORDED_STATES)
def test_estimates_agree_with_real_retraining(tmp_path: Path) -> None:
    run = recorded(tmp_path / "run", 2)
    run.cache(["adjoint"])
    orders = [f"random:{seed}" for seed in range(12)]
    truth = [e.delta for e in run.estimate(orders, "retrain")]
    assert run.estimate(["identity"], "adjoint")[0].delta == 0
    for name, least in (("adjoint", 0.8), ("replay-exact", 0.9)):
        assert spearmanr([e.delta for e in run.estimate(orders, name)], truth).statistic > least


@pytest.mark.filterwarnings(RECORDED_STATES)
def test_every_estimator_knows_the_step(tmp_path: Path) -> None:
    """No gradient of an item is taken without it: that is refused, and nothing is."""
    run = recorded(tmp_path / "run")
    with pytest.raises(UsageError, match="no step is said here"):
        run.context.problem.gradient(run.context.state(0).theta, 0)
    run.cache(["all", "lowrank", "reweighting"])
    orders = {name: "without:2" if name == "reweighting" else "reverse" for name in METHODS.names}
    found = {name: run.estimate([order], name)[0].delta for name, order in orders.items()}
    assert all(np.isfinite(list(found.values())))


def trained(path: Path, key: str, per_step: int = 2) -> fut.Run:
    items, probe = list(batches(STEPS * per_step)), [(batch["x"], batch["y"]) for batch in PROBE]
    config = fut.load_config(
        data={"per_step": per_step},
        model={"noise_key": key, "forward": ["x", "y"]},
        rule={"name": "adamw"},
        schedule={"rate": 0.01},
        warmup={"steps": 0},
    )
    return fut.train(path, config, module=net(), data=fut.Dataset(items, probe), device="cpu")


def masked(problem: Problem, theta: Tensor, step: int, item: int) -> Tensor:
    """Gradient of an item with the key of a step, by torch alone."""
    module = net().train()
    nn.utils.vector_to_parameters(theta, module.parameters())
    key = keyed_item(problem.at(step), item).key  # type: ignore[attr-defined]
    x, y = problem.data.items[item]
    with seeded(key):
        module(x, y).backward()
    return nn.utils.parameters_to_vector([p.grad for p in module.parameters()])


def test_a_key_is_that_of_the_step_and_of_the_items_own_place(tmp_path: Path) -> None:
    problem = trained(tmp_path / "run", "step").context.problem
    theta = problem.objective.start()
    for step, item in ((0, 0), (4, 0), (4, 3), (STEPS + 2, 1)):
        assert torch.equal(problem.at(step).gradient(theta, item), masked(problem, theta, step, item))
    keys = [[keyed_item(problem.at(step), item).key for item in range(4)] for step in range(2 * STEPS)]  # type: ignore[attr-defined]
    assert all(key[:2] == key[2:] for key in keys), "whatever the item is"
    assert len({key for of_step in keys for key in of_step}) == 2 * 2 * STEPS


def test_noise_that_travels_is_as_it_was(tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "item")
    problem = run.context.problem
    assert "noise_key" not in run.context.manifest.identity["config"]["model"]
    assert problem.at(3) is problem
    assert run.retrain("identity").loss == run.reference_loss


def test_items_of_one_content_are_no_twins_at_other_places() -> None:
    """As each has the numbers of its own place."""
    [(x, y)] = batches(1)
    data = fut.Dataset([(x, y)] * 4, [(x, y)])
    for key, twins in (("item", [0, 0, 0, 0]), ("step", [0, 1, 0, 1])):
        config = fut.load_config(data={"items": 4, "per_step": 2}, model={"noise_key": key}, warmup={"steps": 0})
        about: dict[str, Any] = {"module": net(), "loss": lambda m, x, y: m(x, y), "data": data}
        assert build_problem(config, torch.device("cpu"), **about).twins == twins


@pytest.mark.parametrize("settings", [None, BY_STEP], ids=["item", "step"])
def test_another_draw_is_another_training_of_the_same_order(tmp_path: Path, settings: Any) -> None:
    run = recorded(tmp_path / "run", 2, settings)
    found = run.orders.redraw(3)
    assert found.reference == run.reference_loss
    assert len({found.reference, *found.values}) == 4
    assert found.sd == pytest.approx(float(np.std([found.reference, *found.values], ddof=1)))
    assert run.orders.redraw(2).values == found.values[:2]
    assert run.retrain("identity").loss == run.reference_loss, "the run's own draw is as it was"
    [said] = [line for line in render.info(run.info()).splitlines() if "run.orders.redraw()" in line]
    assert ("meets those of its new step" in said) == (settings is not None)


def test_a_model_without_noise_has_no_other_draw(tmp_path: Path) -> None:
    model = net().eval()
    config = fut.load_config(model={"forward": ["x", "y"]}, warmup={"steps": 0})
    items = list(batches(4))
    run = fut.train(tmp_path / "run", config, module=model, data=fut.Dataset(items, items[:1]), device="cpu")
    with pytest.raises(UsageError, match="got one that draws none"):
        run.orders.redraw()

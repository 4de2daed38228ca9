"""One item with a gradient far steeper than the others', which clipping shortens to theirs: its curvature counts so much less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fut
from fut.api import render
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.identity import open_expansion
from fut.methods.curvature_batches import pooled_batch, pooled_products
from fut.models.autodiff import gradient, hessian_vector
from fut.progress import silent

STEPS, STEEP, LAST = 12, 9, 3
PLACES, SMALL = 4, 0.01
CONFIG = AdjointConfig(products="exact", pool=2)


class Network(nn.Module):
    """One hidden layer of eight."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.tanh(self.first(x)))
        return out


def loss_of(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (module(x) - y).square().mean()


def window(path: Path, steepness: float) -> fut.Run:
    """A window after two warm-up steps, with clipping; one item's targets are so many times larger."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS + 4, 2, 4, generator=draw)
    y = torch.randn(STEPS + 4, 2, 1, generator=draw)
    y[STEEP] *= steepness
    items = tuple(zip(x, y, strict=True))
    sections: dict[str, Any] = {
        "data": {"items": STEPS},
        "warmup": {"steps": 2},
        "rule": {"name": "adamw", "options": {"clip": 1.0}},
        "schedule": {"kind": "cosine", "rate": 0.03},
    }
    data = fut.Dataset(items[:STEPS], items[STEPS : STEPS + 2], items[STEPS + 2 :])
    return fut.train(path, fut.load_config(**sections), module=Network(), loss=loss_of, data=data, device="cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fut.Run:
    made = window(tmp_path_factory.mktemp("steep") / "run", 30.0)
    made.cache(["adjoint"])
    return fut.open(made.path, module=Network(), loss=loss_of, device="cpu", progress=silent)


def test_estimates_hold_beside_a_steep_item(run: fut.Run) -> None:
    """With mean injections for all parts the skill was -0.24, and Spearman 0.85."""
    found = run.verify(16, 0, ["adjoint"]).estimators["adjoint"]
    assert found["spearman"] > 0.93
    assert found["skill"] > 0.7


def products(run: fut.Run, step: int, **more: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The mean product at four places, the places, the direction, and every place's own product."""
    problem = run.context.problem
    places = torch.stack([run.context.state(step).theta] * PLACES)
    u = problem.probe_gradient(places[0])
    batches = [pooled_batch(problem, CONFIG, step, place, PLACES) for place in range(PLACES)]
    apart = [hessian_vector(problem.objective, places[0], batch, u) for batch in batches]
    return pooled_products(problem, CONFIG, step, places, u[None], 1, **more)[0], places, u, apart


def steep_step(run: fut.Run) -> int:
    """A step at which one part has a product more than eight times as large as is typical."""
    for step in range(STEPS):
        norms = torch.stack(products(run, step)[3]).norm(dim=1)
        if norms.max() > 20 * norms.median():
            return step
    raise AssertionError("no part has the steep item alone")


def test_a_steep_part_has_its_own_direction(run: fut.Run) -> None:
    step, problem = steep_step(run), run.context.problem
    plain, places, u, apart = products(run, step)
    assert torch.allclose(plain, torch.stack(apart).mean(0))
    steep = int(torch.stack(apart).norm(dim=1).argmax())
    batch = pooled_batch(problem, CONFIG, step, steep, PLACES)
    asked = list[Tensor]()

    def answer(slope: Tensor) -> Tensor:
        asked.append(slope)
        return SMALL * u.flip(0)[None]

    found = products(run, step, answer=answer)[0]
    own = hessian_vector(problem.objective, places[0], batch, SMALL * u.flip(0))
    assert torch.allclose(found, plain + (own - apart[steep]) / PLACES, atol=1e-5)
    assert len(asked) == 1, "of the others no gradient is taken"
    assert torch.equal(asked[0], gradient(problem.objective, places[0], batch))


def test_what_is_far_larger_even_so_is_left_out(run: fut.Run) -> None:
    step = steep_step(run)
    plain, _, u, apart = products(run, step)
    steep = int(torch.stack(apart).norm(dim=1).argmax())
    found = products(run, step, answer=lambda slope: 0.49 * u[None])[0]
    assert torch.allclose(found, plain - apart[steep] / PLACES, atol=1e-5)


def test_a_steep_part_that_answers_like_the_others_stays_as_it_is(run: fut.Run) -> None:
    step = steep_step(run)
    plain, _, u, _ = products(run, step)
    found = products(run, step, answer=lambda slope: 0.6 * u[None])[0]
    assert torch.equal(found, plain)


def test_too_few_places_are_not_compared(run: fut.Run) -> None:
    problem, u = run.context.problem, run.context.problem.probe_gradient(run.context.state(0).theta)
    places = run.context.state(0).theta.expand(2, -1)

    def refused(slope: Tensor) -> Tensor:
        raise AssertionError("asked")

    for step in range(STEPS):
        pooled_products(problem, CONFIG, step, places, u[None], 1, answer=refused)


def test_info_names_it(run: fut.Run, tmp_path: Path) -> None:
    facts = run.info()
    assert [one["item"] for one in facts["steep_items"]] == [STEEP]
    gradient = run.context.problem.gradient
    theta = open_expansion(run.context).trajectory.state(int(facts["steep_items"][0]["step"])).theta
    norms = torch.stack([gradient(theta, item).norm() for item in range(STEPS)])
    usual = float(norms.quantile(0.5))
    assert facts["steep_items"][0]["times"] == pytest.approx(float(norms[STEEP]) / usual, rel=1e-4)
    assert f"steep items: the gradient is far longer than the items' median for {STEEP} (" in render.info(facts)
    usual_run = window(tmp_path / "run", 1.0)
    assert usual_run.info()["steep_items"] == []

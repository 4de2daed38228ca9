"""Batches on which curvature is taken: balanced over steps and places, or drawn anew, and less noise for the balance."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from small import MakeRun
from torch import Tensor

from fut.methods.adjoint.config import AdjointConfig
from fut.methods.curvature_batches import balanced_samples, drawn_samples, pooled_batch, pooled_products
from fut.training.problem import Problem


def rows(batch: tuple[Tensor, ...]) -> list[bytes]:
    return [row.numpy().tobytes() for row in batch[0]]


@pytest.mark.parametrize("places", [1, 4])
def test_every_sample_occurs_once_before_any_occurs_again(make_run: MakeRun, places: int) -> None:
    problem = make_run(cached=False, data={"items": 6, "batch": 4}).context.problem
    config = AdjointConfig(pool=2)
    assert len(every := Counter(row for item in problem.data.items for row in rows(item))) == 24
    found = [pooled_batch(problem, config, step, place, places) for step in range(6) for place in range(places)]
    drawn = [row for batch in found for row in rows(batch)]
    assert Counter(drawn[:24]) == Counter(drawn[24:48]) == every
    assert drawn[:24] != drawn[24:48], "another order in every round"
    assert torch.equal(found[places][0], pooled_batch(problem, config, 1, 0, places)[0]), "whatever was drawn before"
    other = pooled_batch(problem, AdjointConfig(pool=2, seed=1), 0, 0, places)
    assert rows(other) != rows(found[0])


def test_batches_across_rounds_and_of_all_samples(make_run: MakeRun) -> None:
    items = make_run(cached=False).context.problem.data.items
    total = sum(len(item[0]) for item in items)
    first, second = (Counter(rows(balanced_samples(items, at, total, [3]))) for at in (0, total))
    assert first == second == Counter(rows(drawn_samples(items, 10**6, np.random.default_rng(0))))
    across = rows(balanced_samples(items, total - 2, 4, [3]))
    ends = rows(balanced_samples(items, total - 2, 2, [3])) + rows(balanced_samples(items, total, 2, [3]))
    assert Counter(across) == Counter(ends)


def test_a_pool_larger_than_the_data_is_all_of_it(make_run: MakeRun) -> None:
    problem = make_run(cached=False).context.problem
    batches = [rows(pooled_batch(problem, AdjointConfig(pool=100, draw=d), 3)) for d in ("balanced", "independent")]
    assert Counter(batches[0]) == Counter(batches[1])


def test_balance_takes_noise_away(make_run: MakeRun) -> None:
    """Of the mean product over a round's steps: none is left at all where direction and parameters stay as they are."""
    problem = make_run(cached=False, model={"dtype": "float64"}, data={"items": 6, "batch": 4}).context.problem
    theta = problem.objective.start()
    u = problem.probe_gradient(theta)

    def mean_product(config: AdjointConfig, problem: Problem = problem) -> Tensor:
        steps = 12 // config.pool // 2  # a round: 24 samples, four to a step
        found = [pooled_products(problem, config, step, theta[None], u[None], 1)[0] for step in range(steps)]
        return torch.stack(found).mean(0)

    exact = mean_product(AdjointConfig(pool=6))
    errors = {
        draw: torch.stack([mean_product(AdjointConfig(draw=draw, pool=1, seed=s)) - exact for s in range(3)]).norm()
        for draw in ("balanced", "independent")
    }
    assert errors["balanced"] < 1e-9 * exact.norm()
    assert errors["independent"] > 1e-2 * exact.norm()

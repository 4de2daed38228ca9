"""Intervals of ratios by Adam's moments: the variance against simulation, coverage on known ratios, and whose memory it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from estimators.moment_intervals import Memory, NoiseShape, memory_of, noise_shape, with_interval
from estimators.parameters import ParameterLayout
from estimators.rules import SGD, AdamW, Grouped
from estimators.rules.grouped import Group
from estimators.signal_noise import SignalNoise, of_moments
from estimators.state import State

RUNS, WIDE, STATES, ITEMS = 240, 60, 6, 16


class Draws:
    """Gradients of a known ratio whose noise has trace 1. rank: directions of it, 0 for all. heavy: noise of half the steps."""

    def __init__(self, ratio: float, rank: int = 0, heavy: bool = False) -> None:
        self.draw, self.heavy = torch.Generator().manual_seed(7), heavy
        spread = torch.eye(WIDE, dtype=torch.float64) if not rank else self.normal(WIDE, rank)
        self.spread = spread / spread.square().sum().sqrt()
        mean = self.normal(WIDE)
        self.mean = mean / mean.norm() * ratio**0.5

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.draw, dtype=torch.float64)

    def __call__(self, count: int) -> Tensor:
        noise = self.normal(count, self.spread.shape[1])
        if self.heavy:
            noise *= 2**0.5 * (torch.rand(count, 1, generator=self.draw) < 0.5)
        return self.mean + noise @ self.spread.mT


def summed(rule: AdamW, state: State) -> list[float]:
    """S and N of all coordinates."""
    terms = of_moments(rule, state)
    assert terms is not None
    return [float(part.sum()) for part in terms]


def measured(draws: Draws, b2: float, steps: int, gap: int) -> tuple[Tensor, Tensor, list[Memory]]:
    """S and N by moments of many runs [RUNS], pooled over the last states, and the states' memories."""
    rule = AdamW(betas=(0.9, b2))
    state, found, memories = rule.init(torch.zeros(RUNS, WIDE, dtype=torch.float64)), [], []
    for step in range(1, steps + STATES * gap + 1):
        state, _ = rule.step(state, draws(RUNS), 1e-3)
        if step > steps and (step - steps) % gap == 0:
            found.append([summed(rule, state.row(run)) for run in range(RUNS)])
            memories.append(Memory((0.9, b2), step))
    signal, noise = torch.tensor(found, dtype=torch.float64).mean(0).T
    return signal, noise, memories


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy"])
@pytest.mark.parametrize("rank", [0, 4], ids=["all directions", "few directions"])
@pytest.mark.parametrize(("ratio", "b2", "steps", "gap"), [(0.01, 0.95, 40, 1), (0.1, 0.999, 60, 4), (1.0, 0.95, 4, 2)])
def test_intervals_hold_the_known_ratio(ratio: float, b2: float, steps: int, gap: int, rank: int, heavy: bool) -> None:
    draws = Draws(ratio, rank, heavy)
    signal, noise, memories = measured(draws, b2, steps, gap)
    inside = known = 0
    for s, n in zip(signal.tolist(), noise.tolist(), strict=True):
        shape = noise_shape(draws(ITEMS))
        assert shape is not None
        interval = with_interval(SignalNoise(s, n), memories, shape).interval
        if interval is not None:
            known += 1
            inside += interval[0] <= ratio <= interval[1]
    assert known > 0.95 * RUNS
    assert inside / known >= 0.84
    if not heavy:
        assert inside / known <= 0.985, "wider than it needs to be"


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_the_variance_is_that_of_simulated_runs(ratio: float) -> None:
    draws = Draws(ratio, rank=4)
    signal, noise, memories = measured(draws, 0.95, 30, 2)
    covariance = draws.spread @ draws.spread.mT
    along = float(draws.mean @ covariance @ draws.mean)
    shape = NoiseShape(1.0, float(covariance.square().sum()), along, 0.0, 10**6)
    interval = with_interval(SignalNoise(ratio, 1.0), memories, shape).interval
    assert interval is not None
    half = (interval[1] - interval[0]) / 2
    assert half / 1.645 == pytest.approx(float((signal - ratio * noise).std()), rel=0.12)


def test_the_shape_of_a_noise_is_unbiased_and_scales_as_a_mean() -> None:
    draws = Draws(4.0, rank=4)
    covariance = draws.spread @ draws.spread.mT
    many = [noise_shape(draws(24)) for _ in range(1000)]
    trace, square, along = np.mean([(m.trace, m.square, m.along) for m in many if m is not None], axis=0)
    assert trace == pytest.approx(1.0, rel=0.03)
    assert square == pytest.approx(float(covariance.square().sum()), rel=0.05)
    assert along == pytest.approx(float(draws.mean @ covariance @ draws.mean), rel=0.08)
    means = noise_shape(draws(4 * 2000).view(2000, 4, WIDE).mean(1))
    single = noise_shape(draws(2000))
    assert means is not None
    assert single is not None
    assert tuple(single.of_mean(4))[:3] == pytest.approx(tuple(means)[:3], rel=0.12)
    assert noise_shape(draws(2)) is None
    assert noise_shape(torch.ones(4, 3)) is None


def stepped(rule: Grouped | AdamW | SGD, layout: ParameterLayout) -> tuple[Grouped | AdamW | SGD, State]:
    bound = rule.on(layout)
    state = bound.init(torch.zeros(layout.size, dtype=torch.float64))
    for _ in range(3):
        state, _ = bound.step(state, torch.ones(layout.size, dtype=torch.float64), 0.1)
    return bound, state


def test_a_memory_is_of_the_groups_that_have_it() -> None:
    layout = ParameterLayout(("a.w", "b.w", "c.w"), ((2,), (1,), (2,)))
    numbers = torch.arange(5)
    assert memory_of(*stepped(AdamW(betas=(0.8, 0.9)), layout), numbers)[0] == Memory((0.8, 0.9), 3)  # type: ignore[index]
    assert memory_of(*stepped(SGD(), layout), numbers) is None
    first, second = AdamW(), AdamW(weight_decay=0.1)
    same = Grouped(groups=(Group(name="x", rule=first, tensors=("a.*",)), Group(name="y", rule=second)))
    found = memory_of(*stepped(same, layout), numbers)
    assert found is not None
    assert (found[0], sorted(found[1].tolist())) == (Memory((0.9, 0.999), 3), [0, 1, 2, 3, 4])
    part = Grouped(groups=(Group(name="x", rule=first, tensors=("a.*",)), Group(name="y", rule=SGD())))
    found = memory_of(*stepped(part, layout), numbers)
    assert found is not None
    assert found[1].tolist() == [0, 1]
    other = Grouped(
        groups=(Group(name="x", rule=first, tensors=("a.*",)), Group(name="y", rule=AdamW(betas=(0.5, 0.9))))
    )
    assert memory_of(*stepped(other, layout), numbers) is None
    assert memory_of(*stepped(other, layout), torch.tensor([2, 4])) is not None


def test_no_noise_has_no_interval() -> None:
    shape = NoiseShape(1.0, 0.1, 0.0, 0.0, 15)
    assert with_interval(SignalNoise(1.0, -0.1), [Memory((0.9, 0.95), 5)], shape).interval is None

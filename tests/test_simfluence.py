"""Simulators of loss curves, against processes whose factors and offsets are known."""

from __future__ import annotations

import numpy as np
import pytest
from simfluence import RIDGES, Kind, Simulator, chosen, fit, left_out_error
from simulators import ABOUT_MEAN, KINDS, simulated, simulators

ITEMS, RUNS = 7, 12
RATES = np.linspace(1.0, 0.2, ITEMS)


def drawn(kind: Kind, seed: int = 0, noise: float = 0.0) -> tuple[Simulator, np.ndarray, np.ndarray]:
    """A process, orders of it, and their curves with independent noise on every loss after the first."""
    draw = np.random.default_rng(seed)
    shared = np.full(ITEMS, -0.1), np.full(ITEMS, -0.02)
    slope = shared[0] + (0.05 * draw.standard_normal(ITEMS) if kind.multiplicative else 0)
    offset = shared[1] + (0.05 * draw.standard_normal(ITEMS) if kind.additive else 0)
    truth = Simulator(
        slope, offset, 2.5 if kind.additive else 0.0, RATES / RATES.max() if kind.by_rate else np.ones(ITEMS)
    )
    orders = np.stack([draw.permutation(ITEMS) for _ in range(RUNS)])
    curves = np.stack([truth.curve(3.0, order) for order in orders])
    curves[:, 1:] += noise * draw.standard_normal((RUNS, ITEMS))
    return truth, curves, orders


@pytest.mark.parametrize("kind", [Kind(), Kind(multiplicative=False), Kind(additive=False), Kind(by_rate=True)])
def test_a_process_without_noise_is_recovered(kind: Kind) -> None:
    truth, curves, orders = drawn(kind)
    found = fit(curves, orders, kind, 1e-14, RATES)
    assert found.alpha == pytest.approx(truth.alpha, abs=1e-6)
    assert found.beta == pytest.approx(truth.beta, abs=1e-6)
    fresh = np.random.default_rng(1).permutation(ITEMS)
    assert found.curve(3.0, fresh) == pytest.approx(truth.curve(3.0, fresh), abs=1e-7)


def test_a_curve_is_the_recursion_of_the_paper() -> None:
    truth, curves, orders = drawn(Kind())
    loss = 3.0
    for step, item in enumerate(orders[0]):
        loss = truth.alpha[item] * loss + truth.beta[item]
        assert curves[0, step + 1] == pytest.approx(loss)


def test_a_large_ridge_leaves_what_all_items_share() -> None:
    _, curves, orders = drawn(Kind())
    found = fit(curves, orders, Kind(), 1e12, RATES)
    assert np.ptp(found.alpha) < 1e-9
    assert np.ptp(found.beta) < 1e-9
    before, change = curves[:, :-1].ravel(), np.diff(curves, axis=1).ravel()
    slope, offset = np.polyfit(before, change, 1)
    assert found.alpha[0] == pytest.approx(1 + slope)
    assert found.beta[0] == pytest.approx(offset)


def test_the_fit_is_the_minimum_of_its_objective() -> None:
    """Against gradient-free moves of every parameter, of which none lowers the penalised square."""
    _, curves, orders = drawn(Kind(), noise=0.02)
    before, change = curves[:, :-1].ravel(), np.diff(curves, axis=1).ravel()
    level, item = (before - before.mean()) / before.std(), orders.ravel()
    found = fit(curves, orders, Kind(), 3.0, RATES)
    slope, offset = found.slope * before.std(), found.offset

    def objective(slope: np.ndarray, offset: np.ndarray) -> float:
        """The shared parts are free, so that the penalty is on deviations from their mean."""
        error = change - slope[item] * level - offset[item]
        own = ((slope - slope.mean()) ** 2).sum() + ((offset - offset.mean()) ** 2).sum()
        return float((error**2).sum() + 3.0 * own)

    least = objective(slope, offset)
    for place in range(ITEMS):
        for move in (-1e-3, 1e-3):
            nudge = move * np.eye(ITEMS)[place]
            assert objective(slope + nudge, offset) > least
            assert objective(slope, offset + nudge) > least


def test_the_ridge_is_chosen_by_runs_left_out() -> None:
    """With little noise a small one, where items are alike in truth a large one."""
    _, curves, orders = drawn(Kind(), noise=1e-6)
    assert chosen(curves, orders, Kind(), RATES)[1] <= 1e-3
    alike = Simulator(np.full(ITEMS, -0.1), np.full(ITEMS, -0.02), 2.5, np.ones(ITEMS))
    same = np.stack([alike.curve(3.0, order) for order in orders])
    same[:, 1:] += 0.05 * np.random.default_rng(3).standard_normal((RUNS, ITEMS))
    ridge = chosen(same, orders, Kind(), RATES)[1]
    assert ridge >= 1
    errors = [left_out_error(same, orders, Kind(), one, RATES) for one in RIDGES]
    assert errors[RIDGES.index(ridge)] == min(errors)


def test_every_simulator_of_the_benchmark_simulates_its_own_process() -> None:
    """Among them the one about the mean, whose deviations begin at zero."""
    _, curves, orders = drawn(Kind(by_rate=True))
    made = {name: of for name, (of, _) in simulators(curves, orders, RATES).items()}
    found = simulated(made, orders, 3.0, curves.mean(axis=0))
    assert set(found) == {*KINDS, ABOUT_MEAN, "mean of the runs"}
    assert found["simfluence, by rate"] == pytest.approx(curves, abs=1e-4)
    errors = {name: np.abs(of - curves).mean() for name, of in found.items()}
    assert found[ABOUT_MEAN][:, 0] == pytest.approx(3.0)
    assert errors[ABOUT_MEAN] < 0.3 * errors["mean of the runs"]

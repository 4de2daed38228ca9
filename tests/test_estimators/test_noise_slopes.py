"""Exponents of the order variance: 4 without memory, 2 with it, for every window; and what must not be reported."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from estimators.noise.seed_budget import BudgetError, power_of_test, seed_budget
from estimators.noise.slopes import (
    SLOPE_RULES,
    WARM_RATE,
    SlopeError,
    order_slope,
    rounding_variance,
    warm_state,
    warmed,
)
from estimators.noise.small_network import SmallNetwork

BANDS = {
    "sgd": (3.9, 4.05),
    "momentum_clock_matched": (3.9, 4.05),
    "momentum": (1.9, 2.05),
    "heavy_ball": (1.9, 2.05),
    "adamw": (1.9, 2.05),
    "heavy_ball_clock_matched": (1.9, 2.05),
}
"""The last is the negative control: matching the clock of undamped memory does not remove the first order."""
COARSE = (1e-6, 1e-5, 1e-4, 1e-3)


@pytest.mark.parametrize("steps", [6, 24])
def test_exponents_are_in_their_bands_for_short_and_long_windows(steps: int) -> None:
    network, draw = SmallNetwork(steps), np.random.default_rng(0)
    history = warmed(network, range(steps))
    permutations = [draw.permutation(steps).tolist() for _ in range(24)]
    for name, (low, high) in BANDS.items():
        rule = SLOPE_RULES[name]
        found = order_slope(
            rule, warm_state(rule(WARM_RATE), history), network.gradients, permutations, COARSE, network.probe_loss
        )
        assert found.small is not None
        assert low <= found.small <= high, (name, found)
        assert low <= (found.probe_small or 0) <= high, (name, found)
        assert found.bitwise
        assert len(found.local) == len(COARSE) - 1
        assert found.finite is None, "two rates are no range"


def test_single_precision_is_not_reported() -> None:
    network = SmallNetwork(6, dtype=torch.float32)
    history = warmed(network, range(6))
    permutations = [np.random.default_rng(i).permutation(6).tolist() for i in range(16)]
    rule = SLOPE_RULES["sgd"]
    found = order_slope(rule, warm_state(rule(WARM_RATE), history), network.gradients, permutations, COARSE)
    assert not any(found.resolved[:3])
    assert found.small is None
    assert found.local[0] is None


def test_rounding_is_what_rounding_gives() -> None:
    theta = torch.randn(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()
    ends = []
    for seed in range(40):
        at, draw = theta.clone(), torch.Generator().manual_seed(seed)
        for _ in range(8):
            at = at + 1e-5 * torch.randn(4000, generator=draw) - 0.0
        exact = theta.double()
        draw = torch.Generator().manual_seed(seed)
        for _ in range(8):
            exact = exact + (1e-5 * torch.randn(4000, generator=draw)).double()
        ends.append(at.double() - exact)
    measured = float(torch.stack(ends).square().mean(0).sum())
    assert 0.1 < measured / rounding_variance(theta, 8) < 10


def test_one_permutation_has_no_variance() -> None:
    network = SmallNetwork(3)
    rule = SLOPE_RULES["sgd"]
    with pytest.raises(SlopeError, match="at least 2 permutations, got 1"):
        order_slope(rule, rule(1.0).init(network.start), network.gradients, [[0, 1, 2]])


@pytest.mark.parametrize(("ratio", "runs", "normal"), [(2, 6, 4), (1, 17, 16), (0.5, 64, 63), (0.25, 253, 252)])
def test_budgets_of_two_samples_are_the_tabulated_ones(ratio: float, runs: int, normal: int) -> None:
    found = seed_budget(ratio, 1.0)
    assert (found.runs, found.normal_runs) == (runs, normal)
    assert found.power is not None
    assert found.power >= 0.8 > power_of_test(ratio / 2**0.5, runs - 1, False)


def test_flips_are_those_of_the_normal_law_and_shared_orders_save_runs() -> None:
    assert seed_budget(1.0, 1.0).flip == pytest.approx(0.24, abs=0.005)
    assert seed_budget(-0.2, 1.0).flip == pytest.approx(0.44, abs=0.005)
    paired = seed_budget(0.5, 1.0, 0.98, paired=True)
    assert (paired.runs, paired.normal_runs) == (4, 2)
    assert seed_budget(0.5, 1.0, 0.98).runs == 64, "a correlation helps only those who pair"
    assert seed_budget(0.5, 1.0, 1.0, paired=True).runs == 2
    assert seed_budget(1e-9, 1.0).runs is None


def test_the_power_is_that_of_simulated_tests() -> None:
    from scipy.stats import ttest_ind, ttest_rel

    draw, rho = np.random.default_rng(0), 0.9
    for paired in (False, True):
        kept = 1 - rho if paired else 1.0
        shared = draw.normal(size=(4000, 6)) * (rho**0.5 if paired else 0)
        one, two = (shared + draw.normal(size=(4000, 6)) * ((1 - rho) ** 0.5 if paired else 1) for _ in range(2))
        p = (ttest_rel if paired else ttest_ind)(one + 0.8, two, axis=1).pvalue
        assert np.mean(p < 0.05) == pytest.approx(power_of_test(0.8 / (2 * kept) ** 0.5, 6, paired), abs=0.02)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0.0, 1.0), "delta"),
        ((1.0, 0.0), "sd"),
        ((1.0, 1.0, 2.0), "rho"),
        ((1.0, float("nan")), "sd"),
        ((1.0, 1.0, 0.0, False, 1.0), "power"),
    ],
)
def test_numbers_out_of_range_are_refused(given: tuple[float, ...], message: str) -> None:
    with pytest.raises(BudgetError, match=f"`{message}`: expected"):
        seed_budget(*given)  # type: ignore[arg-type]


@pytest.mark.parametrize("runs", [2, 3, 8])
def test_power_is_a_number_and_grows_where_the_lower_tail_is_none(runs: int) -> None:
    found = [power_of_test(size, runs, True) for size in np.linspace(0.5, 40.0, 80)]
    assert np.isfinite(found).all()
    assert (np.diff(found) >= -1e-9).all()

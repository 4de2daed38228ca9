"""Measures of accuracy on arrays, against scipy; and estimates that are no numbers, which are far off and last in rank."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from fut.estimation.accuracy import BOOTSTRAP, BOOTSTRAP_SEED, accuracy

DRAW = np.random.default_rng(3)
TRUE = 2.0 + 0.01 * DRAW.normal(size=24)
CASES: dict[str, tuple[Any, Any]] = {
    "close": (TRUE, TRUE + 0.003 * DRAW.normal(size=24)),
    "opposite": (TRUE, -TRUE),
    "unrelated": (TRUE, DRAW.normal(size=24)),
    "ties": (np.round(TRUE, 2), np.round(TRUE + 0.003 * DRAW.normal(size=24), 2)),
    "two": ([1.0, 2.0], [3.0, 2.0]),
    "tiny": (TRUE, 2 + 1e-9 * DRAW.normal(size=24)),
}


@pytest.mark.parametrize("case", CASES)
def test_correlations_are_those_of_scipy(case: str) -> None:
    true, guess = CASES[case]
    found = accuracy(true, guess, 2.0)
    assert found.spearman == pytest.approx(spearmanr(true, guess).statistic, abs=1e-12)
    assert found.pearson == pytest.approx(pearsonr(true, guess).statistic, abs=1e-6 if case == "tiny" else 1e-12)
    assert (found.spearman_interval is None) == (len(true) < 12), "of a few orders a bootstrap shrinks to a point"
    low, high = found.spearman_interval or (-1, 1)
    assert -1 - 1e-12 <= low <= high <= 1 + 1e-12
    assert found.mae == pytest.approx(np.abs(np.subtract(true, guess)).mean())
    assert found.bias == pytest.approx(np.subtract(guess, true).mean())
    assert found.residual_sd == pytest.approx(np.subtract(guess, true).std(ddof=1))


@pytest.mark.parametrize("value", [2.0, 4.1234, 0.1, 5.583629608154297])
@pytest.mark.parametrize("n", [3, 7, 24, 32])
def test_estimates_that_do_not_vary_have_no_correlation(value: float, n: int) -> None:
    true = 2 + 0.01 * np.random.default_rng(n).normal(size=n)
    for found in (accuracy(true, [value] * n, 2.0), accuracy([value] * n, true, 2.0)):
        assert (found.spearman, found.spearman_interval) == (None, None)
        assert (found.pearson, found.pearson_interval) == (None, None)


def test_skill_is_positive_exactly_for_what_beats_the_baseline() -> None:
    reference = 2.0
    assert accuracy(TRUE, TRUE, reference).skill == 1.0
    assert accuracy(TRUE, [reference] * 24, reference).skill == 0.0
    assert 0 < accuracy(TRUE, TRUE + 0.001, reference).skill < 1
    assert accuracy(TRUE, 2 * reference - TRUE, reference).skill == pytest.approx(-1)


def test_an_estimate_that_is_no_number_counts_as_far_off_and_last() -> None:
    guess = TRUE.copy()
    guess[[3, 7]] = np.nan, np.inf
    found = accuracy(TRUE, guess, 2.0)
    assert found.diverged == 2
    assert found.skill < 0
    assert found.spearman is not None
    assert found.spearman < 1
    json.dumps(found.as_dict(), allow_nan=False)
    assert accuracy(TRUE, [np.nan] * 24, 2.0).diverged == 24


def test_coverage_is_the_share_of_truths_inside() -> None:
    intervals = [(t - 1, t + 1) if i < 6 else (t + 1, t + 2) for i, t in enumerate(TRUE)]
    assert accuracy(TRUE, TRUE, 2.0, intervals).coverage == 0.25
    assert accuracy(TRUE, TRUE, 2.0).coverage is None


@pytest.mark.parametrize(("true", "guess"), [([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([[1.0, 2.0]], [[1.0, 2.0]])])
def test_lists_that_do_not_fit_are_refused(true: Any, guess: Any) -> None:
    with pytest.raises(ValueError, match="two equally long lists of n >= 2 losses"):
        accuracy(true, guess, 1.0)


def test_the_bootstrap_interval_covers() -> None:
    """Of 200 samples of 32 with correlation 0.7, a 90 % percentile interval covers 0.9 up to its known optimism.

    The binomial sd at 200 is 0.021; the percentile bootstrap of r at n = 32 is known to cover a few points less than
    nominal. 0.80 .. 0.97 fails for intervals of the wrong level (68 %, 99 %) and accepts ours.
    """
    draw, rho, inside = np.random.default_rng(11), 0.7, 0
    for _ in range(200):
        x, e = draw.normal(size=(2, 32))
        low, high = accuracy(x, rho * x + np.sqrt(1 - rho**2) * e, 0.0).pearson_interval or (1, -1)
        inside += low <= rho <= high
    assert 0.80 <= inside / 200 <= 0.97, f"covered {inside} of 200"


@pytest.mark.parametrize("level", [0.7, 1.1, 4.1234])
def test_the_bootstrap_leaves_out_resamples_of_one_value(level: float) -> None:
    """Percentiles of scipy's coefficient over the very resamples; the mean of equal losses is not always that loss."""
    assert (np.full(12, level) - np.full(12, level).mean()).any()
    true = np.array([level] * 10 + [level + 0.3, level + 0.2])
    guess = np.array([level + 0.01 * k for k in range(12)])
    rows = np.random.default_rng(BOOTSTRAP_SEED).integers(12, size=(BOOTSTRAP, 12))
    for a, b in ((true, guess), (guess, true)):
        values = [pearsonr(a[r], b[r]).statistic for r in rows if np.ptp(a[r]) > 0 and np.ptp(b[r]) > 0]
        assert len(values) < 0.95 * BOOTSTRAP
        found = accuracy(a, b, level).pearson_interval
        assert found == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])), abs=1e-6)


def test_no_coefficient_leaves_its_range_by_rounding() -> None:
    for seed in range(20):
        true = np.random.default_rng(seed).normal(size=12)
        found = accuracy(list(true), list(3 * true), 0.0)
        assert found.pearson is not None
        assert found.pearson_interval is not None
        assert max(found.pearson, *found.pearson_interval) <= 1.0


LOSSES = np.linspace(2.0, 2.7, 8)
WRONG = LOSSES + np.array([0.02, -0.05, 0.01, 0.03, -0.02, 0.04, 0.01, -0.01])


@pytest.mark.parametrize("scale", [1.0, 40.0])
@pytest.mark.parametrize("place", [0, 3, 7])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_it_counts_as_ten_times_the_largest_error_above_all_losses(value: float, place: int, scale: float) -> None:
    """Whatever its sign, since what diverges has a large loss; the true losses' range stands for errors that are smaller."""
    broken = LOSSES + scale * (WRONG - LOSSES)
    replaced = broken.copy()
    others = np.abs(broken - LOSSES)[np.arange(8) != place].max()
    assert (others > np.ptp(LOSSES)) == (scale > 1)
    broken[place], replaced[place] = value, LOSSES.max() + 10 * max(others, np.ptp(LOSSES))
    found, expected = accuracy(LOSSES, broken, 2.3), accuracy(LOSSES, replaced, 2.3)
    assert found.diverged == 1
    for name in ("mae", "bias", "skill", "residual_sd", "spearman", "pearson"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12), name
    assert found.bias > 0.5, "above, not below"


def test_it_is_last_in_rank() -> None:
    first, last = LOSSES.copy(), LOSSES.copy()
    first[0] = last[7] = np.nan
    assert accuracy(LOSSES, last, 2.3).spearman == 1.0, "where the largest loss diverges, the ranks are right"
    assert accuracy(LOSSES, first, 2.3).spearman == pytest.approx(1 - 6 * (7**2 + 7) / (8 * 63))


def test_where_every_estimate_diverges_the_range_of_the_losses_is_the_measure() -> None:
    found = accuracy(LOSSES, [np.nan] * 8, 2.3)
    assert found.mae == pytest.approx((LOSSES.max() + 10 * np.ptp(LOSSES) - LOSSES).mean())
    assert found.spearman is None
    absent: list[Any] = [None] * 8  # as JSON has them
    assert accuracy(LOSSES, absent, 2.3) == found

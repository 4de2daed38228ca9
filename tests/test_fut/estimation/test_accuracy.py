"""Estimates that are no numbers, in the measures of accuracy: far off, on the side of a large loss, and last in rank."""

from __future__ import annotations

import numpy as np
import pytest

from fut.estimation.accuracy import accuracy

TRUE = np.linspace(2.0, 2.7, 8)
WRONG = TRUE + np.array([0.02, -0.05, 0.01, 0.03, -0.02, 0.04, 0.01, -0.01])


@pytest.mark.parametrize("scale", [1.0, 40.0])
@pytest.mark.parametrize("place", [0, 3, 7])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_it_counts_as_ten_times_the_largest_error_above_all_losses(value: float, place: int, scale: float) -> None:
    """Whatever its sign, since what diverges has a large loss; the true losses' range stands for errors that are smaller."""
    broken = TRUE + scale * (WRONG - TRUE)
    replaced = broken.copy()
    others = np.abs(broken - TRUE)[np.arange(8) != place].max()
    assert (others > np.ptp(TRUE)) == (scale > 1)
    broken[place], replaced[place] = value, TRUE.max() + 10 * max(others, np.ptp(TRUE))
    found, expected = accuracy(TRUE, broken, 2.3), accuracy(TRUE, replaced, 2.3)
    assert found.diverged == 1
    for name in ("mae", "bias", "skill", "residual_sd", "spearman", "pearson"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12), name
    assert found.bias > 0.5, "above, not below"


def test_it_is_last_in_rank() -> None:
    first, last = TRUE.copy(), TRUE.copy()
    first[0] = last[7] = np.nan
    assert accuracy(TRUE, last, 2.3).spearman == 1.0, "where the largest loss diverges, the ranks are right"
    assert accuracy(TRUE, first, 2.3).spearman == pytest.approx(1 - 6 * (7**2 + 7) / (8 * 63))


def test_where_every_estimate_diverges_the_range_of_the_losses_is_the_measure() -> None:
    found = accuracy(TRUE, [np.nan] * 8, 2.3)
    assert found.mae == pytest.approx((TRUE.max() + 10 * np.ptp(TRUE) - TRUE).mean())
    assert found.spearman is None

"""How many runs a comparison needs, where their difference is judged against noise of a known standard deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import EstimatorError
from ..intervals import student_quantile

MOST = 100_000
"""Runs in an arm up to which a budget is looked for."""

NO_LOWER_TAIL = 7.0
"""Shift from which the noncentral law's lower tail, at most the normal one's, is below 2e-12, and may not come as a number."""


class BudgetError(EstimatorError, ValueError):
    """A difference, a noise or a level that no budget belongs to."""


@dataclass(frozen=True)
class SeedBudget:
    """Runs that each of two arms needs.

    Args:
        runs: K, of each arm; None where `MOST` are not enough.
        power: probability that the test of K runs finds the difference.
        normal_runs: K by the normal approximation, 2 (z + z')² (1 - rho) (sd / delta)², rounded up; too few where it is small.
        flip: probability that one run of each arm has the wrong sign of the difference.
        paired: whether run i of both arms shares its order, and differences are tested.
    """

    runs: int | None
    power: float | None
    normal_runs: int
    flip: float
    paired: bool


def seed_budget(
    delta: float, sd: float, rho: float = 0.0, paired: bool = False, power: float = 0.8, level: float = 0.05
) -> SeedBudget:
    """The least number of runs at which Student's two-sided test finds a difference with the power that is asked.

    Args:
        delta: the difference, not 0.
        sd: standard deviation of one run over orders, > 0, in the unit of delta.
        rho: correlation of the two arms over shared orders, in [-1, 1]; of paired comparisons alone.
        paired: whether the arms share their orders.
        power: that is asked, between 0 and 1.
        level: of the test, between 0 and 1.

    Raises:
        BudgetError: for numbers out of range.
    """
    _check(delta, sd, rho, power, level)
    kept = 1.0 - rho if paired else 1.0
    size = abs(delta) / (sd * math.sqrt(2.0 * kept)) if kept > 0 else math.inf  # of one pair, in standard deviations
    from scipy.special import ndtr, ndtri  # imported where it is used: it takes a while

    quantiles = ndtri(1 - level / 2) + ndtri(power)
    normal_runs = max(1, math.ceil((quantiles / size) ** 2)) if math.isfinite(size) else 1
    runs = _least(size, paired, power, level)
    reached = None if runs is None else power_of_test(size, runs, paired, level)
    return SeedBudget(runs, reached, normal_runs, float(ndtr(-size)), paired)


def power_of_test(size: float, runs: int, paired: bool, level: float = 0.05) -> float:
    """Power of Student's two-sided test.

    Args:
        size: of the difference of one pair of runs, in its standard deviations.
        runs: of each arm, at least 2.
        paired: whether differences of pairs are tested, on K - 1 degrees of freedom, or two samples, on 2 K - 2.
        level: of the test.
    """
    from scipy.stats import nct  # imported where it is used: it takes a while

    freedom = runs - 1 if paired else 2 * runs - 2
    bound, shift = student_quantile(1 - level / 2, freedom), size * math.sqrt(runs)
    if not math.isfinite(shift) or shift > 35 + bound:  # where the tails of the noncentral law are no longer numbers
        return 1.0
    lower = nct.cdf(-bound, freedom, shift) if shift < NO_LOWER_TAIL else 0.0
    return float(nct.sf(bound, freedom, shift) + lower)


def _least(size: float, paired: bool, power: float, level: float) -> int | None:
    """By bisection: power grows with the number of runs."""
    low, high = 1, 2
    while power_of_test(size, high, paired, level) < power:
        low, high = high, 2 * high
        if high > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of_test(size, middle, paired, level) >= power else (middle, high)
    return high


def _check(delta: float, sd: float, rho: float, power: float, level: float) -> None:
    wrong = [
        (name, value, expected)
        for name, value, fits, expected in (
            ("delta", delta, math.isfinite(delta) and delta != 0, "a finite difference other than 0"),
            ("sd", sd, math.isfinite(sd) and sd > 0, "a standard deviation > 0"),
            ("rho", rho, -1 <= rho <= 1, "a correlation from -1 to 1"),
            ("power", power, 0 < power < 1, "a probability between 0 and 1"),
            ("level", level, 0 < level < 1, "a probability between 0 and 1"),
        )
        if not fits
    ]
    if wrong:
        name, value, expected = wrong[0]
        raise BudgetError(f"seed budget: `{name}`: expected {expected}, got {value!r}; correct it")

"""Calibration: exact where the truth is affine, covering where it is noisy, refusing what cannot be fitted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from estimators.intervals import CURVED_LEAST, CalibrationError, calibrate, calibrate_anchored, calibrate_curved


def test_an_affine_relation_is_recovered_exactly() -> None:
    guess = np.linspace(2.4, 2.5, 8)
    fit = calibrate(list(0.3 + 0.9 * guess), list(guess))
    assert fit.correct(2.44) == pytest.approx(0.3 + 0.9 * 2.44, abs=1e-12)
    assert fit.freedom == 6
    assert fit.sd < 1e-12


def test_few_orders_fit_an_offset_only() -> None:
    fit = calibrate([1.0, 1.1, 1.2], [2.0, 2.3, 2.1])
    assert fit.slope == 1.0
    assert fit.correct(2.0) == pytest.approx(2.0 + 1.1 - (2.0 + 2.3 + 2.1) / 3)
    assert fit.freedom == 2


@pytest.mark.parametrize("count", [4, 8, 16])
def test_intervals_cover_nine_in_ten(count: int) -> None:
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(3000):
        guess = rng.normal(size=count + 1)
        true = 0.5 + guess + 0.3 * rng.normal(size=count + 1)
        low, high = calibrate(list(true[:-1]), list(guess[:-1])).interval(guess[-1])
        inside.append(low <= true[-1] <= high)
    assert np.mean(inside) == pytest.approx(0.9, abs=0.022), "four standard errors of 3000 draws"


@pytest.mark.parametrize("count", [3, 5, 6, 8])
def test_an_interval_is_that_of_least_squares_for_a_new_order(count: int) -> None:
    """The textbook's x' (X'X)^-1 x, with the columns that are fitted: an offset, and a slope from 6 orders on."""
    draw, sloped = np.random.default_rng(3), count >= 6
    guess = 2.1 + 0.1 * draw.normal(size=count)
    true = 0.4 + 0.8 * guess + 0.02 * draw.normal(size=count)

    def columns(estimates: np.ndarray) -> np.ndarray:
        fitted = [np.ones_like(estimates)] + [estimates] * sloped
        return np.array(fitted).reshape(len(fitted), len(estimates)).T

    def unfitted(estimates: np.ndarray) -> np.ndarray:
        return estimates * (not sloped)

    X, left = columns(guess), true - unfitted(guess)
    found, freedom = np.linalg.pinv(X) @ left, count - X.shape[1]
    variance = ((left - X @ found) ** 2).sum() / freedom
    fit = calibrate(true.tolist(), guess.tolist())
    for new in (2.05, 2.6):
        x = columns(np.array([new]))[0]
        half = student.ppf(0.95, freedom) * np.sqrt(variance * (1 + x @ np.linalg.pinv(X.T @ X) @ x) + 0.003)
        centre = x @ found + unfitted(np.array([new]))[0]
        assert fit.correct(new) == pytest.approx(centre, rel=1e-9)
        assert fit.interval(new, 0.003) == pytest.approx((centre - half, centre + half), rel=1e-9)


def test_sampling_variance_widens_the_interval() -> None:
    rng = np.random.default_rng(1)
    fit = calibrate(list(rng.normal(size=8)), list(rng.normal(size=8)))
    narrow, wide = fit.interval(0.0), fit.interval(0.0, sampling_variance=4.0)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("truth", "guess"), [([1.0, 2.0], [1.0, 2.0]), ([1, 2, 3], [1, 2]), ([1, 2, float("nan")], [1, 2, 3])]
)
def test_what_cannot_be_fitted_is_refused(truth: list[float], guess: list[float]) -> None:
    with pytest.raises(CalibrationError, match="expected"):
        calibrate(truth, guess)


def test_an_anchored_fit_passes_through_the_reference_and_covers() -> None:
    draw, inside = np.random.default_rng(5), []
    for _ in range(400):
        guess = 2.0 + draw.normal(0, 0.01, 9)
        true = 2.0 + 0.8 * (guess - 2.0) + draw.normal(0, 0.001, 9)
        fit = calibrate_anchored(true[:8].tolist(), guess[:8].tolist(), 2.0)
        low, high = fit.interval(guess[8])
        inside.append(low <= true[8] <= high)
        assert fit.correct(2.0) == pytest.approx(2.0, abs=1e-12)
        assert fit.freedom == 8
    assert np.mean(inside) >= 0.88, "90 ± 1.5 %; what the slope misses counts as error"
    few = calibrate_anchored([2.1, 2.2, 2.4], [2.1, 2.2, 2.3], 2.0)
    assert (few.slope, few.offset, few.freedom) == (1.0, 0.0, 3)
    assert few.sd == pytest.approx(0.1 / np.sqrt((0.09 + 0.14 / 3) / (2 * 0.14 / 3)) / np.sqrt(3))
    with pytest.raises(CalibrationError, match="at least 3"):
        calibrate_anchored([1.0], [1.0], 1.0)


@pytest.mark.parametrize("offset", [0.0, 2.1])
def test_a_curve_is_that_of_least_squares_for_a_new_order(offset: float) -> None:
    """The textbook's x' (X'X)^-1 x with 1, x and x², and Student's quantile on n - 3 degrees of freedom."""
    draw, count = np.random.default_rng(4), 14
    guess = offset + 0.1 * draw.normal(size=count)
    true = 0.4 + 0.8 * guess + 5 * (guess - offset) ** 2 + 0.02 * draw.normal(size=count)
    fit = calibrate_curved(true.tolist(), guess.tolist())
    X = np.stack([np.ones(count), guess, guess**2], axis=1)
    found = np.linalg.lstsq(X, true, rcond=None)[0]
    variance = ((true - X @ found) ** 2).sum() / (count - 3)
    for new in (offset - 0.3, offset + 0.02, offset + 0.5):
        x = np.array([1, new, new**2])
        half = student.ppf(0.95, count - 3) * np.sqrt(variance * (1 + x @ np.linalg.inv(X.T @ X) @ x))
        assert fit.correct(new) == pytest.approx(x @ found, rel=1e-7)
        low, high = fit.interval(new)
        assert high - low == pytest.approx(2 * half, rel=1e-5)
        assert (low + high) / 2 == pytest.approx(x @ found, rel=1e-7)


def test_a_curve_recovers_a_bent_relation_exactly_and_covers_nine_in_ten() -> None:
    guess = np.linspace(-1, 1, CURVED_LEAST)
    fit = calibrate_curved(list(0.2 + guess + 0.3 * guess**2), list(guess))
    assert fit.correct(3.0) == pytest.approx(0.2 + 3 + 0.3 * 9)
    rng, inside = np.random.default_rng(0), []
    for _ in range(3000):
        guess = rng.normal(size=17)
        true = 0.5 + guess + 0.4 * guess**2 + 0.3 * rng.normal(size=17)
        low, high = calibrate_curved(list(true[:-1]), list(guess[:-1])).interval(guess[-1])
        inside.append(low <= true[-1] <= high)
    assert np.mean(inside) == pytest.approx(0.9, abs=0.022), "four standard errors of 3000 draws"


def test_a_curve_near_the_reference_has_its_share_of_what_random_orders_are_off_by() -> None:
    draw = np.random.default_rng(5)
    guess = 2 + 0.1 * draw.normal(size=16)
    fit = calibrate_curved(list(0.1 + guess + 3 * (guess - 2) ** 2 + 0.01 * draw.normal(size=16)), list(guess))
    off = fit.correct(2.0) - 2.0
    assert abs(off) > 0.05
    near = fit.nearer(2.0, 0.0)
    assert near.correct(2.0) == pytest.approx(2.0)
    assert near.correct(2.1) == pytest.approx(fit.correct(2.1) - off)
    assert near.sd == 0.0


def test_a_curve_needs_enough_orders_that_differ() -> None:
    with pytest.raises(
        CalibrationError, match="expected 12 orders or more, of estimates that differ, for a curve, got 11"
    ):
        calibrate_curved(list(range(11)), list(range(11)))
    with pytest.raises(CalibrationError, match="of estimates that differ"):
        calibrate_curved(list(range(12)), [1.0] * 12)


def test_an_anchored_interval_is_the_larger_of_students_and_of_what_the_errors_reach() -> None:
    """Errors over sqrt((e² + mean e²) / 2 mean e²), e the estimated change; the estimates stay as they are."""
    draw, reference = np.random.default_rng(6), 2.0
    changes = 0.1 * draw.normal(size=9)
    errors = 0.02 * draw.normal(size=9)
    fit = calibrate_anchored((reference + changes + errors).tolist(), (reference + changes).tolist(), reference)
    mean = (changes**2).mean()
    scaled = errors / np.sqrt((changes**2 + mean) / (2 * mean))
    sd, reach = np.sqrt((scaled**2).mean()), np.abs(scaled).max()  # of nine, the largest holds nine in ten
    assert (fit.sd, fit.freedom, fit.slope) == (pytest.approx(sd), 9, 1.0)
    for change in (0.0, 0.05, 0.4):
        scale = np.sqrt((change**2 + mean) / (2 * mean))
        half = scale * max(student.ppf(0.95, 9) * sd, reach)
        assert fit.interval(reference + change) == pytest.approx((reference + change - half, reference + change + half))
    wide = np.sqrt((student.ppf(0.95, 9) * sd) ** 2 / 2 + student.ppf(0.95, 9) ** 2 * 4.0)
    low, high = fit.interval(reference, 4.0)
    assert (high - low) / 2 == pytest.approx(wide)


def test_an_anchored_interval_covers_nine_in_ten_where_a_few_edits_err_much() -> None:
    """Changes and errors of heavy tails, which a slope and Student's quantile alone leave uncovered."""
    draw, inside = np.random.default_rng(7), []
    for _ in range(2000):
        changes = 0.1 * draw.standard_t(2, size=9)
        true = changes + 0.3 * np.hypot(changes, 0.05) * draw.normal(size=9)
        low, high = calibrate_anchored(true[:-1].tolist(), changes[:-1].tolist(), 0.0).interval(changes[-1])
        inside.append(low <= true[-1] <= high)
    assert np.mean(inside) > 0.88


def test_edits_that_change_nothing_are_anchored_too() -> None:
    fit = calibrate_anchored([2.0, 2.1, 1.9], [2.0, 2.0, 2.0], 2.0)
    low, high = fit.interval(2.0)
    assert low < 1.9 < 2.1 < high

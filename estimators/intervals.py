"""Intervals: what a few retrained orders say about the error of an estimator on this run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from .errors import EstimatorError

LEVEL = 0.9
CURVED_LEAST = 12
"""Retrained orders that a curve needs."""


class CalibrationError(EstimatorError, ValueError):
    """Too few retrained orders, or losses that are not finite."""


@dataclass(frozen=True)
class Calibration:
    """truth = offset + slope * estimate (+ a curve) + noise, fitted to m retrained orders [nats/token].

    sd: residual standard deviation on `freedom` degrees of freedom. mean, spread: mean and centred sum of squares of the
    m estimates, from which the interval widens away from them. anchored: the line was made to pass through the reference
    order, `mean`, which every estimator answers exactly. curve: of (estimate - mean)², which is added to the line; covariance:
    then, of the coefficients of 1, estimate - mean and its square, row by row, for residuals of variance 1. typical: root mean
    square of estimate - mean, where errors grow with that: sd is theirs where it is typical; 0 where they do not. reach: then,
    the error that a new one stays within by the errors' own ranks.
    """

    offset: float
    slope: float
    sd: float
    freedom: int
    count: int
    mean: float
    spread: float
    anchored: bool = False
    curve: float = 0.0
    covariance: tuple[tuple[float, ...], ...] = ()
    typical: float = 0.0
    reach: float = 0.0

    def nearer(self, reference: float, share: float) -> Calibration:
        """The same for an order so near to the reference order, whose value is known, that it has a share in [0, 1] alone of what
        was fitted to random orders: of their common offset from the reference, and twice that, up to all, of the variance of
        their errors, which grows faster."""
        offset = self.correct(reference) - reference
        return replace(self, offset=self.offset - (1 - share) * offset, sd=self.sd * math.sqrt(min(1.0, 2 * share)))

    def correct(self, estimate: float) -> float:
        """The calibrated estimate [nats/token]."""
        line = self.offset + self.slope * estimate
        return line + self.curve * (estimate - self.mean) ** 2 if self.curve else line

    def interval(self, estimate: float, sampling_variance: float = 0.0) -> tuple[float, float]:
        """Prediction interval of the retrained loss, of level `LEVEL`: Student's, for a new order, exact for normal residuals.

        sampling_variance: of the estimate, over the sample of coordinates [nats²]; the calibration orders' residuals hold
        its mean already, so that only what exceeds it would be added: pass the excess.
        """
        variance, scale = self.sd**2 * (1 + self._leverage(estimate)), self._scale(estimate)
        half = student_quantile(0.5 + LEVEL / 2, self.freedom) * math.sqrt(variance * scale**2 + sampling_variance)
        half, centre = max(half, self.reach * scale), self.correct(estimate)
        return centre - half, centre + half

    def _scale(self, estimate: float) -> float:
        """Standard deviation of an error at an estimate, by that where the change is typical."""
        if not self.typical:
            return 1.0
        return math.sqrt(((estimate - self.mean) ** 2 + self.typical**2) / (2 * self.typical**2))

    def _leverage(self, estimate: float) -> float:
        """Variance of the fit at an estimate, for residuals of variance 1."""
        away = estimate - self.mean
        if self.covariance:
            powers = (1.0, away, away * away)
            return sum(
                a * b * c
                for a, row in zip(powers, self.covariance, strict=True)
                for b, c in zip(powers, row, strict=True)
            )
        away_share = away**2 / self.spread if self.spread > 0 and self.slope != 1 else 0
        return (0 if self.anchored else 1 / self.count) + away_share


@cache
def student_quantile(share: float, freedom: float) -> float:
    """Student's quantile of so many degrees of freedom, which costs more than all else of an interval."""
    from scipy.special import stdtrit  # imported where it is used, as are other parts of scipy: it takes a while

    return float(stdtrit(freedom, share))


def calibrate(truth: Sequence[float], estimate: Sequence[float]) -> Calibration:
    """Fit offset (and, from 6 orders on, slope) by least squares; CalibrationError for fewer than 3 orders."""
    true, guess = _checked(truth, estimate)
    count, mean = len(true), float(guess.mean())
    spread = float(((guess - mean) ** 2).sum())
    fits = count >= 6 and spread > 0
    slope = float(((guess - mean) * (true - true.mean())).sum() / spread) if fits else 1.0
    offset = float(true.mean() - slope * mean)
    freedom = count - 1 - fits
    sd = float(np.sqrt(((true - offset - slope * guess) ** 2).sum() / freedom))
    return Calibration(offset, slope, sd, freedom, count, mean, spread)


def calibrate_curved(truth: Sequence[float], estimate: Sequence[float]) -> Calibration:
    """Fit offset, slope and a curve by least squares, to orders whose estimates go from the best to the worst.

    Far from the reference order a loss bends upwards: what an order promises is kept in part, and what it threatens comes in
    more. Random orders lie too close together to show it. CalibrationError for fewer than CURVED_LEAST orders, or equal
    estimates.
    """
    true, guess = _checked(truth, estimate)
    count, mean = len(true), float(guess.mean())
    away, scale = guess - mean, float(guess.std())
    if count < CURVED_LEAST or scale == 0:
        raise CalibrationError(
            f"calibration: expected {CURVED_LEAST} orders or more, of estimates that differ, for a curve, got {count}; raise "
            "--orders"
        )
    powers = np.stack([(away / scale) ** power for power in range(3)], axis=-1)
    units = np.array([1.0, 1 / scale, 1 / scale**2])
    inverse = np.linalg.pinv(powers.T @ powers)
    level, slope, curve = (inverse @ powers.T @ true) * units
    freedom = count - 3
    sd = float(np.sqrt(((true - level - slope * away - curve * away**2) ** 2).sum() / freedom))
    covariance = tuple(map(tuple, (inverse * units[:, None] * units).tolist()))
    line = float(level - slope * mean), float(slope)
    return Calibration(*line, sd, freedom, count, mean, float(away @ away), False, float(curve), covariance)


def calibrate_anchored(truth: Sequence[float], estimate: Sequence[float], reference: float) -> Calibration:
    """How far orders near to the reference order err, whose value is known: single edits of a kind, which share no offset.

    Estimates stay as they are: a slope through few edits is worse than none. Errors are held to grow with the estimated change e,
    with sqrt(e² + mean e²). A half-width is the larger of Student's and of what the next error stays within by the ranks of the
    errors (conformal prediction, Vovk et al. 2005), as most edits change little and a few much. CalibrationError for fewer than
    3 orders.
    """
    true, guess = _checked(truth, estimate)
    changes = guess - reference
    typical = float(np.sqrt((changes**2).mean()))
    errors = (true - guess) / (np.sqrt((changes**2 + typical**2) / (2 * typical**2)) if typical else 1.0)
    sd, spread = float(np.sqrt((errors**2).mean())), float((changes**2).sum())
    reach, count = conformal_quantile(errors), len(true)
    return Calibration(0.0, 1.0, sd, count, count, reference, spread, anchored=True, typical=typical, reach=reach)


def conformal_quantile(errors: ArrayLike) -> float:
    """The size that the next of n + 1 exchangeable errors stays within with probability `LEVEL`.

    Between the sizes in rank that the probability lies between. The largest of n holds n / (n + 1) alone: where that is less, it
    is widened as Student's quantiles do, which is no longer free of a shape.
    """
    sizes = np.sort(np.abs(np.asarray(errors, dtype=float)))
    count, rank = len(sizes), LEVEL * (len(sizes) + 1)
    if rank <= count:
        return float(np.interp(rank, np.arange(1, count + 1), sizes))
    wanted, held = (student_quantile(0.5 + level / 2, count - 1) for level in (LEVEL, count / (count + 1)))
    return float(sizes[-1] * wanted / held)


def _checked(truth: Sequence[float], estimate: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    true, guess = np.asarray(truth, dtype=float), np.asarray(estimate, dtype=float)
    if len(true) != len(guess) or len(true) < 3:
        raise CalibrationError(
            f"calibration: expected at least 3 retrained orders with an estimate each, got {len(true)} and {len(guess)}; "
            "raise --orders (8 is a good number)"
        )
    if not (np.isfinite(true).all() and np.isfinite(guess).all()):
        raise CalibrationError(
            "calibration: expected finite losses, got NaN or infinity; the estimator diverges on this run"
        )
    return true, guess

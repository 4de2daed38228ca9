"""Intervals: what a few retrained orders say about the error of an estimator on this run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

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
    then, of the coefficients of 1, estimate - mean and its square, row by row, for residuals of variance 1.
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
        leverage = self._leverage(estimate)
        half = _quantile(0.5 + LEVEL / 2, self.freedom) * math.sqrt(self.sd**2 * (1 + leverage) + sampling_variance)
        centre = self.correct(estimate)
        return centre - half, centre + half

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
def _quantile(share: float, freedom: int) -> float:
    """Student's quantile, which costs more than all else of an interval."""
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
    """Fit a slope (from 6 orders on, else 1) through the reference order's value, for orders near to it.

    Orders a single edit away from the reference err by far less than random ones, and without their common offset.
    CalibrationError for fewer than 3 orders.
    """
    true, guess = _checked(truth, estimate)
    changes, guesses, count = true - reference, guess - reference, len(true)
    spread = float((guesses**2).sum())
    fits = count >= 6 and spread > 0
    slope = float((guesses * changes).sum() / spread) if fits else 1.0
    freedom = count - fits
    sd = float(np.sqrt(((changes - slope * guesses) ** 2).sum() / freedom))
    return Calibration((1 - slope) * reference, slope, sd, freedom, count, reference, spread, anchored=True)


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

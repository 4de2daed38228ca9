"""Measures of agreement between estimates and truths: rank correlation, error, skill, coverage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fut.display.numbers import jsonable_fields

Floats = NDArray[np.float64]
BOOTSTRAP, BOOTSTRAP_SEED = 2000, 20_220


LEAST = 12
"""Orders below which a bootstrap interval is not stated: of a few orders it shrinks to a point, as [1.00, 1.00]."""


@dataclass(frozen=True)
class Accuracy:
    """One estimator against n retrained orders. Losses (values of the read-out) and MAE in the read-out's unit.

    orders: n. spearman, pearson: correlation with the retrained losses (None where the estimates do not vary), with 90 %
    percentile bootstrap intervals (None below LEAST orders). skill: 1 - mae / mae_reference, above 0 exactly if the estimate
    beats the answer "every order ends like the reference". coverage: share of retrained losses within the 90 % intervals, None
    without intervals.
    endpoint_error: mean of |estimate - truth| / |truth - reference| over endpoints [D].
    bias, residual_sd: mean and standard deviation of estimate minus truth. diverged: estimates that were not finite, which
    count as the largest finite error times ten in mae, and as last in rank.
    """

    spearman: float | None
    spearman_interval: tuple[float, float] | None
    pearson: float | None
    pearson_interval: tuple[float, float] | None
    mae: float
    mae_reference: float
    skill: float
    bias: float
    residual_sd: float
    coverage: float | None
    diverged: int
    endpoint_error: float | None = None
    orders: int = 0

    def as_dict(self) -> dict[str, Any]:
        return jsonable_fields(asdict(self))


def accuracy(
    truth: ArrayLike,
    estimate: ArrayLike,
    reference: float,
    intervals: ArrayLike | None = None,
    endpoint_error: float | None = None,
) -> Accuracy:
    """Compare estimated with retrained losses of the same n >= 2 orders; `reference` is the reference order's loss."""
    from scipy.stats import rankdata

    true, guess = np.asarray(truth, dtype=float), np.asarray(estimate, dtype=float)
    if true.shape != guess.shape or true.ndim != 1 or len(true) < 2:
        raise ValueError(
            f"accuracy: expected two equally long lists of n >= 2 losses, got {true.shape} and {guess.shape}"
        )
    diverged = ~np.isfinite(guess)
    guess = _bounded(true, guess, diverged)
    mae, mae_reference = np.abs(guess - true).mean(), np.abs(reference - true).mean()
    inside = None
    if intervals is not None:
        low, high = np.asarray(intervals, dtype=float).T
        inside = float(((low <= true) & (true <= high)).mean())
    return Accuracy(
        *_correlation(rankdata(true), rankdata(guess)),
        *_correlation(true, guess),
        float(mae),
        float(mae_reference),
        float(1 - mae / mae_reference) if mae_reference else 0.0,
        float((guess - true).mean()),
        float((guess - true).std(ddof=1)),
        inside,
        int(diverged.sum()),
        endpoint_error,
        len(true),
    )


def _bounded(true: Floats, guess: Floats, diverged: NDArray[np.bool_]) -> Floats:
    if not diverged.any():
        return guess
    finite = np.abs(guess - true)[~diverged]
    worst = 10 * max(finite.max(initial=0.0), np.ptp(true))
    return np.where(diverged, true.max() + worst, guess)


def _correlation(a: Floats, b: Floats) -> tuple[float | None, tuple[float, float] | None]:
    """Pearson's coefficient of two lists (of ranks: Spearman's) and its 90 % percentile bootstrap interval."""
    value = _coefficient(a[None], b[None])[0]
    if not np.isfinite(value):
        return None, None
    if len(a) < LEAST:
        return float(value), None
    rows = np.random.default_rng(BOOTSTRAP_SEED).integers(len(a), size=(BOOTSTRAP, len(a)))
    values = _coefficient(a[rows], b[rows])
    low, high = np.quantile(values[np.isfinite(values)], [0.05, 0.95])
    return float(value), (float(low), float(high))


def _coefficient(a: Floats, b: Floats) -> Floats:
    """Row by row; NaN where a list does not vary, which its rounded deviations from its mean do not say."""
    varies = (np.ptp(a, axis=1) > 0) & (np.ptp(b, axis=1) > 0)
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    coefficients = np.divide((a * b).sum(axis=1), scale, out=np.full(len(a), np.nan), where=varies & (scale > 1e-30))
    clipped: Floats = np.clip(coefficients, -1.0, 1.0)  # rounding may go a little beyond
    return clipped

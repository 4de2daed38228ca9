"""Cells of a map: orders in which one item stands at another step, intervals of their estimates, and truth against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from fut.estimation.accuracy import accuracy
from fut.questions.retraining import LEAST

Floats = NDArray[np.float64]
LEVEL = 0.9
SLOPED = 6
"""Retrained cells from which a slope is fitted."""


@dataclass(frozen=True)
class CellFit:
    """truth = slope * estimate + noise of standard deviation `sd` * scale, fitted to retrained cells, through the origin.

    An order that changes nothing (scale 0) has no error. freedom: degrees of freedom of sd; spread: sum of squares of
    estimates over scales, from which the interval widens.
    """

    slope: float
    sd: float
    freedom: int
    count: int
    spread: float

    def correct(self, estimates: ArrayLike) -> Floats:
        return self.slope * np.asarray(estimates, dtype=float)

    def half_widths(self, estimates: ArrayLike, scales: ArrayLike) -> Floats:
        """Half-widths of 90 % prediction intervals, Student's: exact for normal residuals of these scales."""
        guess, scale = np.asarray(estimates, dtype=float), np.asarray(scales, dtype=float)
        ratio = np.divide(guess, scale, out=np.zeros_like(guess * scale), where=scale > 0)
        leverage = ratio**2 / self.spread if self.spread > 0 and self.slope != 1 else 0.0
        widths: Floats = student.ppf(0.5 + LEVEL / 2, self.freedom) * self.sd * scale * np.sqrt(1.0 + leverage)
        return widths


def fit_cells(truth: ArrayLike, estimates: ArrayLike, scales: ArrayLike) -> CellFit | None:
    """A spread from 3 retrained cells on, and a slope from 6 on; None where there are fewer, or what is not finite."""
    true, guess, scale = (np.asarray(a, dtype=float) for a in (truth, estimates, scales))
    if len(true) < LEAST or not np.isfinite([true, guess]).all():
        return None
    true, guess = true / scale, guess / scale
    spread = float(guess @ guess)
    sloped = len(true) >= SLOPED and spread > 0
    slope = float(guess @ true / spread) if sloped else 1.0
    freedom = len(true) - sloped
    return CellFit(slope, float(np.sqrt(((true - slope * guess) ** 2).sum() / freedom)), freedom, len(true), spread)


def distance_scales(places: Sequence[int], steps: int) -> Floats:
    """sqrt(|j - place|) of every cell [n, steps]: how errors were measured to grow with the steps that an order changes."""
    apart = np.abs(np.arange(steps)[None, :] - np.asarray(places)[:, None])
    scales: Floats = np.sqrt(apart.astype(float))
    return scales


def heatmap_error(truth: ArrayLike, estimates: ArrayLike) -> float | None:
    """|E - M| / |M - mean(M)| over the cells compared, Frobenius norms; 0 exact, 1 as bad as answering the mean everywhere.

    None where all true cells are alike.
    """
    true, guess = np.asarray(truth, dtype=float), np.asarray(estimates, dtype=float)
    scale = np.linalg.norm(true - true.mean())
    return float(np.linalg.norm(guess - true) / scale) if scale > 0 else None


@dataclass(frozen=True)
class Checked:
    """Estimated against retrained changes of the loss against the reference order [nats/token], cell by cell.

    cells: [item, step], or [item] for an order without it. measures: Spearman and Pearson with 90 % bootstrap intervals,
    heatmap_error, mae, skill against the baseline "no change", coverage of the 90 % intervals (None without), bias, residual_sd.
    """

    cells: list[list[int]]
    truth: list[float]
    estimates: list[float]
    measures: dict[str, Any]


def check_cells(
    cells: Sequence[Sequence[int]],
    truth: Sequence[float],
    estimates: Sequence[float],
    half: Sequence[float] | None = None,
) -> Checked:
    """Compare the estimates of two or more cells with their truth; half: half-widths of the intervals, if there are any."""
    bounds = None if half is None else [(e - h, e + h) for e, h in zip(estimates, half, strict=True)]
    measures = accuracy(truth, estimates, 0.0, bounds).as_dict()
    measures = {k: v for k, v in measures.items() if k not in ("endpoint_error", "diverged")}
    measures["heatmap_error"] = heatmap_error(truth, estimates)
    return Checked([list(c) for c in cells], list(truth), list(estimates), measures)

"""A table of positions that learns from what a search evaluates: first order about where the search is, not about random
orders.

The residuals of evaluated orders against mean + slope * table are fitted by a Gaussian process that is a sum over units of
a function of the unit's step (Rasmussen & Williams 2006, §2.7, with a sum of kernels), so that its mean is a table again:
look-ups and linear assignment go on as before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .arrangements import Arrangements, Floats, Units

REACH = 0.5
"""Steps over which a unit's value is alike, as a share of the window."""
NOISE = 1e-4
"""Of the fit, relative to the prior's variance: what no sum over units can express."""
RECENT = 384
"""Evaluations that are fitted, the latest."""


class Surrogate:
    """Costs [places, units] under which sums agree with evaluated values as well as sums can."""

    def __init__(self, space: Arrangements, costs: Floats) -> None:
        self.space, self.prior = space, costs
        steps = np.arange(len(space.start))
        kernel = np.exp(-np.abs(steps[:, None] - steps) / max(REACH * len(steps), 1.0))
        self.root: Floats = np.linalg.cholesky(kernel)  # [T, T]: a step's row are its features

    def features(self, rows: Sequence[Units]) -> Floats:
        """[m, n T], scaled so that a row's squared length is 1."""
        steps = self.space.steps[np.argsort(np.stack(rows), axis=1)]  # of every unit
        return self.root[steps].reshape(len(rows), -1) / np.sqrt(len(self.space.items))

    def costs(self, rows: Sequence[Units], values: Sequence[float]) -> Floats:
        """The prior's costs, scaled and corrected by evaluated arrangements and their values."""
        rows, values = rows[-RECENT:], values[-RECENT:]
        n = len(self.space.items)
        if len(rows) < 3:
            return self.prior
        prior = self.prior[np.arange(n), np.stack(rows)].sum(axis=1)
        spread = prior.std()
        basis = np.ones((len(rows), 1)) if spread == 0 else np.stack([np.ones(len(rows)), prior - prior.mean()], 1)
        features = self.features(rows)
        covariance = features @ features.T + NOISE * np.eye(len(rows))
        solved = np.linalg.solve(covariance, np.column_stack([basis, values]))
        coefficients = np.linalg.lstsq(basis.T @ solved[:, :-1], basis.T @ solved[:, -1], rcond=None)[0]
        weights = solved[:, -1] - solved[:, :-1] @ coefficients
        by_unit = (features.T @ weights).reshape(n, -1) @ self.root.T / np.sqrt(n)  # [units, T]
        slope = coefficients[1] if spread else 1.0
        return slope * self.prior + by_unit.T[self.space.steps]

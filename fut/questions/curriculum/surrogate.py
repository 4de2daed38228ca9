"""A table of positions that learns from what a search evaluates: first order about where the search is, not about random
orders.

The residuals of evaluated orders against mean + slope * table are fitted by a Gaussian process that is a sum over units of
a function of the unit's step (Rasmussen & Williams 2006, §2.7, with a sum of kernels), so that its mean is a table again:
look-ups and linear assignment go on as before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fut.questions.curriculum.arrangements import Arrangements, Floats, Units

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
        self.kernel: Floats = np.exp(-np.abs(steps[:, None] - steps) / max(REACH * len(steps), 1.0))  # [T, T]

    def costs(self, rows: Sequence[Units], values: Sequence[float]) -> Floats:
        """The prior's costs, scaled and corrected by evaluated arrangements and their values."""
        rows, values = rows[-RECENT:], values[-RECENT:]
        if len(rows) < 3:
            return self.prior
        n, stacked = len(self.space.items), np.stack(rows)
        prior = self.prior[np.arange(n), stacked].sum(axis=1)
        varies = float(np.ptp(prior)) > 0
        basis = np.stack([np.ones(len(rows)), prior - prior.mean()][: 1 + varies], axis=1)
        steps = self.space.steps[np.argsort(stacked, axis=1)]  # of every unit [m, n]
        for units in self.space.alike:
            steps[:, units] = np.sort(steps[:, units], axis=1)  # an item's units are one another's equals
        solved = np.linalg.solve(self._covariance(steps), np.column_stack([basis, values]))
        coefficients = np.linalg.lstsq(basis.T @ solved[:, :-1], basis.T @ solved[:, -1], rcond=None)[0]
        weights = solved[:, -1] - solved[:, :-1] @ coefficients
        stood = np.zeros((len(self.kernel), n))  # by how much weight a unit stood at a step
        np.add.at(stood, (steps, np.arange(n)), weights[:, None])
        learned = (self.kernel @ stood / n)[self.space.steps]
        return (coefficients[1] if varies else 1.0) * self.prior + learned

    def _covariance(self, steps: Units) -> Floats:
        """Of the residuals of m arrangements [m, m]: the mean over units of the kernel between their steps, and noise."""
        total = np.zeros((len(steps), len(steps)))
        for row in steps.T:
            total += self.kernel[row[:, None], row]
        covariance: Floats = total / steps.shape[1] + NOISE * np.eye(len(steps))
        return covariance

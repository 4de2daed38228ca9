"""Local search on estimates, guided by a table of positions that learns as it goes.

Every round corrects the table by what has been evaluated, and asks the estimate about three kinds of orders: the
best under the corrected table, held back towards the current order by penalties on distance (a trust region, solved as
linear assignments); the current order's neighbours, by swaps and insertions, that the table ranks first; and a few that
wander off, from which the table learns. Where nothing improves, the best order so far is perturbed (iterated local search:
Lourenço, Martin & Stützle 2003).

The residuals of evaluated orders against mean + slope * table are fitted by a Gaussian process that is a sum over units of
a function of the unit's step (Rasmussen & Williams 2006, §2.7, with a sum of kernels), so that its mean is a table again:
look-ups and linear assignment go on as before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fut.questions.curriculum.arrangements import Arrangements, Floats, Units
from fut.questions.curriculum.assignment import assign, total
from fut.questions.curriculum.evaluator import Evaluator

PENALTIES = (0.0, 0.2, 0.6, 2.0)
"""On moving a unit through the whole window, in standard deviations of the table's entries."""
NEIGHBOURS, WANDERERS, FARTHEST = 18, 8, 8
"""Of either kind per round; swaps that a wanderer makes at most."""
PATIENCE, KICK, IDLE = 3, 4, 30
"""Rounds without an improvement before a perturbation, its swaps, and rounds with nothing new to ask before the end."""
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


class LocalSearch:
    """One search: an evaluator, the table's costs [places, units], and a seeded generator."""

    def __init__(self, evaluator: Evaluator, costs: Floats, draw: np.random.Generator) -> None:
        self.evaluator, self.space, self.draw = evaluator, evaluator.space, draw
        self.surrogate = Surrogate(self.space, costs)
        self.rows: list[Units] = []
        self.values: list[float] = []

    def run(self, starts: Sequence[Units]) -> None:
        """From the best of some arrangements, until the budget is spent or there is no order left to ask about."""
        self._evaluate(starts)
        if self.evaluator.best is None:
            return
        self._evaluate(self._wandering(2 * WANDERERS, self.evaluator.best))
        stuck = idle = 0
        current, value = self.evaluator.best, self.evaluator.best_value
        while self.evaluator.left and idle < IDLE:
            proposals = self._proposals(current)
            values = self._evaluate(proposals)
            idle = 0 if proposals else idle + 1
            if proposals and values.min() < value:
                current, value, stuck = proposals[int(values.argmin())], float(values.min()), 0
            else:
                stuck += 1
            if stuck > PATIENCE:
                current, stuck = self._wandered(self.evaluator.best, KICK), 0
                value = float(self._evaluate([current])[0])

    def _evaluate(self, rows: Sequence[Units]) -> Floats:
        values = self.evaluator.values(rows)
        for row, value in zip(rows, values.tolist(), strict=True):
            if np.isfinite(value):
                self.rows.append(row)
                self.values.append(value)
        return values

    def _proposals(self, current: Units) -> list[Units]:
        """A round's orders, each new."""
        learned = self.surrogate.costs(self.rows, self.values)
        near = self.space.neighbours(current, self.draw)
        ranked = near[np.argsort(total(learned, near), kind="stable")]
        distance = self._distance(current) * learned.std()
        fresh = self.evaluator.fresh
        proposals = fresh([assign(self.space, learned + p * distance) for p in PENALTIES])
        return fresh([*proposals, *fresh(ranked, NEIGHBOURS), *fresh(self._wandering(WANDERERS, current))])

    def _distance(self, current: Units) -> Floats:
        """How far through the window every place is from where every unit stands now: [places, units], from 0 to 1."""
        steps = self.space.steps
        distance: Floats = np.abs(steps[:, None] - steps[np.argsort(current)]) / max(len(self.space.start) - 1, 1)
        return distance

    def _wandering(self, count: int, origin: Units) -> list[Units]:
        return [self._wandered(origin, int(k)) for k in self.draw.integers(1, FARTHEST + 1, size=count)]

    def _wandered(self, row: Units, swaps: int) -> Units:
        row = row.copy()
        for _ in range(swaps if len(row) > 1 else 0):
            a, b = self.draw.choice(len(row), 2, replace=False)
            row[a], row[b] = row[b], row[a]
        return self.space.repair(row)

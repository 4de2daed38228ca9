"""What `fut trust` answers: how smooth a window is, and how well estimates can be expected to rank orders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fut.display.numbers import jsonable_fields
from fut.estimation.accuracy import BOOTSTRAP, BOOTSTRAP_SEED
from fut.estimation.interactions import HalvesTrained, Interaction
from fut.questions.trust.expected import Expected, expected

FEW = 4
"""Trials below which the share of interactions in the read-out is not stated."""


@dataclass(frozen=True)
class OwnRuns:
    """What a method errs by on the real runs that it is made of, and what these differ by: standard deviations, in the unit."""

    error: float
    spread: float


@dataclass(frozen=True)
class Trust:
    """How far orders' effects are from sums over steps, on one run, and what that says of estimates.

    Args:
        trials: three trained orders each.
        own: of the method that is asked; None where it has no real runs yet.
        method, readout, unit: what is asked about.
        gradients: that the trials took.
    """

    trials: Sequence[HalvesTrained]
    own: OwnRuns | None
    method: str
    readout: str
    unit: str
    gradients: int

    @property
    def over(self) -> list[Interaction]:
        """By step, the root mean square over trials."""
        columns = zip(*(trial.over for trial in self.trials), strict=True)
        return [
            Interaction(same[0].step, _rms([one.effect for one in same]), _rms([one.interaction for one in same]))
            for same in columns
        ]

    @property
    def interaction(self) -> float:
        """What changes do together beyond their sum, at the end, as a share of the way that training has moved."""
        return self.over[-1].interaction * self.over[-1].effect

    @property
    def expected(self) -> Expected:
        """Spearman's correlation of the adjoint with retraining, by what other runs of such an interaction had."""
        return expected(self.interaction)

    @property
    def share(self) -> float | None:
        """Interactions' share of the variance that random orders give the read-out; None from fewer than FEW trials."""
        return None if len(self.trials) < FEW else share_of([trial.changes for trial in self.trials])

    @property
    def ceiling(self) -> float | None:
        """The best correlation that any sum over steps can have with retraining, sqrt(1 - share); None as for the share."""
        return None if self.share is None else math.sqrt(1 - self.share)

    @property
    def ceiling_interval(self) -> tuple[float, float] | None:
        """Its 90 % percentile bootstrap interval over trials; None as for the share."""
        return None if self.share is None else ceiling_interval([trial.changes for trial in self.trials])

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return jsonable_fields(
            {
                "method": self.method,
                "readout": self.readout,
                "unit": self.unit,
                "gradients": self.gradients,
                "interaction": self.interaction,
                "over": [asdict(one) for one in self.over],
                "expected": asdict(self.expected),
                "share": self.share,
                "ceiling": self.ceiling,
                "ceiling_interval": self.ceiling_interval,
                "own": None if self.own is None else asdict(self.own),
                "verdict": self.expected.verdict,
                "trials": [asdict(trial) for trial in self.trials],
            }
        )

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Trust:
        """From `as_dict`."""
        trials = [
            HalvesTrained([Interaction(**one) for one in trial["over"]], tuple(trial["changes"]))
            for trial in content["trials"]
        ]
        own = None if content["own"] is None else OwnRuns(**content["own"])
        kept = (content[name] for name in ("method", "readout", "unit", "gradients"))
        return cls(trials, own, *kept)


def share_of(changes: ArrayLike) -> float:
    """Interactions' share of the variance, from what n trials changed: the first half, the second, both [n, 3].

    With main effects of variance V1 and pairwise interactions of V2, E[I²] = 2 V2, and a half's change has V1 + 1.5 V2.
    """
    first, second, both = np.asarray(changes, dtype=float).T
    beyond = float(((both - first - second) ** 2).mean())
    total = float((first**2 + second**2).mean() / 2) - beyond / 4
    return min(1.0, beyond / 2 / total) if total > 0 else 1.0


def ceiling_interval(changes: ArrayLike) -> tuple[float, float]:
    """90 % percentile bootstrap interval of sqrt(1 - share) over trials."""
    given = np.asarray(changes, dtype=float)
    draw = np.random.default_rng(BOOTSTRAP_SEED)
    rows = draw.integers(len(given), size=(BOOTSTRAP, len(given)))
    low, high = np.quantile([math.sqrt(1 - share_of(given[row])) for row in rows], [0.05, 0.95])
    return float(low), float(high)


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values) / len(values))

"""The linear datamodeling score: do estimates rank retrained subsets of the items as retraining does?

Random subsets are left out in place, every other item staying in its step; the score (LDS) is Spearman's correlation
of estimated with retrained values (Park et al. 2023, TRAK, arXiv 2303.14186; Ilyas & Engstrom 2025, MAGIC, arXiv 2504.16430).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fut.display.notebook import Displayable
from fut.estimation.accuracy import accuracy
from fut.questions.accuracy.result import Verification

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Subset = tuple[int, ...]


def random_subsets(items: int, count: int, share: float, seed: int) -> list[Subset]:
    """`count` sets of items to leave out, each of round(share * items), at least one, drawn uniformly.

    Set i depends on (seed, i) alone. Raises ValueError for a share that leaves out nothing or everything.
    """
    size = max(1, round(share * items))
    if not 0 < share < 1 or size >= items:
        raise ValueError(f"subsets: expected a share between 0 and 1 of {items} items that leaves one, got {share}")
    draws = (np.random.default_rng([seed, 31, i]) for i in range(count))
    return [tuple(sorted(draw.choice(items, size, replace=False).tolist())) for draw in draws]


def lds(true: ArrayLike, estimated: ArrayLike) -> tuple[float | None, tuple[float, float] | None]:
    """Spearman's correlation over n >= 2 subsets, with its 90 % percentile bootstrap interval; None where one list does
    not vary."""
    measures = accuracy(true, estimated, float(np.mean(np.asarray(true, dtype=float))))
    return measures.spearman, measures.spearman_interval


def additive(attributions: ArrayLike, steps: Sequence[Subset], subset: Subset) -> float:
    """Change of the read-out by attributions [T, n items] alone: minus those of the left-out items, in all their steps.

    steps: the items of every step.
    """
    left, table = set(subset), np.asarray(attributions, dtype=float)
    return -sum(float(table[t, j]) for t, step in enumerate(steps) for j, item in enumerate(step) if item in left)


@dataclass(frozen=True)
class Datamodel(Displayable):
    """Estimators against subsets that have really been left out. subsets: the items left out of each; share: of all items.

    verification: the accuracy of every estimator on these subsets, the baseline `reference` among them; its Spearman
    correlation is the LDS.
    """

    subsets: list[list[int]]
    share: float
    seed: int
    verification: Verification

    @property
    def scores(self) -> dict[str, float | None]:
        """LDS by estimator."""
        return {name: row["spearman"] for name, row in self.verification.estimators.items()}

    def as_dict(self) -> dict[str, Any]:
        beside = {"subsets": self.subsets, "share": self.share, "seed": self.seed, "lds": self.scores}
        return {k: v for k, v in self.verification.as_dict().items() if k != "orders"} | beside

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Datamodel:
        """From `as_dict`."""
        verification = Verification.from_dict({"orders": []} | dict(content))
        return cls(content["subsets"], content["share"], content["seed"], verification)

    def title(self) -> str:
        return (
            f"{self.verification.readout}: {len(self.subsets)} subsets of {self.share:g} of the items left out in place"
        )

    def rows(self) -> list[dict[str, Any]]:
        """A row per estimator; `lds` is its Spearman correlation over the subsets."""
        renamed = {"spearman": "lds"}
        return [{renamed.get(k, k): v for k, v in row.items() if k != "coverage"} for row in self.verification.rows()]

    def units(self) -> dict[str, str]:
        return self.verification.units()

    def notes(self) -> list[str]:
        return ["low … high: 90 % bootstrap interval of lds; skill: 1 − mae / mae of `reference`"]

    def draw(self, axes: Axes) -> None:
        self.verification.draw(axes)

"""The adjoint's control variate: the table of positions, known on all coordinates, and on every sample that is replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from estimators.adjoint import independent_halves
from estimators.control_variates import control_weights
from estimators.orders.order import Order
from estimators.position_table import summed
from estimators.replay import OrderBatch
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.spec import SAMPLES, SUMS, AdjointSpec
from fut.training.weights import weighed

Half = Literal["first", "second"]
HALVES, SIGNED = 2, 3
"""Added to the expansion's seed for the draw of halves, and of the signs of the first sample (the next ones' follow)."""


class Drawn(Protocol):
    """Coordinates that were drawn: those that an expansion keeps, or the few of them with which orders are replayed."""

    @property
    def spec(self) -> AdjointSpec:
        """What the expansion is made of."""

    @property
    def indices(self) -> Tensor:
        """The coordinates, ascending [k]."""

    @property
    def probabilities(self) -> Tensor:
        """Their inclusion probabilities [k], float64."""


def part_of(drawn: Drawn, sample: str | None) -> tuple[Tensor | None, Tensor]:
    """Places among the drawn coordinates that a sample holds (None for all), and their probabilities in it, float64."""
    if sample is None:
        return None, drawn.probabilities
    first, second, either = independent_halves(drawn.probabilities, drawn.spec.config.seed + HALVES)
    places = torch.nonzero(first if sample == "first" else second).squeeze(-1)
    return places, either[places]


def weights_of(drawn: Drawn, sample: str | None) -> tuple[Tensor | None, Tensor]:
    """Places that a sample holds (None for all), and the weights [1 + SIGNS, k] of its sums."""
    places, probabilities = part_of(drawn, sample)
    seed = drawn.spec.config.seed + SIGNED + SAMPLES.index(sample)
    return places, control_weights(probabilities, seed).to(probabilities.device)


def all_weights(drawn: Drawn) -> Tensor:
    """The weights of all samples one after the other, 0 on coordinates that a sample does not hold: [3 (1 + SIGNS), k]."""
    rows = []
    for sample in SAMPLES:
        places, weights = weights_of(drawn, sample)
        spread = torch.zeros(SUMS, len(drawn.indices), dtype=torch.float64, device=weights.device)
        spread[:, slice(None) if places is None else places] = weights
        rows.append(spread)
    return torch.cat(rows)


@dataclass(frozen=True)
class Control:
    """What a sample's sums are corrected by, order by order.

    weights: of the sample's sums with random signs [SIGNS, k]. table: [T, 1 + SIGNS, items], what is missing of the sample's own
    sum of the table of positions as it is taken, then its sums with random signs, taken off; float64. reference: the
    order that nothing is added to.
    """

    weights: Tensor
    table: Tensor
    reference: Order

    def looked_up(self, batch: OrderBatch) -> Tensor:
        """What n orders' sums are corrected by, beyond the reference order's: [n, 1 + SIGNS], float64."""
        own = OrderBatch.pack([self.reference], self.table.device)
        return summed(self.table, batch) - summed(self.table, own)


class DrawnFew(Drawn, Protocol):
    """The few coordinates with which orders are replayed."""

    @property
    def sampled(self) -> Tensor:
        """As the term `sampled_positions` [T, fine * ROWS, items]."""


def control_of(expansion: Expansion, row: int, sample: str | None, few: DrawnFew | None = None) -> Control | None:
    """The control variate of a read-out; None where there is none: all coordinates are replayed, or no table of them is kept.

    few: the coordinates that are replayed; None for those that the expansion keeps.
    NotCachedError where blocks of it are missing: estimates without it would be others, and not those that were calibrated.
    """
    if row >= expansion.spec.fine or not (few or expansion.spec.controlled):
        return None
    first = SUMS * (len(SAMPLES) * row + SAMPLES.index(sample))
    expected, rows = "adjoint: expected a complete control variate", range(first, first + SUMS)
    kept = few.sampled[:, list(rows)] if few else expansion.table("sampled_positions", rows, expected)
    table = -kept.double()
    table[:, 0] += expansion.table("controlled_positions", [row], expected)[:, 0].double()
    problem = expansion.problem
    return Control(weights_of(few or expansion, sample)[1][1:], table, weighed(problem, problem.reference))

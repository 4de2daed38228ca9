"""The adjoint's control variate: the table of positions, known on all coordinates, and on every sample that is replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from estimators.adjoint import independent_halves
from estimators.control_variates import control_weights
from estimators.orders.order import Order
from estimators.position_table import summed
from estimators.replay import OrderBatch
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.spec import SAMPLES, SUMS
from fut.training.weights import weighed

Half = Literal["first", "second"]
HALVES, SIGNED = 2, 3
"""Added to the expansion's seed for the draw of halves, and of the signs of the first sample (the next ones' follow)."""


def part_of(expansion: Expansion, sample: str | None) -> tuple[Tensor | None, Tensor]:
    """Places among the kept coordinates that a sample holds (None for all), and their probabilities in it, float64."""
    if sample is None:
        return None, expansion.probabilities
    first, second, either = independent_halves(expansion.probabilities, expansion.spec.config.seed + HALVES)
    places = torch.nonzero(first if sample == "first" else second).squeeze(-1)
    return places, either[places]


def weights_of(expansion: Expansion, sample: str | None) -> tuple[Tensor | None, Tensor]:
    """Places that a sample holds (None for all), and the weights [1 + SIGNS, k] of its sums."""
    places, probabilities = part_of(expansion, sample)
    seed = expansion.spec.config.seed + SIGNED + SAMPLES.index(sample)
    return places, control_weights(probabilities, seed).to(probabilities.device)


def all_weights(expansion: Expansion) -> Tensor:
    """The weights of all samples one after the other, 0 on coordinates that a sample does not hold: [3 (1 + SIGNS), k]."""
    rows = []
    for sample in SAMPLES:
        places, weights = weights_of(expansion, sample)
        spread = torch.zeros(SUMS, len(expansion.indices), dtype=torch.float64, device=weights.device)
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


def control_of(expansion: Expansion, row: int, sample: str | None) -> Control | None:
    """The control variate of a read-out; None where the expansion has none: all coordinates are kept, or no table of them.

    NotCachedError where blocks of it are missing: estimates without it would be others, and not those that were calibrated.
    """
    if not expansion.spec.controlled or row >= expansion.spec.fine:
        return None
    first = SUMS * (len(SAMPLES) * row + SAMPLES.index(sample))
    expected = "adjoint: expected a complete control variate"
    table = -expansion.table("sampled_positions", range(first, first + SUMS), expected).double()
    table[:, 0] += expansion.table("controlled_positions", [row], expected)[:, 0].double()
    problem = expansion.problem
    return Control(weights_of(expansion, sample)[1][1:], table, weighed(problem, problem.reference))

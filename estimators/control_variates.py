"""Control variates for sums over a sample of coordinates.

What coordinates contribute to an estimate, c_d, is sampled; what they contribute to the table of positions, t_d, is summed over
all of them once, T x items numbers. So

    sum_d c_d  ~  sum_sample (c_d - b_d t_d) / p_d + sum_d b_d t_d,

unbiased whatever the table and the coefficients b_d are, and as much more accurate as c_d - b_d t_d is smaller than c_d. The
coefficients are regressions, coordinate by coordinate, and entries of the table are held within several times what
coordinates contribute in one step: to first order, a memory that is still cold answers out of all proportion. The sampling
variance,
sum_sample (c_d - b_d t_d)² (1 - p_d) / p_d², is estimated from sums with random signs s_gd,

    mean_g [ sum_sample s_gd sqrt(1 - p_d) / p_d (c_d - b_d t_d) ]²,

unbiased too: of the table such sums are look-ups as well, so that no query needs it coordinate by coordinate.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .shapes import Float

SIGNS = 16
"""Sums with random signs: the variance they give has a relative standard deviation of sqrt(2 / 16) = 0.35."""

WIDE = 10.0
"""How many times what a coordinate contributes in one step of an order an entry of the table may be: momentum spreads what a
placement does over several steps."""


def control_weights(probabilities: Float[Tensor, " k"], seed: int) -> Float[Tensor, "sums k"]:
    """Weights of a sample's sums [1 + SIGNS, k], float64: 1/p, then the signed ones; the same on every device."""
    p = probabilities.double()
    draw = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (SIGNS, len(p)), generator=draw).to(p) * 2 - 1
    return torch.cat([1 / p[None], signs * (1 - p).sqrt() / p])


def signed_variance(sums: Float[Tensor, "*n signs"]) -> Float[Tensor, "*n"]:
    """Sampling variance from the signed sums [..., SIGNS] -> [...]."""
    return sums.double().square().mean(-1)


class Bounded(NamedTuple):
    """How a table is taken, coordinate by coordinate [r, k]: its entries held within ± bound, then times share, in [0, 1]."""

    share: Float[Tensor, "r k"]
    bound: Float[Tensor, "r k"]

    @classmethod
    def of(
        cls, values: Float[Tensor, "n r k"], table: Float[Tensor, "n r k"], largest: Float[Tensor, "r k"]
    ) -> Bounded:
        """From what n orders' coordinates contribute to r estimates, and to the table's sums, both [n, r, k], and the largest
        contribution of one item in one step [r, k].

        share: the regression of the ones on the others, through zero. bound: `WIDE` times the largest. (Not the largest of an
        order's sums: placements cancel in those, at a constant rate nearly all of them.)
        """
        values, table = values.double(), table.double()
        square = table.square().sum(0)
        slope = (values * table).sum(0) / torch.where(square > 0, square, torch.ones_like(square))
        return cls(slope.nan_to_num(0.0).clamp(0.0, 1.0), WIDE * largest.double())

    def part(self, coordinates: Tensor | slice) -> Bounded:
        """The same on some of the coordinates."""
        return Bounded(self.share[..., coordinates], self.bound[..., coordinates])

    def __call__(self, entries: Float[Tensor, "r n k"]) -> Float[Tensor, "r n k"]:
        """Entries of the table [r, n, k] as they are taken."""
        bound = self.bound[:, None]
        return self.share[:, None] * entries.clamp(-bound, bound)

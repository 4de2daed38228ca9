"""Variance over uniformly random orders in closed form: of sums over positions, and of what an update rule makes of them.

    Var sum_s M[s, pi(s)] = sum_{s,i} d_si^2 / (n - 1),   d = M, centred by rows and by columns

for a uniformly random permutation pi of n items over n positions (Hoeffding 1951). A linear memory gives M[s, i] = w_s a_i,
and the variance is S_ww sum_i (a_i - mean)^2 / (n - 1). Positions of one step share its row, divided by how many they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import OrderError
from ..shapes import Float
from .kernel import Kernel

ENUMERATED = 8
"""Items up to which all permutations are gone through."""
DRAWN = 10_000
"""Permutations that are drawn of a linear statistic beyond, which costs look-ups alone."""

Product = Callable[[int | None, Tensor], Tensor]
"""(item, direction [D]) -> H_i direction [D], the Hessian of the item's loss; of the items' mean loss for None."""


def hoeffding_variance(table: Float[Tensor, "n n"]) -> float:
    """Variance of sum_s M[s, pi(s)] over uniformly random permutations.

    Args:
        table: M, a number for every position and item; OrderError unless it is square with n >= 2.

    Returns:
        The variance, in the square of the table's unit.
    """
    return float(_centred(table).square().sum() / (len(table) - 1))


def lindeberg(table: Float[Tensor, "n n"]) -> float:
    """sum |d|^3 / (n sigma^3), the Berry–Esseen quantity: far above 1 where no normal law may be presumed; 0 where sigma is."""
    centred, sd = _centred(table), hoeffding_variance(table) ** 0.5
    return float(centred.abs().pow(3).sum() / (len(table) * sd**3)) if sd else 0.0


def _centred(table: Tensor) -> Tensor:
    if table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) < 2:
        raise OrderError(
            f"order variance: expected a table of n positions and n >= 2 items, got {list(table.shape)}; spread steps of "
            "several items into their places with `by_place`"
        )
    given = table.double()
    return given - given.mean(0) - given.mean(1, keepdim=True) + given.mean()


def by_place(rows: Float[Tensor, "T n"], lengths: Sequence[int]) -> Float[Tensor, "places n"]:
    """Rows of steps as rows of places: a step of k items has k places, each with a k-th of it.

    Args:
        rows: a row for every step.
        lengths: items of every step.
    """
    counts = torch.tensor(lengths, device=rows.device)
    return (rows / counts.clamp(min=1)[:, None]).repeat_interleave(counts, dim=0)


def linear_statistic(table: Float[Tensor, "n n"], permutations: Sequence[Sequence[int]]) -> Float[Tensor, " P"]:
    """sum_s M[s, pi(s)] of every permutation [P]; pi(s) is the item at position s."""
    chosen = torch.as_tensor(np.asarray(permutations), device=table.device)
    return table[torch.arange(len(table), device=table.device), chosen].sum(-1)


def permutations_of(count: int, seed: int = 0, drawn: int = DRAWN) -> np.ndarray:
    """All permutations of up to `ENUMERATED` items [n!, n], or some drawn uniformly [drawn, n]."""
    if count <= ENUMERATED:
        return np.array(list(itertools.permutations(range(count))))
    draw = np.random.default_rng(seed)
    return np.stack([draw.permutation(count) for _ in range(drawn)])


def quantiles(table: Float[Tensor, "n n"], levels: Sequence[float], seed: int = 0) -> list[float]:
    """Quantiles of sum_s M[s, pi(s)] about its mean: exact up to `ENUMERATED` items, else of `DRAWN` permutations."""
    values = linear_statistic(table.double(), permutations_of(len(table), seed).tolist())
    found: list[float] = torch.quantile(values - values.mean(), torch.tensor(levels, dtype=torch.float64)).tolist()
    return found


@dataclass(frozen=True)
class Floor:
    """Variance over random orders by the impulse weights, first order in the learning rate.

    Args:
        trace: of the covariance of theta_T.
        shares: its part in every kernel's coordinates, by kernel.
        table: M [places, items], what every place makes of every item, in the read-out's unit; None without a read-out.
    """

    trace: float
    shares: tuple[float, ...]
    table: Float[Tensor, "places n"] | None = None

    @property
    def variance(self) -> float | None:
        """Of the read-out [its unit squared]; None without one."""
        return None if self.table is None else hoeffding_variance(self.table)


def order_floor(
    kernels: Sequence[Kernel],
    gradients: Float[Tensor, "n D"],
    lengths: Sequence[int] | None = None,
    readout: Float[Tensor, " D"] | None = None,
) -> Floor:
    """Variance over random orders by closed form, from frozen gradients alone.

    Args:
        kernels: of `impulse_kernels`, over the window's T steps.
        gradients: of the n items that are placed, at the parameters before the window, clipped over all groups where training
            clips so.
        lengths: items of every step, with n as their sum; None for one each. A step takes the mean of its items.
        readout: gradient of the read-out [D]; None for the parameters alone.

    Returns:
        The floor. It leaves out that gradients move with the parameters, and that preconditioners differ from order to order.
    """
    lengths = [1] * len(gradients) if lengths is None else lengths
    shares, tables = [], []
    for kernel in kernels:
        slope = None if readout is None else kernel.take(readout)
        share, table = _part(kernel, gradients, lengths, slope)
        shares.append(share)
        if table is not None:
            tables.append(table)
    return Floor(sum(shares), tuple(shares), torch.stack(tables).sum(0) if tables else None)


def _part(
    kernel: Kernel, gradients: Tensor, lengths: Sequence[int], slope: Tensor | None
) -> tuple[float, Tensor | None]:
    """Trace of the covariance in a kernel's coordinates, and their part of the table of places and items."""
    if kernel.averaged is None:
        weights, own = by_place(kernel.weights[:, None], lengths).to(gradients.device), kernel.potentials(gradients)
    else:
        weights, own = by_place(kernel.averaged, lengths), kernel.clipped(gradients)
    squares = (weights - weights.mean(0)).double().square().sum(0), (own - own.mean(0)).double().square().sum(0)
    trace = float((squares[0] * squares[1]).sum()) / (len(own) - 1)
    if slope is None:
        return trace, None
    by_item = -(own.double() * slope.double())
    return trace, weights.double() @ (by_item if kernel.averaged is not None else by_item.sum(-1, keepdim=True)).mT


@dataclass(frozen=True)
class BracketFloor:
    """Variance of a rule without memory at a constant rate: trace of the covariance of theta_T, fourth order in the rate.

    Args:
        linear: the part of single items, which 2 n products give.
        pairs: the rest, which takes n² products; None where it was not computed.
    """

    linear: float
    pairs: float | None

    @property
    def trace(self) -> float:
        """Of what was computed."""
        return self.linear + (self.pairs or 0.0)


def bracket_floor(gradients: Float[Tensor, "n D"], product: Product, rate: float, pairs: bool = True) -> BracketFloor:
    """What is left of the order where a rule has no memory: brackets of gradients.

    K(i, j) = H_j g_i - H_i g_j; a_i = Hbar g_i - H_i gbar; R = K - (a_i - a_j);
    tr Var = rate^4 / 4 [ n (n + 1) / 3 sum |a_i|^2 + 1/6 sum_{i != j} |R_ij|^2 ].

    Args:
        gradients: of the n items at the parameters before the window, one item a step; times the preconditioner for a rule
            that has one.
        product: Hessian-vector products there; times the preconditioner in the same way.
        rate: learning rate, constant.
        pairs: whether the sum over pairs is computed too.
    """
    count, mean, scale = len(gradients), gradients.mean(0), rate**4 / 4
    if not pairs:
        own = torch.stack([product(None, g) - product(i, mean) for i, g in enumerate(gradients)])
        return BracketFloor(scale * count * (count + 1) / 3 * float(own.square().sum()), None)
    moved = torch.stack([torch.stack([product(j, g) for j in range(count)]) for g in gradients])  # [i, j] = H_j g_i
    own = moved.mean(1) - moved.mean(0)
    rest = moved - moved.transpose(0, 1) - (own[:, None] - own[None])
    linear = scale * count * (count + 1) / 3 * float(own.square().sum())
    return BracketFloor(linear, scale * float(rest.square().sum()) / 6)

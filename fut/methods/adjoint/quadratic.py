"""The quadratic term's functionals, order by order: look-ups in a table, one for every step.

A functional c_j = <q_j, delta_T> of the final displacement needs less accuracy than the read-out itself, of which its square
is a correction: it is taken to first order in every gradient,

    c_j(order)  ~  const + sum_t <lambda_jt, g_order(t)>,

with lambda_jt the mean sensitivity of c_j to a gradient injected at step t, from the backward sweep, and item gradients
interpolated from the anchors. Linear in the gradients, it holds for steps of several items, weighted ones and empty ones. On all
coordinates it is exact; on a sample without a control variate it is weighted by 1/p, unbiased, and its sampling variance is
known from sums with random signs (`estimators.control_variates`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from estimators.adjoint import quadratic_part
from estimators.control_variates import signed_variance
from estimators.orders.order import Order
from estimators.position_table import added_up, summed
from estimators.replay import OrderBatch
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.spec import FUNCTIONAL_SIGNS, SAMPLES, SUMS, sums_of
from fut.methods.curvature_batches import OUTLYING
from fut.training.weights import weighed

CHUNK = 1 << 16
"""Coordinates that are summed at once, in double precision."""


def sample_weighted(injection: Tensor, weights: Tensor) -> Tensor:
    """Injections [m, k] on the kept coordinates as the table's rows of a sample take them: [m * sums, k].

    weights: of the samples' sums, as `control_variate.all_weights` has them, of which the first few with random signs are used.
    """
    of_sums = weights.unflatten(0, (len(SAMPLES), SUMS))[:, : 1 + FUNCTIONAL_SIGNS].flatten(0, 1)
    rows: Tensor = (injection.double()[:, None] * of_sums).flatten(0, 1)
    return rows


def weighted_by(injection: Tensor, gradients: Tensor) -> Tensor:
    """Inner products [rows, items] of injections [rows, k] and gradients [items, k], in double precision."""
    pairs = zip(injection.split(CHUNK, dim=1), gradients.split(CHUNK, dim=1), strict=True)
    return torch.stack([a.double() @ b.double().T for a, b in pairs]).sum(0)


def as_clipped(gradients: Tensor, norms: Tensor, median: Tensor, clip: float | None) -> Tensor:
    """Item gradients [n, k], those that are far longer than is usual as clipping leaves them beside the others.

    A functional is taken to first order in the gradients, with the mean sensitivity to them, in which clipping at `clip` has its
    share. It shortens a gradient that is many times longer by as much more. norms: of the whole gradients [n]; median: of all
    items' norms.
    """
    if clip is None:
        return gradients
    usual = median.clamp(min=clip)
    shares = torch.where(norms > OUTLYING * usual, usual / norms, 1.0).to(gradients.dtype)
    return gradients * shares[:, None] if (shares < 1).any() else gradients


class Response(NamedTuple):
    """How an order's functionals are read: one that adds `a` has mean + gain (a - origin), [m] each but for the gain.

    A functional that cannot be told is then read as the same for all orders, and its error is not squared.
    """

    mean: Tensor
    origin: Tensor
    gain: float


@dataclass(frozen=True)
class Bend:
    """What orders add to the functionals, and the quadratic term of that.

    table: [T, m, sums, items], float64: the functionals', then where coordinates are sampled those with random signs.
    reference: the order that nothing is added to. signs: of the functionals' squares [m]. known: the functionals of the
    reference run's true displacement [m]. members, own: orders of an ensemble's runs, and the functionals of theirs [c, m]; of a
    mixture none.
    """

    table: Tensor
    reference: Order
    signs: Tensor
    known: Tensor
    members: Sequence[Order]
    own: Tensor

    @property
    def sums(self) -> int:
        """Numbers of an order that `looked_up` gives."""
        return self.table.shape[1] * self.table.shape[2]

    def looked_up(self, batch: OrderBatch) -> Tensor:
        """What n orders add beyond the reference order: [n, m * sums], float64."""
        rows, own = self.table.flatten(1, 2), OrderBatch.pack([self.reference], self.table.device)
        return summed(rows, batch) - summed(rows, own)

    def split(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """Functionals [m], and sums with random signs [m, FUNCTIONAL_SIGNS] (none where exact), of a row of `looked_up`."""
        sums = found.unflatten(-1, self.table.shape[1:3])
        return sums[..., 0], sums[..., 1:]

    @cached_property
    def response(self) -> Response:
        """About the reference run with gain 1; of an ensemble, whose true values are known too, about the mean of all these runs,
        with the gain of the regression of true on estimated values, in common for all functionals, between 0 and 1."""
        nothing = torch.zeros_like(self.known)
        if len(self.own) < 2:
            return Response(self.known, nothing, 1.0)
        added = self.split(self.looked_up(OrderBatch.pack(self.members, self.table.device)))[0]
        true, guess = torch.cat([self.known[None], self.own]), torch.cat([nothing[None], added])
        mean, origin = true.mean(0), guess.mean(0)
        spread = (guess - origin).square().sum()
        gain = ((guess - origin) * (true - mean)).sum() / spread if spread > 0 else torch.tensor(1.0)
        return Response(mean, origin, float(gain.clamp(0, 1)))

    def read(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """½ sum_j s_j c_j² beyond the reference order's, and its sampling variance to first order, twice [n], from `looked_up`'s
        rows [n, m * sums]."""
        (added, signed), (mean, origin, gain) = self.split(found), self.response
        values, base, nothing = mean + gain * (added - origin), mean - gain * origin, torch.zeros_like(mean)
        spread = gain**2 * signed_variance(signed) if signed.numel() else torch.zeros_like(values)
        change = quadratic_part(values, spread, self.signs) - quadratic_part(base, nothing, self.signs)
        if not signed.numel():
            return change, torch.zeros_like(change)
        return change, signed_variance(gain * added_up(((self.signs * values)[..., None] * signed).mT))


def known_functionals(expansion: Expansion) -> tuple[Tensor, Tensor]:
    """Of the functionals, values along the reference run's true displacement, and signs of their squares: [m], float64."""
    read, device = expansion.sampled.read_array, expansion.problem.device
    known, signs = (torch.from_numpy(read(0, name)).to(device) for name in ("known", "signs"))
    return known, signs


def bend_of(expansion: Expansion, sample: str | None) -> Bend:
    """The functionals' table on a sample; NotCachedError where it is missing, or blocks of it are."""
    m, problem = expansion.spec.functionals, expansion.problem
    count = 1 if expansion.spec.of_all else 1 + FUNCTIONAL_SIGNS
    first = 0 if expansion.spec.of_all else count * SAMPLES.index(sample)
    rows = [j * sums_of(expansion.spec) + first + row for j in range(m) for row in range(count)]
    table = expansion.table("functionals", rows, "adjoint: expected a complete table of functionals")
    (known, signs), members, own = known_functionals(expansion), list[Order](), torch.zeros(0, m, dtype=torch.float64)
    if expansion.spec.trajectory.ensemble:
        members = [weighed(problem, order) for order in expansion.spec.trajectory.members]
        own = torch.from_numpy(expansion.sampled.read_array(0, "own")).to(problem.device)
    reference = weighed(problem, problem.reference)
    return Bend(table.unflatten(1, (m, count)), reference, signs, known, members, own)

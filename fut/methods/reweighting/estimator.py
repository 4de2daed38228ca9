"""The reweighting method and its estimator: items left out or reweighted in their own steps, about the reference run itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Literal

import torch
from torch import Tensor

from estimators.adjoint import sampling_variance
from estimators.orders.order import Order
from estimators.position_table import look_up
from estimators.replay import Listener, OrderBatch, replay
from estimators.reweighting import (
    InPlaceTransition,
    OwnGradients,
    attributions,
    own_rows,
    require_in_place,
)
from fut.errors import NotCachedError
from fut.methods.base import Capabilities, Estimator, Method, one_of
from fut.methods.context import Context
from fut.methods.curvature_batches import noise_caution, product_error
from fut.methods.reweighting.pipeline import REWEIGHTING_TERMS
from fut.methods.reweighting.terms import ReweightingFiles, open_reweighting, stored_config
from fut.readouts.readout import PROBE, shortened

Reading = Literal["replayed", "linear"]
DEFAULT_READING: Reading = "replayed"
IN_MEMORY = 1 << 29
"""Bytes of item gradients that stay in memory between orders; beyond, they are streamed step by step."""


class Reweighting(Estimator):
    """Leave-out effects: first order in curvature, and, replayed, with the true rule; no gradient per order.

    The estimate is phi(theta_T) + [a(order) - a(reference order)] with a = sum_t sum_j s_{t,j} <lambda_t, g_{t,j}>, s the
    shares of the items in their steps, over all coordinates (reading `linear`), plus the nonlinear remainder of replaying
    the true rule on those gradients, over a sample of coordinates or all of them (reading `replayed`). A step of which
    all items are left out has a zero gradient in both. A *position* is every step's linear part and every kept
    coordinate's remainder: [n, T] or [n, T + k], in double precision.
    """

    name, rebuilds = "reweighting", False

    def __init__(self, context: Context, readout: str = PROBE, reading: str = DEFAULT_READING) -> None:
        super().__init__(context, readout)
        one_of("reading", reading, Reading)
        self.is_linear = reading == "linear"
        self.terms_of = sensitivities_of(context, self.readout.name)
        self.row = self.terms_of.spec.names.index(self.readout.name)
        self.rows = own_rows(self.problem.reference, self.problem.twins)

    def caution(self) -> str:
        """Says so where a product by differences, at the last step along the read-out's slope, is noise."""
        files, problem = self.terms_of, self.problem
        if files.spec.config.products == "exact":
            return ""
        theta = files.state(files.spec.steps).theta
        item = problem.data.items[next(step for step in reversed(problem.reference.steps) if step)[0]]
        error = product_error(problem, theta, item, self.readout.gradient(theta))
        return noise_caution(error, 'reweighting.products = "exact"', f"{files.directory} (remove it)")

    def ready(self) -> None:
        _ = self.first_order

    def width(self) -> int:
        return self.problem.config.steps if self.is_linear else 3 * self.terms_of.spec.expected_coordinates

    def _read(self, name: str, step: int, row: int | None = None) -> Tensor:
        terms = self.terms_of.terms()
        found = terms.read(name, step) if row is None else terms.read_items(name, step, [row])[0]
        return torch.from_numpy(found).to(self.problem.device)

    @cached_property
    def first_order(self) -> Tensor:
        """<lambda_t, g_{t,j}> [T, n items], float64, in the read-out's unit."""
        if not self.terms_of.complete():
            raise NotCachedError(
                f"{self.name}: expected a complete expansion about the reference run, got one that was interrupted or "
                "repaired; run `fut cache RUN --terms reweighting` to finish it"
            )
        return torch.stack([self._read("value", t, self.row) for t in range(self.terms_of.spec.steps)])

    @cached_property
    def attributions(self) -> Tensor:
        """d phi / d w_j at w = 1 of every item of every step [T, n items], in the read-out's unit.

        They sum to 0 in a step, so that those of a step's only item are 0: `first_order` is what it contributes. Leaving an item
        out changes the read-out by about minus this, summed over its steps.
        """
        return attributions(self.first_order)

    @cached_property
    def _transition(self) -> InPlaceTransition:
        files, problem, indices = self.terms_of, self.problem, self.terms_of.indices
        size = files.spec.steps * files.spec.per_step * len(indices) * problem.objective.dtype.itemsize
        table = lru_cache(maxsize=None if size <= IN_MEMORY else 1)(lambda t: self._read("gradient", t))
        gram = lru_cache(maxsize=None)(lambda t: self._read("gram", t))
        return InPlaceTransition(
            problem.rule.restrict(indices),
            problem.rate,
            OwnGradients(self.rows, table, gram if problem.rule.clip is not None else None),
            lru_cache(maxsize=None)(lambda t: files.state(t).theta[indices].clone()),
            lru_cache(maxsize=None)(lambda t: self._read("weight", t, self.row)),
            lru_cache(maxsize=None)(lambda t: self._read("injection", t, self.row)),
        )

    def final_states(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        for order in orders:
            require_in_place(self.problem.canonical(order), self.rows)
        batch = self.batch(orders)
        linear = look_up(self.first_order, batch, self.rows)
        return linear if self.is_linear else torch.cat([linear, self._remainder(batch, listener)], dim=-1)

    def _remainder(self, batch: OrderBatch, listener: Listener | None) -> Tensor:
        transition, steps = self._transition, self.terms_of.spec.steps
        start = transition.start(self.terms_of.state(0).restrict(self.terms_of.indices).rows(len(batch)))
        end = replay(transition, start, batch, listener=listener)
        return transition.remainder(end, steps, self._read("weight", steps, self.row)).double()

    def values(self, states: Tensor, steps: int) -> list[float]:
        inverse = torch.ones_like(self.reference_position)
        if not self.is_linear:
            inverse[self.terms_of.spec.steps :] = 1.0 / self.terms_of.probabilities
        return [self.reference_value + ((p - self.reference_position) * inverse).sum().item() for p in states]

    def variances(self, states: Tensor) -> list[float]:
        """Variance of each estimate over the sample of coordinates, in the unit's square; 0 where all are kept."""
        if self.is_linear:
            return super().variances(states)
        remainder = (states - self.reference_position)[:, self.terms_of.spec.steps :]
        return sampling_variance(remainder, self.terms_of.probabilities).tolist()


class ReweightingMethod(Method):
    """Leave-out effects about the reference run itself; no gradient per order."""

    name, opens = "reweighting", Reweighting
    capabilities = Capabilities(
        moves_items=False, needs_smooth=True, coupling="coordinate", by_coordinate=True, swept=True
    )
    preparation = REWEIGHTING_TERMS


REWEIGHTING_METHOD = ReweightingMethod()


def sensitivities_of(context: Context, wanted: str) -> ReweightingFiles:
    """The run's expansion about its reference run, if its adjoint pass was for the read-out; else NotCachedError."""
    files, name = open_reweighting(context) if stored_config(context) else None, Reweighting.name
    option = "" if wanted == PROBE else f" --readouts {wanted}"
    command = f"fut cache RUN --terms reweighting{option}"
    if files is None:
        raise NotCachedError(f"{name}: expected the run's expansion about its reference run, got none; run `{command}`")
    if wanted not in files.spec.names:
        raise NotCachedError(
            f"{name}: expected an adjoint pass computed for the read-out `{wanted}`, got one for {shortened(files.spec.names)}; "
            f"remove {files.directory}, then run `fut cache RUN --terms reweighting --readouts "
            f"{','.join([*files.spec.config.readouts, wanted])}`"
        )
    return files

"""What a query takes in memory at its height: the tables that an estimator loads, and the states of the orders it replays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fut.methods.adjoint.control_variate import SUMS
from fut.methods.adjoint.estimator import CACHED, MINIMUM
from fut.methods.adjoint.quadratic import sums_of
from fut.methods.batching import batch_size
from fut.methods.footprint import TEMPORARIES, Footprint, hashes

TABLES_KEPT = 4
"""Checkpoints of one term in memory at once: the last three, and the one being read."""


@dataclass(frozen=True)
class QueryFootprint:
    """Peaks of queries [bytes beyond the process's start], in the units of a run's footprint."""

    of: Footprint

    def adjoint_tables(self) -> int:
        """Bytes of the adjoint's terms in memory, and of the largest of them once more while it is stacked."""
        e, width = self.of.expansion, self.of.theta.element_size()
        k, items = e.expected_coordinates, e.problem.config.data.items
        gradient = len(e.anchors) * items * (k + 1)
        row = (e.steps + 1) * k  # of the centre, and of the read-out's weights
        row += len(e.curvatures) * e.rank * k + bool(e.rank) * (len(e.anchors) + e.steps) * k
        bend = 2 * e.functionals * sums_of(e) * e.steps * items
        control = 2 * SUMS * (e.steps * items + k) if e.controlled else 0
        return width * (gradient + 2 * row + max(gradient, row)) + 8 * (control + bend)

    def pairwise_tables(self, names: Sequence[str]) -> int:
        """Bytes of the named terms of the checkpoints that are in memory at once."""
        sizes = {s.name: s.shape[1] * s.shape[2] for s in self.of.layout.specs()} if names else {}
        return TABLES_KEPT * self.of.theta.element_size() * sum(sizes[n] for n in names)

    def adjoint(self, orders: int) -> int:
        """The adjoint: all its tables, and for every order of a batch the states and sums of a block of coordinates, the latter
        in double precision, and a position."""
        of, width = self.of, self.of.theta.element_size()
        k = of.expansion.expected_coordinates
        batch = min(orders, batch_size(2 * k))
        coupled = of.problem.rule.clip is not None or of.expansion.rank
        block = k if coupled else min(k, max(MINIMUM, CACHED // batch))
        replayed = block * ((2 * of.state + 1 + 5 * bool(of.expansion.rank)) * width + 24) + 8 * SUMS * (
            2 * k // MINIMUM + 1
        )
        reference = 2 * k * width + 24 * k
        opened = of.resident + of.state * of.vector
        return of.planned(opened + max(of.evaluation, self.adjoint_tables() + batch * replayed + reference))

    def other(self, name: str, needs: Sequence[str]) -> int:
        """One order by another estimator: the tables it streams, its own state, and its read-out."""
        of = self.of
        held = of.resident + 2 * of.state * of.vector + self.pairwise_tables(needs)
        step = (2 * of.state + TEMPORARIES) * of.vector
        if name == "replay-exact":
            return of.planned(held + 2 * of.vector + max(of.exact_product, of.gradient, step, of.evaluation))
        linear = None if name == "reference" else of.layout.sample if name == "replay" else of.layout.sketch
        if linear is None or linear.kind == "identity":
            return of.planned(held + max(step, of.evaluation))
        return of.planned(held + max(step, of.probe_gradient + hashes(linear)))

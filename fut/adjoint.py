"""The adjoint estimator on a run's expansion: goal-oriented replay about the centre, offset by the reference order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from estimators.adjoint import Anchored, AnchoredGradients, DualTransition, sampling_variance
from estimators.errors import OrderError
from estimators.order import Order
from estimators.replay import Listener, RuleTransition, replay
from estimators.state import State

from .errors import NotCachedError, UsageError
from .estimator import Estimator, Reference, expansion_of
from .expansion import Expansion

CACHED, MINIMUM = 1 << 16, 512
"""Numbers of one buffer that a batch replays at once, and the least width of a block."""


class Adjoint(Estimator):
    """Exact to first order in curvature, with no gradient per order.

    The estimate is phi(theta_T) + [a(order) - a(reference order)], where a is the dual-weighted read-out about the centre
    and phi(theta_T) the read-out's true value at the reference endpoint: the reference order, and any order that trains on
    the same content, gives the reference exactly. A *position* is what every sampled coordinate contributes to a: [n, k].
    """

    name = "adjoint"

    def __init__(self, reference: Reference) -> None:
        super().__init__(reference)
        self.expansion: Expansion = expansion_of(reference, self.name)
        self.row = self.expansion.names.index(reference.readout.name)

    @cached_property
    def _tables(self) -> dict[str, Tensor]:
        """What is replayed, in memory, by name: [steps, items, k]; of the weights, the read-out's own row alone."""
        terms, rows = self.expansion.terms(), {"gradient": None, "norm": None, "centre": None, "weight": [self.row]}
        missing = terms.missing(list(rows))
        if missing:
            raise NotCachedError(
                f"adjoint: expected a complete expansion, got one with {len(missing)} blocks missing; run `fut cache RUN`"
            )

        def read(name: str, step: int) -> Tensor:
            chosen = rows[name]
            found = terms.read(name, step) if chosen is None else terms.read_items(name, step, chosen)
            return torch.from_numpy(found)

        return {
            spec.name: torch.stack([read(spec.name, t) for t in range(spec.shape[0])]).to(self.problem.device)
            for spec in terms.specs
            if spec.name in rows
        }

    @property
    def rebuilds(self) -> bool:
        return False

    def ready(self) -> None:
        assert self._tables

    def width(self) -> int:
        return 2 * len(self.expansion.indices)

    def _transition(self, block: slice) -> DualTransition:
        """The replay on a block of the sampled coordinates."""
        tables, expansion = self._tables, self.expansion
        gradients = Anchored(expansion.anchors, lambda a: tables["gradient"][a, :, block])
        norms = None
        if len(expansion.indices) < self.problem.objective.size:
            norms = Anchored(expansion.anchors, lambda a: tables["norm"][a])
        inner = RuleTransition(
            self.problem.rule,
            self.problem.rate,
            AnchoredGradients(gradients, norms, 1.0 / expansion.probabilities[block]),
        )
        return DualTransition(inner, lambda t: tables["centre"][t, 0, block], lambda t: tables["weight"][t, :, block])

    def _blocks(self, orders: int) -> list[slice]:
        """Coordinates replayed together: as many as stay in a core's cache, all where clipping needs the whole norm."""
        size = len(self.expansion.indices)
        width = size if self.problem.rule.clip is not None else max(MINIMUM, CACHED // orders)
        return [slice(first, min(first + width, size)) for first in range(0, size, width)]

    def positions(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        steps = self.problem.config.steps
        if any(len(order) != steps for order in orders):
            raise OrderError(
                f"adjoint: expected orders of {steps} steps, the length its read-out was swept for, got "
                f"{min(len(o) for o in orders)}; leave a step empty ([]) in place of dropping it, or use --estimator replay"
            )
        start, batch, parts = self.reference.state(0).restrict(self.expansion.indices), self.batch(orders), []
        for block in (blocks := self._blocks(len(orders))):
            transition = self._transition(block)
            here = State(start.theta[block], {k: b[block] for k, b in start.memory.items()}, start.clock)
            begun = transition.start(here.rows(len(orders)), 1)
            end = replay(transition, begun, batch, listener=listener if block is blocks[-1] else None)
            parts.append(transition.contributions(end, steps, self._tables["weight"][steps, :, block])[:, 0])
        return torch.cat(parts, dim=-1)

    @cached_property
    def _own(self) -> Tensor:
        """Contributions of the reference order [k]."""
        return self.positions([self.problem.reference])[0]

    def losses(self, positions: Tensor, steps: int) -> list[float]:
        inverse = 1.0 / self.expansion.probabilities
        return [self.reference.loss + ((p - self._own).double() * inverse).sum().item() for p in positions]

    def variances(self, positions: Tensor) -> list[float]:
        """Variance of each estimate over the sample of coordinates, in the unit's square; 0 where all are kept."""
        difference = positions - self._own
        return sampling_variance(difference, self.expansion.probabilities).tolist()

    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        raise UsageError(
            "adjoint: expected an estimator that rebuilds parameters, got one that estimates the read-out alone; "
            "use --estimator replay-exact or retrain for an endpoint"
        )

"""The adjoint estimator on a run's expansion: goal-oriented replay about the centre, offset by the reference order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from estimators.adjoint import Anchored, DualTransition, sampling_variance
from estimators.errors import OrderError
from estimators.order import Order
from estimators.replay import CachedGradients, Listener, RuleTransition, replay

from .errors import NotCachedError, UsageError
from .estimator import Estimator, Reference
from .expansion import Expansion
from .terms import TermTables


class Adjoint(Estimator):
    """Exact to first order in curvature, with no gradient per order.

    The estimate is phi(theta_T) + [a(order) - a(reference order)], where a is the dual-weighted read-out about the centre
    and phi(theta_T) the reference run's true loss: the reference order, and any order that trains on the same content,
    gives the reference exactly. A *position* is what every sampled coordinate contributes to a: [n, k].
    """

    name = "adjoint"

    def __init__(self, reference: Reference) -> None:
        super().__init__(reference)
        if reference.expansion is None:
            raise NotCachedError(
                "adjoint: expected the run's expansion about its centre, got none; run `fut cache RUN` first"
            )
        self.expansion: Expansion = reference.expansion

    @cached_property
    def _tables(self) -> TermTables:
        terms = self.expansion.terms()
        missing = terms.missing()
        if missing:
            raise NotCachedError(
                f"adjoint: expected a complete expansion, got one with {len(missing)} blocks missing; run `fut cache RUN`"
            )
        return TermTables(terms, self.problem.device)

    @property
    def rebuilds(self) -> bool:
        return False

    def ready(self) -> None:
        assert self._tables

    def width(self) -> int:
        return 2 * len(self.expansion.indices)

    @cached_property
    def _transition(self) -> DualTransition:
        tables, expansion = self._tables, self.expansion
        anchored = Anchored(expansion.anchors, tables["gradient"])
        norms = Anchored(expansion.anchors, tables["norm"])
        sampled = len(expansion.indices) < self.problem.objective.size
        gradients = (
            CachedGradients(anchored, lambda t: norms(t).squeeze(-1), 1.0 / expansion.probabilities)
            if sampled
            else CachedGradients(anchored)
        )
        inner = RuleTransition(self.problem.rule, self.problem.rate, gradients)
        return DualTransition(inner, lambda t: tables["centre"](t)[0], tables["weight"])

    def positions(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        steps = self.problem.config.steps
        if any(len(order) != steps for order in orders):
            raise OrderError(
                f"adjoint: expected orders of {steps} steps, the length its read-out was swept for, got "
                f"{min(len(o) for o in orders)}; leave a step empty ([]) in place of dropping it, or use --estimator replay"
            )
        start = self.reference.state(0).restrict(self.expansion.indices).rows(len(orders))
        transition = self._transition
        end = replay(transition, transition.start(start, 1), self.batch(orders), listener=listener)
        return transition.contributions(end, steps, self._tables["weight"](steps))[:, 0]

    @cached_property
    def _own(self) -> Tensor:
        """Contributions of the reference order [k]."""
        return self.positions([self.problem.reference])[0]

    def losses(self, positions: Tensor, steps: int) -> list[float]:
        inverse = 1.0 / self.expansion.probabilities
        return [self.reference.loss + ((p - self._own).double() * inverse).sum().item() for p in positions]

    def variances(self, positions: Tensor) -> list[float]:
        """Variance of each estimate over the sample of coordinates [nats²]; 0 where all are kept."""
        difference = positions - self._own
        return sampling_variance(difference, self.expansion.probabilities).tolist()

    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        raise UsageError(
            "adjoint: expected an estimator that rebuilds parameters, got one that estimates the read-out alone; "
            "use --estimator replay-exact or retrain for an endpoint"
        )

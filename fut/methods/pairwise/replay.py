"""The baseline, and replay of the true rule: with gradients of the reference run, or with exact curvature."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from estimators.orders.order import Order
from estimators.replay import CachedGradients, CurvedGradients, Listener, RuleTransition, Transition, replay
from estimators.sketch import Sketch
from fut.errors import UsageError
from fut.methods.base import Estimator, Reading, one_of
from fut.methods.context import Context
from fut.methods.coupling import UNCUT, require_mean_gradient, require_uncut
from fut.methods.pairwise.store import Streamed, term_layout
from fut.methods.pairwise.terms import NEEDS
from fut.readouts.readout import PROBE
from fut.training.problem import Problem, stacks
from fut.training.stepwise import Stepwise


class ReplayExact(Estimator):
    """Replay of order 1 with exact Hessian-vector products at query time: the oracle, slower than retraining."""

    name = "replay-exact"

    def __init__(self, context: Context, readout: str = PROBE) -> None:
        super().__init__(context, readout)
        if "curvature" in self.problem.rule.signals:
            require_mean_gradient(self.problem, self.name)

    def final_states(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        problem, state = self.problem, self.context.state

        def curved(at: Problem) -> CurvedGradients:
            return CurvedGradients(lambda t: state(t).theta, at.gradient, at.product, at.mean_gradient)

        gradients = Stepwise(problem, curved)
        transition = RuleTransition(problem.rule, problem.rate, gradients)
        return replay(transition, state(0).rows(len(orders)), self.batch(orders), listener=listener).theta


class Replay(Streamed):
    """Replay of order 0: the true rule on item gradients taken at the reference run's checkpoints.

    Where training took several items in one pass, the reference order's own replay differs from the reference run by
    rounding; every position is shifted by that difference, so that the reference order is answered exactly.

    With all coordinates stored the endpoint is rebuilt and the read-out evaluated there; with a sample of them it
    is read linearly, phi(theta_T) + <grad phi, delta>, unbiased over the sample.
    """

    name = "replay"
    needs = NEEDS["replay"]

    def __init__(self, context: Context, readout: str = PROBE, reading: Reading | None = None) -> None:
        super().__init__(context, readout)
        require_mean_gradient(self.problem, self.name)
        self.sample: Sketch = term_layout(context).sample
        self.full = self.rebuilds = self.sample.kind == "identity"
        require_uncut(self.problem, "replay", self.sample.size, UNCUT)
        one_of("reading", reading, Reading)
        if not self.full and reading == "evaluated":
            raise UsageError("replay: expected all coordinates for an evaluated read-out, got a sample; use linear")
        self.reading: Reading = reading or ("evaluated" if self.full else "linear")

    def width(self) -> int:
        return self.sample.size

    def transition(self) -> Transition:
        tables, rule = self.tables, self.problem.rule
        if self.full:
            gradients = CachedGradients(tables["gradient"])
        else:
            rule = rule.restrict(self.sample.indices)
            weight = self.sample.dimension / self.sample.size
            gradients = CachedGradients(tables["gradient"], lambda t: tables["norm"](t).squeeze(-1), weight)
        return RuleTransition(rule, self.problem.rate, gradients)

    def final_states(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        start = self.context.state(0)
        start = start if self.full else start.restrict(self.sample.indices)
        if not stacks(self.problem):
            return replay(self.transition(), start.rows(len(orders)), self.batch(orders), listener=listener).theta
        steps = len(orders[0])
        batch = self.batch([*orders, Order(self.problem.reference.steps[:steps])])
        ends = replay(self.transition(), start.rows(len(batch)), batch, listener=listener).theta
        theta, reference = self.context.state(steps).theta, ends[-1]
        theta = theta if self.full else self.sample.restrict(theta)
        return torch.where(ends[:-1] == reference, theta, ends[:-1] + (theta - reference))

    def values(self, states: Tensor, steps: int) -> list[float]:
        if self.reading == "evaluated":
            return super().values(states, steps)
        theta = self.context.state(steps).theta
        slope = self.sample.restrict(self.readout.gradient(theta))
        weight = self.sample.dimension / self.sample.size
        return self.linear(steps, weight * slope, states - self.sample.restrict(theta))

    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        if self.full:
            return position
        raise UsageError(
            f"replay: expected all {self.sample.dimension} coordinates for an endpoint, got a sample of {self.sample.size}; "
            "set cache.coordinates=0 and cache again, or use --estimator replay-exact"
        )

"""The baseline: every order ends like the reference order."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from estimators.orders.order import Order
from estimators.replay import Listener
from fut.methods.base import Capabilities, Estimator, Method
from fut.methods.settings import Config
from fut.methods.timings import StageCost, Timings
from fut.training.problem import Problem


class ReferenceEstimator(Estimator):
    """Every order ends like the reference: the baseline."""

    name = "reference"

    def final_states(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        return self.context.state(self.problem.config.steps).theta.expand(len(orders), -1)

    def values(self, states: Tensor, steps: int) -> list[float]:
        return [self.reference_value] * len(states)


class Reference(Method):
    """Every order ends like the reference."""

    name, opens, place = "reference", ReferenceEstimator, -2
    capabilities = Capabilities(any_length=True, rebuilds=True, baseline=True)

    def query(self, problem: Problem, config: Config, timings: Timings, orders: int = 1) -> StageCost:
        return StageCost("query: reference", 0, 0.0, 0, 0, *timings.footprint.split(timings.footprint.query()))


REFERENCE = Reference()

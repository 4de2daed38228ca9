"""The baseline: every order ends like the reference order."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from estimators.orders.order import Order
from estimators.replay import Listener
from fut.methods.base import Estimator


class ReferenceEstimator(Estimator):
    """Every order ends like the reference: the baseline."""

    name = "reference"

    def positions(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        return self.context.state(self.problem.config.steps).theta.expand(len(orders), -1)

    def losses(self, positions: Tensor, steps: int) -> list[float]:
        return [self.reference_value] * len(positions)

    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        return position

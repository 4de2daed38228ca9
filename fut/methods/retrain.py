"""The truth: every order is retrained, or recalled where it has been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from estimators.orders.order import Order
from estimators.replay import Listener
from fut.methods.base import Capabilities, Estimator, Method
from fut.methods.context import Context
from fut.methods.settings import Config
from fut.methods.timings import StageCost, Timings
from fut.training.problem import Problem


class Retrained(Estimator):
    """Parameters that each order has really led to."""

    name = "retrain"

    def final_states(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        return torch.stack([self.context.retrain(order, listener).theta for order in orders])


class Retrain(Method):
    """Training itself."""

    name, opens = "retrain", Retrained
    capabilities = Capabilities(any_length=True, rebuilds=True, trains=True, exact_curvature=True)

    def gradients_per_order(self, context: Context, options: Mapping[str, str]) -> int:
        return context.config.consumed

    def query(self, problem: Problem, config: Config, timings: Timings, orders: int = 1) -> StageCost:
        """Training so many orders; their endpoints are kept."""
        footprint, count = timings.footprint, orders * problem.config.consumed
        nbytes, peak = orders * footprint.vector, footprint.training()
        return StageCost("one retraining", count, timings.training(orders), nbytes, 0, *timings.footprint.split(peak))


RETRAIN = Retrain()

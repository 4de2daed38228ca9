"""The positions estimator: every order as a sum of look-ups in the first-order table of the run's expansion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from estimators.errors import OrderError
from estimators.orders.order import Order
from estimators.position_table import look_up
from estimators.replay import Listener
from fut.errors import NotCachedError
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.identity import expansion_of
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.adjoint.sweep import curvature_caution
from fut.methods.base import Estimator
from fut.methods.context import Context
from fut.readouts.readout import PROBE


def table_name(spec: AdjointSpec) -> str:
    """The term that has the table: bounded by coordinate where tables are of all coordinates, else as it comes."""
    return "controlled_positions" if spec.of_all else "positions"


class Positions(Estimator):
    """First order in every single placement, blind to how placements act on one another: T look-ups an order.

    The estimate is phi(theta_T) + sum_s [M[s, order(s)] - M[s, reference(s)]], M about the trajectory: the reference order, and
    any order that trains on the same content, gives the reference exactly. A *position* is every step's value: [n, T].
    """

    name, rebuilds = "positions", False

    def __init__(self, context: Context, readout: str = PROBE, *, expansion: Expansion | None = None) -> None:
        """expansion: one to be read in place of the run's own."""
        super().__init__(context, readout)
        self.expansion: Expansion = expansion or expansion_of(context, self.readout.name, self.name)
        self.row = self.expansion.spec.names.index(self.readout.name)
        if self.row >= self.expansion.spec.fine:
            raise NotCachedError(
                f"positions: expected a read-out with an exact adjoint pass, got `{self.readout.name}`, of which there is no "
                "table; set adjoint.num_exact_readouts=0 and cache anew, or use --estimator adjoint"
            )

    @cached_property
    def table(self) -> Tensor:
        """M [T, items], float64, in the read-out's unit; each step's values up to a constant of the step."""
        name = table_name(self.expansion.spec)
        return self.expansion.table(name, [self.row], "positions: expected a complete table")[:, 0]

    def ready(self) -> None:
        _ = self.table

    def caution(self) -> str:
        return curvature_caution(self.expansion)

    def seen(self, orders: Sequence[Order]) -> list[Order]:
        """Whole orders: of a read-out that is taken before the end, what comes later has weight 0."""
        return list(orders)

    def width(self) -> int:
        return self.problem.config.steps

    def final_states(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        steps = self.problem.config.steps
        for order in orders:
            if len(order) != steps or not all(order.steps):
                self._refuse(len(order), sum(not step for step in order.steps))
        batch = self.batch(orders)
        idle = (batch.weights.sum(-1) == 0).sum(-1)  # steps whose items are all left out train as empty ones do
        if idle.any():
            self._refuse(steps, int(idle.max()))
        return look_up(self.table, batch)

    def _refuse(self, steps: int, empty: int) -> NoReturn:
        raise OrderError(
            f"positions: expected orders of {self.problem.config.steps} steps with an item in each, got {steps} steps, "
            f"{empty} of them empty; use --estimator adjoint or replay"
        )

    def values(self, states: Tensor, steps: int) -> list[float]:
        total = torch.zeros_like(states[:, 0])
        for column in (states - self.reference_position).unbind(
            -1
        ):  # step by step, so that no order depends on its batch
            total = total + column
        return (self.reference_value + total).tolist()


def position_table(context: Context, readout: str = PROBE) -> np.ndarray:
    """What putting an item at a step does to a read-out, to first order: [T, items], in its unit; entries of one step
    compare with one another."""
    return Positions(context, readout).table.cpu().numpy()

"""What every estimator is: orders in, final positions out, and the losses and parameters read off those."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from estimators.orders.order import Order
from estimators.replay import Listener, OrderBatch
from fut.errors import UsageError
from fut.methods.context import Context
from fut.readouts.readout import PROBE, ReadOut
from fut.resources.device import computes

Reading = Literal["linear", "evaluated"]
"""How a read-out is taken off a position: by its gradient at the reference, or really evaluated."""


@computes
class Estimator(ABC):
    """Orders of equal length in, one final position each out, and the losses read off those.

    A *position* is what the replay carries: parameters [n, D], or the displacement from the reference run in a
    sketch's coordinates [n, k].
    """

    name: ClassVar[str]
    in_place: ClassVar[bool] = False  # answers weights of items in their own steps, and no order that moves one

    def __init__(self, context: Context, readout: str = PROBE) -> None:
        """context: the run. readout: the read-out's name; see `fut.readouts`."""
        self.context, self.problem = context, context.problem
        self.readout: ReadOut = context.readouts.get(readout)
        self.reference_value = context.readouts.at_reference(self.readout)

    def value_at(self, step: int) -> float:
        """phi(theta_step) of the reference run, in the read-out's unit: as known at the end, evaluated before."""
        steps = self.problem.config.steps
        return self.reference_value if step == steps else self.readout.value(self.context.state(step).theta)

    def linear(self, step: int, slope: Tensor, displacements: Tensor) -> list[float]:
        """phi(theta_step) + <slope, displacement>: exactly phi(theta_step) where the displacement is zero."""
        base = self.value_at(step)
        return [base + (d.double() @ slope.double()).item() for d in displacements]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        computes(cls)

    @property
    def device(self) -> torch.device:
        return self.problem.device

    @abstractmethod
    def positions(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        """Final positions of n orders of equal length; the listener hears of every step."""

    @abstractmethod
    def losses(self, positions: Tensor, steps: int) -> list[float]:
        """phi, in the read-out's unit, at each position after `steps` steps."""

    @abstractmethod
    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        """Parameters [D] at a position after `steps` steps."""

    def variances(self, positions: Tensor) -> list[float]:
        """Known sampling variance of each estimate, in the unit's square; 0 where nothing was sampled."""
        return [0.0] * len(positions)

    def own_error(self) -> float | None:
        """Standard deviation of estimate minus truth over the real runs that the estimator is made of, in its unit; None where it
        is made of none."""
        return None

    @property
    def rebuilds(self) -> bool:
        """Whether positions can be turned into parameters."""
        return True

    def caution(self) -> str:
        """What it knows of itself that speaks against its estimates on this run; empty for nothing."""
        return ""

    def share(self, other: Estimator) -> None:  # noqa: B027
        """Hold in memory only once what another estimator of the same run, of another read-out, holds already."""

    def ready(self) -> None:  # noqa: B027
        """NotCachedError, naming the command to run, if a store lacks what this estimator reads."""

    def width(self) -> int:
        """Numbers per order that a batch keeps in memory, for the choice of the batch's size."""
        return self.problem.objective.size

    def batch(self, orders: Sequence[Order]) -> OrderBatch:
        return OrderBatch.pack([self.problem.canonical(order) for order in orders], self.problem.device)


def one_of(option: str, value: str | None, choices: object) -> None:
    if value is not None and value not in get_args(choices):
        raise UsageError(f"{option}: expected one of {', '.join(get_args(choices))}, got `{value}`; correct the option")

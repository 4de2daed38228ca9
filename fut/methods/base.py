"""What every estimator is: orders in, final positions out, and the losses and parameters read off those."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from torch import Tensor

from estimators.orders.order import Order
from estimators.replay import Listener, OrderBatch
from estimators.state import State
from fut.errors import NotCachedError, UsageError
from fut.methods.pairwise.terms import TermLayout, TermTables
from fut.readouts.readout import PROBE, ReadOut, caching_command, shortened
from fut.training.problem import Problem

if TYPE_CHECKING:
    from fut.methods.adjoint.pipeline import Expansion
    from fut.methods.lowrank.terms import Base
    from fut.methods.reweighting.terms import Sensitivities


Reading = Literal["linear", "evaluated"]
"""How a read-out is taken off a position: by its gradient at the reference, or really evaluated."""


@dataclass(frozen=True)
class Reference:
    """What the estimators know about the reference run: its checkpoints, streamed, and its terms, if cached.

    readout: what is asked for. loss: its value at the end of the reference run, in its unit.
    """

    problem: Problem
    layout: TermLayout
    state: Callable[[int], State]
    loss: float
    tables: TermTables
    readout: ReadOut
    expansion: Expansion | None = None
    base: Base | None = None
    sensitivities: Sensitivities | None = None

    def loss_at(self, step: int) -> float:
        """phi(theta_step), in the read-out's unit: as known at the end of the run, evaluated before."""
        return self.loss if step == self.problem.config.steps else self.readout.value(self.state(step).theta)

    def linear(self, step: int, slope: Tensor, displacements: Tensor) -> list[float]:
        """phi(theta_step) + <slope, displacement>: exactly phi(theta_step) where the displacement is zero."""
        base = self.loss_at(step)
        return [base + (d.double() @ slope.double()).item() for d in displacements]


class Estimator(ABC):
    """Orders of equal length in, one final position each out, and the losses read off those.

    A *position* is what the replay carries: parameters [n, D], or the displacement from the reference run in a
    sketch's coordinates [n, k].
    """

    name: ClassVar[str]
    in_place: ClassVar[bool] = False  # answers weights of items in their own steps, and no order that moves one

    def __init__(self, reference: Reference, needs: tuple[str, ...] = ()) -> None:
        self.reference, self.problem = reference, reference.problem
        self.needs = needs

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

    def ready(self) -> None:
        """NotCachedError, naming the command to run, if the store lacks a term that this estimator replays."""
        term_tables(self.reference, self)

    def width(self) -> int:
        """Numbers per order that a batch keeps in memory, for the choice of the batch's size."""
        return self.problem.objective.size

    def batch(self, orders: Sequence[Order]) -> OrderBatch:
        return OrderBatch.pack([self.problem.canonical(order) for order in orders], self.problem.device)


def one_of(option: str, value: str | None, choices: object) -> None:
    if value is not None and value not in get_args(choices):
        raise UsageError(f"{option}: expected one of {', '.join(get_args(choices))}, got `{value}`; correct the option")


def expansion_of(reference: Reference, name: str) -> Expansion:
    """The run's expansion, if it was swept for the read-out; else NotCachedError, naming the commands that make it so."""
    expansion, wanted = reference.expansion, reference.readout.name
    if expansion is None:
        asked = "fut cache RUN" if wanted == PROBE else caching_command([PROBE, wanted])
        raise NotCachedError(f"{name}: expected the run's expansion about its centre, got none; run `{asked}` first")
    if not expansion.readable:
        raise NotCachedError(
            f"{name}: expected the run's expansion, got {expansion.directory}, which is not finished; repeat `fut cache RUN`"
        )
    if wanted not in expansion.names:
        raise NotCachedError(
            f"{name}: expected an expansion swept for the read-out `{wanted}`, got one for {shortened(expansion.names)}; "
            f"remove {expansion.directory}, then run `{caching_command([*expansion.config.readouts, wanted])}`; or use "
            "--estimator replay-exact"
        )
    return expansion


def term_tables(reference: Reference, estimator: Estimator) -> TermTables:
    missing = [name for name in estimator.needs if not reference.tables.complete(name)]
    if missing:
        raise NotCachedError(
            f"{estimator.name}: expected the terms {', '.join(estimator.needs)} for every checkpoint and item, "
            f"got an incomplete store (missing or unfinished: {', '.join(missing)}); run `fut cache RUN` first"
        )
    return reference.tables

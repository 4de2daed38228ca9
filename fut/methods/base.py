"""What a method is, before and after it is opened on a run; an opened one is an estimator: orders in, figures out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from estimators.orders.order import Order
from estimators.parameters import Coupling
from estimators.replay import Listener, OrderBatch
from fut.artifacts.directory import directory_bytes
from fut.errors import UsageError
from fut.methods.context import Context
from fut.methods.footprint import Footprint
from fut.methods.settings import Config
from fut.methods.stages import LESS, Preparation
from fut.methods.timings import StageCost, Timings
from fut.readouts.readout import PROBE, Readout
from fut.resources.device import computes
from fut.training.problem import Problem
from fut.training.weights import weighed

Reading = Literal["linear", "evaluated"]
"""How a read-out is taken off a position: by its gradient at the reference, or really evaluated."""


@computes
class Estimator(ABC):
    """Orders of equal length in, one final position each out, and the losses read off those.

    A *position* is what the replay carries: parameters [n, D], or the displacement from the reference run in a
    sketch's coordinates [n, k].
    """

    name: ClassVar[str]
    rebuilds: bool = True  # whether positions can be turned into parameters
    half: str | None = None  # one of two independent halves of the sampled coordinates, where only that one is read

    def __init__(self, context: Context, readout: str = PROBE) -> None:
        """context: the run. readout: the read-out's name; see `fut.readouts`."""
        self.context, self.problem = context, context.problem
        self.readout: Readout = context.readouts.get(readout)
        self.reference_value = context.readouts.at_reference(self.readout)

    def linear(self, step: int, slope: Tensor, displacements: Tensor) -> list[float]:
        """phi(theta_step) + <slope, displacement>: exactly phi(theta_step) where the displacement is zero."""
        last = step == self.problem.config.steps  # where the read-out is known
        base = self.reference_value if last else self.readout.value(self.context.state(step).theta)
        return [base + (d.double() @ slope.double()).item() for d in displacements]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        computes(cls)

    @abstractmethod
    def final_states(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        """Final positions of n orders of equal length; the listener hears of every step."""

    def values(self, states: Tensor, steps: int) -> list[float]:
        """phi, in the read-out's unit, at each position after `steps` steps; evaluated, where positions are parameters."""
        return [self.readout.value(theta) for theta in states]

    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        """Parameters [D] at a position after `steps` steps; UsageError where it rebuilds none."""
        if self.rebuilds:
            return position
        raise UsageError(
            f"{self.name}: expected an estimator that rebuilds parameters, got one that estimates the read-out alone; "
            "use --estimator replay-exact or retrain for an endpoint"
        )

    def variances(self, states: Tensor) -> list[float]:
        """Known sampling variance of each estimate, in the unit's square; 0 where nothing was sampled."""
        return [0.0] * len(states)

    def own_error(self) -> float | None:
        """Standard deviation of estimate minus truth over the real runs that the estimator is made of, in its unit; None where it
        is made of none."""
        return None

    def own_runs(self) -> tuple[float, float] | None:
        """`own_error`, and the standard deviation of the truth over those runs; None where it is made of none."""
        return None

    @property
    def sampled(self) -> bool:
        """Whether an estimate has a sampling error over coordinates, and independent halves of them can be asked for."""
        return False

    @property
    def judge(self) -> dict[str, str] | None:
        """Options with which the method has no sampling error, to judge what was chosen with one; None where there are none."""
        return None

    def reconstruction(self) -> tuple[float, float] | None:
        """Measured and expected relative error with which it rebuilds parameters from a sketch; None where it has none."""
        return None

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

    @cached_property
    def reference_position(self) -> Tensor:
        """Position of the reference order."""
        return self.final_states([self.problem.reference])[0]

    def seen(self, orders: Sequence[Order]) -> list[Order]:
        """What of orders it is asked about: of a read-out that is taken before the end, their first steps."""
        return [self.readout.seen(order) for order in orders]

    def batch(self, orders: Sequence[Order]) -> OrderBatch:
        return OrderBatch.pack([weighed(self.problem, order) for order in orders], self.problem.device)


@dataclass(frozen=True)
class Capabilities:
    """What a method can be asked.

    Args:
        moves_items: orders that move items; else weights of items in their own steps alone.
        empty_steps: orders with a step of which nothing is trained.
        any_length: orders of other lengths than the window's.
        rebuilds: parameters at the end of an order.
        needs_smooth: it takes a rule with a derivative.
        coupling: the widest coupling of a rule's coordinates that it treats as it stands, on a sample of coordinates too.
        by_coordinate: it takes rules whose memory is a number for every parameter.
        metric: it takes rules whose step per unit of gradient is a number for every parameter.
        trains: it gives the truth, by training.
        baseline: it says the same of every order.
        exact_curvature: it takes curvature at query time, and is trusted where first-order figures err.
        swept: it answers those read-outs alone that were asked for when it was prepared.
        early: it answers read-outs that are taken before the end, of whole orders.
    """

    moves_items: bool = True
    empty_steps: bool = True
    any_length: bool = False
    rebuilds: bool = False
    needs_smooth: bool = False
    coupling: Coupling = "global"
    by_coordinate: bool = False
    metric: bool = False
    trains: bool = False
    baseline: bool = False
    exact_curvature: bool = False
    swept: bool = False
    early: bool = False

    @property
    def calibrates(self) -> bool:
        """Whether there is anything to calibrate."""
        return not (self.trains or self.baseline)

    @property
    def approximates(self) -> bool:
        """Whether it is an approximation worth measuring: no baseline, and without curvature at query time."""
        return not (self.baseline or self.exact_curvature)


class Method:
    """A way to answer what another order would have given: its name, what it can, what it computes before, what it costs.

    name, aliases: what it goes by. opens: what it is on a run. capabilities: what it can be asked. preparation: what it computes
    before the first order.
    advice: what to lower where its tables do not fit in memory. place: among the queries of a plan, smaller first. note: what is
    said where it answers beside another method.
    """

    name: str
    aliases: tuple[str, ...] = ()
    opens: type[Estimator]
    capabilities: Capabilities = Capabilities()
    preparation: Preparation[Any] | None = None
    advice: str = LESS
    place: int = 0
    note: str = ""

    def open(self, context: Context, readout: str = PROBE, **options: Any) -> Estimator:
        """The method on a run, for one read-out; TypeError for an option that it does not take."""
        return self.opens(context, readout, **options)

    def terms(self, context: Context) -> tuple[str, ...]:
        """What it reads, by the names that `cache` takes."""
        return () if self.preparation is None else self.preparation.terms

    def gradients_before(self, context: Context) -> int:
        """Gradient evaluations before the first order, beyond the reference run's own (a product counts two)."""
        if self.preparation is None:
            return 0
        return self.preparation.cost(self.preparation.open(context).spec).gradients

    def gradients_per_order(self, context: Context, options: Mapping[str, str]) -> int:
        """Gradient evaluations per order, evaluations of the probe loss not counted."""
        return 0

    def read_bytes(self, context: Context) -> int:
        """Bytes on disk that it reads."""
        return directory_bytes(context.path / self.preparation.name) if self.preparation is not None else 0

    def table_bytes(self, estimator: Estimator, footprint: Footprint) -> int:
        """Bytes of tables that an opened one loads into memory; 0 where they are not cached."""
        return 0

    def query(self, problem: Problem, config: Config, timings: Timings, orders: int = 1) -> StageCost | None:
        """What so many orders cost, planned; None where it is said elsewhere."""
        return None

    def fingerprint(self, context: Context, readout: str) -> Mapping[str, Any]:
        """What its estimates of a read-out are made from beside the run: a calibration holds for that alone."""
        return {} if self.preparation is None else self.preparation.open(context).spec.settings


def one_of(option: str, value: str | None, choices: object) -> None:
    if value is not None and value not in get_args(choices):
        raise UsageError(f"{option}: expected one of {', '.join(get_args(choices))}, got `{value}`; correct the option")

"""The estimators by name: each maps orders to final parameters, in its own space, and reads the probe loss off them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from estimators.errors import OrderError
from estimators.order import Order
from estimators.replay import CachedGradients, CurvedGradients, Listener, OrderBatch, RuleTransition, Transition, replay
from estimators.state import State
from estimators.taylor import DirectionalDerivative, Moments, PaperTransition, SecantDerivative

from .errors import NotCachedError, UsageError
from .problem import Problem
from .sketch import Sketch
from .terms import TermLayout, TermTables

Readout = Literal["linear", "evaluated"]


@dataclass(frozen=True)
class Reference:
    """What the estimators know about the reference run: its checkpoints, streamed, and its terms, if cached."""

    problem: Problem
    layout: TermLayout
    state: Callable[[int], State]
    loss: float
    tables: TermTables

    def loss_at(self, step: int) -> float:
        """phi(theta_step) [nats/token]: as recorded at the end of the run, evaluated before."""
        return self.loss if step == self.problem.config.steps else self.problem.probe_loss(self.state(step).theta)

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

    def __init__(self, reference: Reference, needs: tuple[str, ...] = ()) -> None:
        self.reference, self.problem = reference, reference.problem
        self.needs = needs

    @abstractmethod
    def positions(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        """Final positions of n orders of equal length; the listener hears of every step."""

    @abstractmethod
    def losses(self, positions: Tensor, steps: int) -> list[float]:
        """phi [nats/token] at each position after `steps` steps."""

    @abstractmethod
    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        """Parameters [D] at a position after `steps` steps."""

    @property
    def rebuilds(self) -> bool:
        """Whether positions can be turned into parameters."""
        return True

    def ready(self) -> None:
        """NotCachedError, naming the command to run, if the store lacks a term that this estimator replays."""
        _tables(self.reference, self)

    def width(self) -> int:
        """Numbers per order that a batch keeps in memory, for the choice of the batch's size."""
        return self.problem.objective.size

    def batch(self, orders: Sequence[Order]) -> OrderBatch:
        return OrderBatch.pack(orders, self.problem.device)


class ReferenceEstimator(Estimator):
    """Every order ends like the reference: the baseline."""

    name = "reference"

    def positions(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        return self.reference.state(self.problem.config.steps).theta.expand(len(orders), -1)

    def losses(self, positions: Tensor, steps: int) -> list[float]:
        return [self.reference.loss] * len(positions)

    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        return position


class _InParameters(Estimator):
    """Positions are all D parameters; the probe loss is really evaluated there."""

    def transition(self) -> Transition:
        raise NotImplementedError

    def positions(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        start = self.reference.state(0).rows(len(orders))
        return replay(self.transition(), start, self.batch(orders), listener=listener).theta

    def losses(self, positions: Tensor, steps: int) -> list[float]:
        return [self.problem.probe_loss(theta) for theta in positions]

    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        return position


class ReplayExact(_InParameters):
    """Replay of order 1 with exact Hessian-vector products at query time: the oracle, slower than retraining."""

    name = "replay-exact"

    def transition(self) -> Transition:
        problem = self.problem
        gradients = CurvedGradients(lambda t: self.reference.state(t).theta, problem.gradient, problem.product)
        return RuleTransition(problem.rule, problem.rate, gradients)


class Replay(_InParameters):
    """Replay of order 0: the true rule on item gradients taken at the reference run's checkpoints.

    With all coordinates stored the endpoint is rebuilt and the probe loss evaluated there; with a sample of them the
    loss is read linearly, phi(theta_T) + <grad phi, delta>, unbiased over the sample.
    """

    name = "replay"

    def __init__(self, reference: Reference, readout: Readout | None = None) -> None:
        super().__init__(reference, ("gradient", "norm"))
        self.sample: Sketch = reference.layout.sample
        self.full = self.sample.kind == "identity"
        if not self.full and not self.problem.rule.elementwise:
            raise UsageError(
                f"replay: expected all coordinates of the gradients for the rule `{self.problem.rule.name}`, which mixes "
                "coordinates, got a sample; set cache.coordinates=0 and cache again"
            )
        _one_of("readout", readout, Readout)
        if not self.full and readout == "evaluated":
            raise UsageError("replay: expected all coordinates for an evaluated read-out, got a sample; use linear")
        self.readout: Readout = readout or ("evaluated" if self.full else "linear")

    def width(self) -> int:
        return self.sample.size

    @property
    def rebuilds(self) -> bool:
        return self.full

    def transition(self) -> Transition:
        tables = _tables(self.reference, self)
        if self.full:
            gradients = CachedGradients(tables["gradient"])
        else:
            scale = (self.sample.dimension / self.sample.size) ** 0.5
            gradients = CachedGradients(tables["gradient"], lambda t: tables["norm"](t).squeeze(-1), scale)
        return RuleTransition(self.problem.rule, self.problem.rate, gradients)

    def positions(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        start = self.reference.state(0)
        start = (start if self.full else start.restrict(self.sample.indices)).rows(len(orders))
        return replay(self.transition(), start, self.batch(orders), listener=listener).theta

    def losses(self, positions: Tensor, steps: int) -> list[float]:
        if self.readout == "evaluated":
            return super().losses(positions, steps)
        theta = self.reference.state(steps).theta
        slope = self.sample.restrict(self.problem.probe_gradient(theta))
        weight = self.sample.dimension / self.sample.size
        return self.reference.linear(steps, weight * slope, positions - self.sample.restrict(theta))

    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        if self.full:
            return position
        raise UsageError(
            f"replay: expected all {self.sample.dimension} coordinates for an endpoint, got a sample of {self.sample.size}; "
            "set cache.coordinates=0 and cache again, or use --estimator replay-exact"
        )


class Fut(Estimator):
    """The paper's estimator (arXiv 2505.22042): Taylor terms of the update itself, in sketch space.

    moments: see `PaperTransition`. readout: `linear`, phi(theta_T) + <P grad phi, P delta>, which a JL sketch
    preserves; `evaluated` at theta_T + P^T P delta, the paper's own reading, which carries the sketch's noise.
    The default is evaluated where the sketch is exact, else linear.
    """

    name = "fut"
    second: ClassVar[bool] = False

    def __init__(self, reference: Reference, moments: Moments = "reference", readout: Readout | None = None) -> None:
        super().__init__(reference)
        self.sketch: Sketch = reference.layout.sketch
        _one_of("moments", moments, Moments)
        _one_of("readout", readout, Readout)
        self.moments = moments
        self.readout: Readout = readout or ("evaluated" if self.sketch.kind == "identity" else "linear")
        self.needs = ("update", *self._products())

    def _products(self) -> tuple[str, ...]:
        if self.reference.layout.config.derivative == "secant":
            return ()
        return ("jvp", "second") if self.second else ("jvp",)

    def width(self) -> int:
        return 2 * self.sketch.size

    def transition(self) -> PaperTransition:
        tables, problem = _tables(self.reference, self), self.problem
        packed = OrderBatch.pack([problem.reference], problem.device)
        derivative: DirectionalDerivative | SecantDerivative
        if "jvp" in self.needs:
            derivative = DirectionalDerivative(
                tables["update"], tables["jvp"], tables["second"] if self.second else None
            )
        else:
            derivative = SecantDerivative(
                tables["update"],
                lambda t: packed.at(t).combine(tables["update"](t))[0],
                problem.rate,
                2 if self.second else 1,
            )
        return PaperTransition(
            tables["update"],
            packed.at,
            derivative,
            self._carry if self.moments == "replayed" else None,
        )

    def _carry(self, step: int, momentum: Tensor, swapped: Tensor) -> tuple[Tensor, Tensor]:
        return self.problem.rule.carry(self.reference.state(step), self.problem.rate(step), momentum, swapped)

    def positions(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        if any(not step for order in orders for step in order.steps):
            raise OrderError(
                f"{self.name}: expected at least one item in every step, got an empty step, for which no update term "
                "is stored; drop the step, or use --estimator replay"
            )
        transition = self.transition()
        start = transition.start(len(orders), self.sketch.size, self.reference.state(0).theta)
        return replay(transition, start, self.batch(orders), listener=listener).theta

    def losses(self, positions: Tensor, steps: int) -> list[float]:
        if self.readout == "evaluated":
            return [self.problem.probe_loss(self.endpoint(p, steps)) for p in positions]
        theta = self.reference.state(steps).theta
        return self.reference.linear(steps, self.sketch.project(self.problem.probe_gradient(theta)), positions)

    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        return self.reference.state(steps).theta + self.sketch.lift(position)


class FutPlusPlus(Fut):
    """FUT with the second-order term (arXiv 2505.22042, FUT++)."""

    name = "fut++"
    second = True


def _one_of(option: str, value: str | None, choices: object) -> None:
    if value is not None and value not in get_args(choices):
        raise UsageError(f"{option}: expected one of {', '.join(get_args(choices))}, got `{value}`; correct the option")


def _tables(reference: Reference, estimator: Estimator) -> TermTables:
    missing = [name for name in estimator.needs if not reference.tables.complete(name)]
    if missing:
        raise NotCachedError(
            f"{estimator.name}: expected the terms {', '.join(estimator.needs)} for every checkpoint and item, "
            f"got an incomplete store (missing or unfinished: {', '.join(missing)}); run `fut cache RUN` first"
        )
    return reference.tables


ESTIMATORS: dict[str, type[Estimator]] = {
    e.name: e for e in (ReferenceEstimator, Fut, FutPlusPlus, Replay, ReplayExact)
}
NAMES = (*ESTIMATORS, "retrain")


def base_name(spec: str) -> str:
    """The estimator's name in a specification like `fut:moments=replayed`."""
    return spec.partition(":")[0]


def make_estimator(spec: str, reference: Reference, **options: str) -> Estimator:
    """An estimator by name, with options after colons: `fut`, `fut:moments=replayed:readout=evaluated`.

    UsageError listing the known names, or naming the option that it does not take.
    """
    name, *written = spec.split(":")
    if name not in ESTIMATORS:
        raise UsageError(f"estimator: expected one of {', '.join(NAMES)}, got `{name}`; correct the name")
    pairs = [part.partition("=") for part in written]
    try:
        return ESTIMATORS[name](reference, **{k: v for k, _, v in pairs} | options)  # type: ignore[arg-type]
    except TypeError as error:
        raise UsageError(
            f"estimator: expected options that `{name}` takes, got `{spec}` ({error}); correct them"
        ) from error


def batch_size(width: int, budget: int = 1 << 28) -> int:
    """Orders replayed at once, so that a batch's state of `width` numbers and three buffers fits in `budget` numbers."""
    return max(1, min(256, budget // (6 * max(width, 1))))

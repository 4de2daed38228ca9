"""FUT and FUT++, the estimators of arXiv 2505.22042, on a run's sketched update terms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from estimators.errors import OrderError
from estimators.orders.order import Order
from estimators.replay import Listener, replay
from estimators.sketch import Sketch
from estimators.taylor import DirectionalDerivative, Moments, PaperTransition, SecantDerivative
from fut.methods.base import Estimator, Reading, Reference, one_of, term_tables


class Fut(Estimator):
    """The paper's estimator (arXiv 2505.22042): Taylor terms of the update itself, in sketch space.

    moments: see `PaperTransition`. reading: `linear`, phi(theta_T) + <P grad phi, P delta>, which a JL sketch
    preserves; `evaluated` at theta_T + P^T P delta, the paper's own reading, which carries the sketch's noise.
    The default is evaluated where the sketch is exact, else linear.
    """

    name = "fut"
    second: ClassVar[bool] = False

    def __init__(self, reference: Reference, moments: Moments = "reference", reading: Reading | None = None) -> None:
        super().__init__(reference)
        self.sketch: Sketch = reference.layout.sketch
        one_of("moments", moments, Moments)
        one_of("reading", reading, Reading)
        self.moments = moments
        self.reading: Reading = reading or ("evaluated" if self.sketch.kind == "identity" else "linear")
        self.needs = ("update", *self._products())

    def _products(self) -> tuple[str, ...]:
        if self.reference.layout.config.derivative == "secant":
            return ()
        return ("jvp", "second") if self.second else ("jvp",)

    def width(self) -> int:
        return 2 * self.sketch.size

    def transition(self) -> PaperTransition:
        tables, problem = term_tables(self.reference, self), self.problem
        packed = self.batch([problem.reference])
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
        if any(not step for order in orders for step in order.canonical().steps):
            raise OrderError(
                f"{self.name}: expected at least one item in every step, got an empty step, or one of weight 0, for which "
                "no update term is stored; drop the step, or use --estimator replay"
            )
        transition = self.transition()
        start = transition.start(len(orders), self.sketch.size, self.reference.state(0).theta)
        return replay(transition, start, self.batch(orders), listener=listener).theta

    def losses(self, positions: Tensor, steps: int) -> list[float]:
        if self.reading == "evaluated":
            return [self.reference.readout.value(self.endpoint(p, steps)) for p in positions]
        theta = self.reference.state(steps).theta
        return self.reference.linear(steps, self.sketch.project(self.reference.readout.gradient(theta)), positions)

    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        return self.reference.state(steps).theta + self.sketch.lift(position)


class FutPlusPlus(Fut):
    """FUT with the second-order term (arXiv 2505.22042, FUT++)."""

    name = "fut++"
    second = True

"""FUT and FUT++, the estimators of arXiv 2505.22042, on a run's sketched update terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from estimators.errors import OrderError
from estimators.orders.order import Order
from estimators.replay import Listener, replay
from estimators.sketch import Sketch
from estimators.taylor import DirectionalDerivative, Moments, PaperTransition, SecantDerivative
from fut.methods.base import Reading, one_of
from fut.methods.context import Context
from fut.methods.coupling import require_mean_gradient, require_smooth
from fut.methods.pairwise.store import Streamed, term_layout
from fut.methods.pairwise.terms import TermLayout, needs
from fut.readouts.readout import PROBE


class FirstOrderTaylor(Streamed):
    """The paper's estimator (arXiv 2505.22042): Taylor terms of the update itself, in sketch space.

    moments: see `PaperTransition`. reading: `linear`, phi(theta_T) + <P grad phi, P delta>, which a JL sketch
    preserves; `evaluated` at theta_T + P^T P delta, the paper's own reading, which carries the sketch's noise.
    The default is evaluated where the sketch is exact, else linear.
    """

    name = "taylor1"
    second: ClassVar[bool] = False

    def __init__(
        self,
        context: Context,
        readout: str = PROBE,
        moments: Moments = "reference",
        reading: Reading | None = None,
        *,
        layout: TermLayout | None = None,
    ) -> None:
        """layout: of the terms, in place of what the run's store has."""
        super().__init__(context, readout)
        require_smooth(self.problem, self.name)
        require_mean_gradient(self.problem, self.name)
        self.layout = layout or term_layout(context)
        self.sketch: Sketch = self.layout.sketch
        one_of("moments", moments, Moments)
        one_of("reading", reading, Reading)
        self.moments = moments
        self.reading: Reading = reading or ("evaluated" if self.sketch.kind == "identity" else "linear")
        self.needs = needs(self.layout, self.name)

    def width(self) -> int:
        return 2 * self.sketch.size

    def transition(self) -> PaperTransition:
        tables, problem = self.tables, self.problem
        packed = self.batch([problem.reference])
        derivative: DirectionalDerivative | SecantDerivative
        if "jvp" in self.needs:
            second = tables["second"] if self.second else None
            derivative = DirectionalDerivative(tables["update"], tables["jvp"], second)
        else:
            own: Callable[[int], Tensor] = lambda t: packed.at(t).combine(tables["update"](t))[0]  # noqa: E731
            derivative = SecantDerivative(tables["update"], own, problem.rate, 2 if self.second else 1)

        def carry(step: int, momentum: Tensor, swapped: Tensor) -> tuple[Tensor, Tensor]:
            return problem.rule.carry(self.context.state(step), problem.rate(step), momentum, swapped)

        return PaperTransition(tables["update"], packed.at, derivative, carry if self.moments == "replayed" else None)

    def final_states(self, orders: Sequence[Order], listener: Listener | None = None) -> Tensor:
        if any(not step for order in orders for step in order.canonical().steps):
            raise OrderError(
                f"{self.name}: expected at least one item in every step, got an empty step, or one of weight 0, for which "
                "no update term is stored; drop the step, or use --estimator replay"
            )
        transition = self.transition()
        start = transition.start(len(orders), self.sketch.size, self.context.state(0).theta)
        return replay(transition, start, self.batch(orders), listener=listener).theta

    def values(self, states: Tensor, steps: int) -> list[float]:
        if self.reading == "evaluated":
            return [self.readout.value(self.endpoint(p, steps)) for p in states]
        theta = self.context.state(steps).theta
        return self.linear(steps, self.sketch.project(self.readout.gradient(theta)), states)

    def reconstruction(self) -> tuple[float, float]:
        """|P^T P x - x| / |x| for x the displacement of the whole reference run, and what theory says of it."""
        moved = self.context.state(self.problem.config.steps).theta - self.context.state(0).theta
        rebuilt = self.sketch.lift(self.sketch.project(moved))
        return ((rebuilt - moved).norm() / moved.norm()).item(), self.sketch.reconstruction_error()

    def endpoint(self, position: Tensor, steps: int) -> Tensor:
        return self.context.state(steps).theta + self.sketch.lift(position)


class SecondOrderTaylor(FirstOrderTaylor):
    """FUT with the second-order term (arXiv 2505.22042, FUT++)."""

    name = "taylor2"
    second = True

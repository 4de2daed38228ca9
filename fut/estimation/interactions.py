"""How far what an order does to training is from a sum over its steps: measured by really training three orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from estimators.orders.order import Halves
from fut.methods.elsewhere import train_ahead

if TYPE_CHECKING:
    from fut.methods.context import Context


@dataclass(frozen=True)
class Interaction:
    """What two changes of an order do together beyond the sum of what each does, to the parameters after some steps.

    Args:
        step: after how many.
        effect: root of the sum of squares of what either change does, |θ - θ_reference|, as a share of how far training has
            moved.
        interaction: |θ_both - θ_first - θ_second + θ_reference| as a share of that root: 0 where changes add up, about 1 where
            the four ends have nothing in common.
    """

    step: int
    effect: float
    interaction: float


@dataclass(frozen=True)
class HalvesTrained:
    """Three orders that have been trained, as `estimators.orders.order.shuffled_halves` makes them.

    Args:
        over: the interaction over the steps, at the end last.
        changes: what the read-out changes in the first, the second, and both, against the reference order, in its unit.
    """

    over: Sequence[Interaction]
    changes: tuple[float, float, float]

    @property
    def interaction(self) -> float:
        """At the end, of the read-out: what both changes do beyond the sum of each, in its unit."""
        first, second, both = self.changes
        return both - first - second


def train_halves(
    context: Context, halves: Halves, steps: Sequence[int], readout: str, tick: Callable[[], object]
) -> HalvesTrained:
    """Train three orders, or recall them, and compare.

    Args:
        context: the opened run.
        halves: the orders.
        steps: after which parameters are compared, ascending; the last is the end.
        readout: whose changes are taken.
        tick: called after every step that is trained.
    """
    about = context.readouts.get(readout)
    train_ahead(context, halves, steps[:-1], tick)
    ends = [context.retrain(order, lambda step, state: tick(), at=steps[:-1]) for order in halves]
    reference = context.readouts.at_reference(about)
    values = [
        context.readouts.truth(about, context.retrain(about.seen(order)) if about.step else end)
        for order, end in zip(halves, ends, strict=True)
    ]

    def at(step: int) -> list[Tensor]:
        parts = [
            end if step == context.steps else context.retrain(o.first(step))
            for o, end in zip(halves, ends, strict=True)
        ]
        return [part.theta for part in parts]

    start = context.state(0).theta
    over = [compared(step, start, context.state(step).theta, *at(step)) for step in steps]
    first, second, both = (value - reference for value in values)
    return HalvesTrained(over, (first, second, both))


def compared(step: int, start: Tensor, reference: Tensor, first: Tensor, second: Tensor, both: Tensor) -> Interaction:
    """The interaction of two changes, from the parameters [D] that the four orders have after as many steps."""
    apart = first.double() - reference, second.double() - reference
    effect = float((apart[0].square().sum() + apart[1].square().sum()).sqrt())
    beyond = float((both.double() - reference - apart[0] - apart[1]).norm())
    moved = float((reference.double() - start).norm())
    return Interaction(step, effect / moved if moved else 0.0, beyond / effect if effect else 0.0)

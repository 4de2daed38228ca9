"""What questions about a read-out over the steps of an order have in common: which steps, and one training for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from estimators.orders.order import Order
from fut.divergence import trained_apart
from fut.errors import NotCachedError
from fut.questions.context import QuestionContext
from fut.readouts.readout import after, base_of, step_of

CURVE = "over the steps too: after each step of `fut cache --curve-steps`, and at the end"
"""Help of the flag."""


def curve_names(context: QuestionContext, readout: str, steps: Sequence[int] = ()) -> list[str]:
    """The read-out after some steps, ascending, and at the end.

    Args:
        context: what is asked.
        readout: the read-out's name, without a step.
        steps: after how many; none for those that the run has an adjoint pass of.

    Raises:
        NotCachedError: where no steps are named, and the run has an adjoint pass of none.
    """
    known = {step_of(name) for name in context.run.computed_readouts() if base_of(name) == readout}
    taken = sorted(set(steps) or {step for step in known if step is not None})
    if not taken:
        middle = max(1, context.run.steps // 2)
        raise NotCachedError(
            f"curve: expected an adjoint pass of `{readout}` after some steps, got none; run `fut cache RUN --curve-steps "
            f"{middle}`, say"
        )
    return [*(after(readout, step) for step in taken if step != context.run.steps), readout]


def train_at(context: QuestionContext, orders: Sequence[Order], names: Sequence[str]) -> None:
    """Train every order once, and keep what it has come to after the steps of all the read-outs; orders that diverge are left
    out, as each read-out finds again."""
    steps = [step for step in map(step_of, names) if step is not None]
    with context.progress("retraining", len(orders) * context.run.steps) as tick:
        context.service.train_ahead(orders, steps, tick)
        trained_apart(orders, lambda order: context.service.train_at(order, steps, tick))

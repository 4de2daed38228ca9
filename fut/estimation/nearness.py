"""How much of a calibration on random orders applies to an order: one answer for every question."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from estimators.orders.distance import Distance
from estimators.orders.order import Order
from fut.estimation.calibration import Calibrated
from fut.readouts.readout import Readout

if TYPE_CHECKING:
    from fut.methods.context import Context


class Nearness:
    """Orders of a run beside its reference order, as far as a read-out depends on them.

    Args:
        context: the opened run.
        readout: of one that is taken before the end, the steps before it count.
    """

    def __init__(self, context: Context, readout: Readout) -> None:
        self._run, self._readout = context, readout

    @cached_property
    def reference(self) -> Order:
        """The reference order, in canonical form."""
        return self._run.problem.canonical(self._run.reference)

    @cached_property
    def _distance(self) -> Distance:
        return Distance(self._readout.seen(self.reference))

    def is_reference(self, order: Order) -> bool:
        """Whether an order consumes the reference order's very content at every step that counts."""
        return self._run.problem.canonical(self._readout.seen(order)) == self._readout.seen(self.reference)

    def share(self, fit: Calibrated | None, order: Order) -> float:
        """How much of a calibration applies to the order: from 0 for the reference order to 1 for orders at least half as far
        from it as random ones; 1 where the calibration is of single edits."""
        return (
            1.0
            if fit is None or fit.edit
            else self._distance.share(self._run.problem.canonical(self._readout.seen(order)))
        )

    def applied(self, fit: Calibrated, order: Order, reference: float) -> Calibrated:
        """The calibration as it applies to the order. reference: the read-out's value in the reference order."""
        return fit.nearer(reference, self.share(fit, order))

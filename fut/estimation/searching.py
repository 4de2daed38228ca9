"""A method as a search asks it: one that guides, another that judges what was found, and what that judgement is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from estimators.errors import EstimatorError
from estimators.orders.order import Order
from fut.errors import FutError, NotCachedError
from fut.estimation.calibration import read_calibration
from fut.estimation.nearness import Nearness
from fut.estimation.results import estimated
from fut.methods.adjoint.positions import position_table
from fut.methods.base import Estimator
from fut.methods.batching import raw_estimates
from fut.methods.registry import DEFAULT, EXACT, method_of, open_estimator, require_movable
from fut.readouts.readout import Readout

if TYPE_CHECKING:
    from fut.methods.context import Context


CURSE = (
    "an order chosen for its estimate is, on average, worse than that: trust the retrained figure, else the "
    "re-evaluated one"
)
SECOND_HALF = "from the half of the sampled coordinates that the search did not ask"
REEVALUATED = "no interval: {}, which had no part in the search"


class Searching:
    """Estimates that guide a search, and estimates of the order that it found, which had no part in choosing it.

    Where the adjoint samples coordinates, the search asks one of two independent halves of them and the other half judges; all of
    them judge where all are kept.

    Args:
        context: the opened run.
        method: the method's name.
        readout: the read-out that is sought.
    """

    def __init__(self, context: Context, method: str, readout: str) -> None:
        self._run, self.method = context, method
        self._about = context.readouts.get(readout)
        self._guide, self._judge = _guide_and_judge(context, method, self._about)

    def values(self, orders: Sequence[Order]) -> list[float]:
        """Uncalibrated values of n orders [n], in the read-out's unit."""
        return raw_estimates(self._guide, orders)[0]

    def table(self) -> NDArray[np.float64] | None:
        """The read-out's table of positions [T, items]; None where it is not cached, or the rule has no derivative."""
        if not self._guide.problem.rule.smooth:
            return None
        try:
            return position_table(self._run, self._about.name)
        except NotCachedError:
            return None

    def judged(self, order: Order) -> dict[str, Any]:
        """The order's estimate with its interval, or the word that it has none, and its estimate by another method."""
        about, method = self._about, self.method
        values, variances = raw_estimates(self._judge, [order])
        fit = read_calibration(self._run, method, about.name)
        reference = self._run.readouts.at_reference(about)
        share = Nearness(self._run, about).share(fit, order)
        answer = estimated(order, method, values[0], variances[0], reference, fit, about, share=share)
        half = f"{SECOND_HALF}; " if self._judge.half == "second" else ""
        caution = self._judge.caution()
        note = f"{answer.note}; {half}{caution + '; ' if caution else ''}{CURSE}"
        return {"estimated_loss": answer.value, "interval": answer.interval, "note": note} | self._again(order)

    def _again(self, order: Order) -> dict[str, Any]:
        """The order's estimate by another method."""
        other = EXACT if method_of(self.method) is not EXACT else DEFAULT
        try:
            value = raw_estimates(open_estimator(self._run, other.name, readout=self._about.name), [order])[0][0]
        except (FutError, EstimatorError) as error:
            note = f"not re-evaluated: {error}"
            return {"reevaluated_loss": None, "reevaluated_by": None, "reevaluated_note": note}
        return {
            "reevaluated_loss": value,
            "reevaluated_by": other.name,
            "reevaluated_note": REEVALUATED.format(other.note),
        }


def _guide_and_judge(run: Context, name: str, about: Readout) -> tuple[Estimator, Estimator]:
    """The one that the search asks, and the one that judges what it found: two where coordinates are sampled."""
    require_movable("search", [name])
    whole = open_estimator(run, name, readout=about.name)
    whole.ready()
    if whole.judge is not None:
        options = ":".join(f"{key}={value}" for key, value in whole.judge.items())
        return whole, open_estimator(run, f"{name}:{options}", readout=about.name)
    if not whole.sampled or whole.half is not None:
        return whole, whole
    first, second = (open_estimator(run, f"{name}:sample={half}", readout=about.name) for half in ("first", "second"))
    return first, second

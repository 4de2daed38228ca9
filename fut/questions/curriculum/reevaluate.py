"""What a found order is worth by estimates that had no part in choosing it, and what these are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from estimators.errors import EstimatorError
from estimators.orders.order import Order
from fut.errors import FutError
from fut.estimation.calibration import Calibrated, read_calibration
from fut.estimation.results import estimated
from fut.methods.adjoint.estimator import Adjoint
from fut.methods.base import Estimator
from fut.methods.batching import raw_estimates
from fut.methods.registry import base_name, open_estimator, require_movable
from fut.readouts.readout import ReadOut

if TYPE_CHECKING:
    from fut.methods.context import Context


CURSE = (
    "an order chosen for its estimate is, on average, worse than that: trust the retrained figure, else the "
    "re-evaluated one"
)
SECOND_HALF = "from the half of the sampled coordinates that the search did not ask"
REEVALUATED = {
    "replay-exact": "no interval: by replay about the reference run with exact curvature, which had no part in the search",
    "adjoint": "no interval: by the expansion about the centre, which had no part in the search",
}


def guide_and_judge(run: Context, name: str, asked: ReadOut) -> tuple[Estimator, Estimator]:
    """The one that the search asks, and the one that judges what it found: two where coordinates are sampled."""
    require_movable("search", [name])
    whole = open_estimator(run, name, readout=asked.name)
    whole.ready()
    if not (isinstance(whole, Adjoint) and whole.sampled and whole.sample is None):
        return whole, whole
    first, second = (open_estimator(run, f"{name}:sample={half}", readout=asked.name) for half in ("first", "second"))
    return first, second


def judged(run: Context, judge: Estimator, name: str, asked: ReadOut, order: Order) -> dict[str, Any]:
    """The order's estimate with its interval, or the word that it has none, and its estimate by another estimator."""
    values, variances = raw_estimates(judge, [order])
    fit = read_calibration(run, name, asked.name)
    reference = run.readouts.at_reference(asked)
    found = estimated(order, name, values[0], variances[0], reference, fit, asked)
    beyond = "" if fit is None else _beyond(fit, values[0])
    other = "replay-exact" if base_name(name) != "replay-exact" else "adjoint"
    again: dict[str, Any] = {"reevaluated_loss": None, "reevaluated_by": None}
    try:
        value = raw_estimates(open_estimator(run, other, readout=asked.name), [order])[0][0]
        again = {"reevaluated_loss": value, "reevaluated_by": other, "reevaluated_note": REEVALUATED[other]}
    except (FutError, EstimatorError) as error:
        again["reevaluated_note"] = f"not re-evaluated: {error}"
    half = f"{SECOND_HALF}; " if isinstance(judge, Adjoint) and judge.sample == "second" else ""
    note = f"{found.note}{beyond}; {half}{CURSE}"
    return {"estimated_loss": found.value, "interval": found.interval, "note": note} | again


def _beyond(fit: Calibrated, value: float) -> str:
    """How far outside the calibration's range an estimate lies: nothing within it."""
    if min(fit.estimates) <= value <= max(fit.estimates):
        return ""
    spread, outside = (
        float(np.std(fit.estimates, ddof=1)),
        ", fitted to random orders alone: this one lies outside their range",
    )
    return (
        f"{outside}, {abs(value - fit.fit.mean) / spread:.1f} of their standard deviations off" if spread else outside
    )

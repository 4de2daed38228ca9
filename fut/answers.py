"""What a question is answered with: small values, each with its units and its interval or the word that it has none."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimators.order import Order

from .readouts import PROBE, ReadOut

if TYPE_CHECKING:
    from .calibration import Calibrated

UNCALIBRATED = "no interval: this estimator is not calibrated on this run; `fut calibrate RUN` does that"
BASELINE = "no interval: the baseline answers the reference order's loss whatever the order; name another estimator"
IN_PLACE = "no interval: random orders cannot calibrate this estimator; `fut lds RUN` measures its error"
DIVERGED = "no interval: the estimate is not finite, the recursion diverged; use another estimator"


@dataclass(frozen=True)
class Estimate:
    """The read-out under one order.

    loss: the read-out's value at the end of training, in its unit; by default the mean probe loss [nats/token].
    delta: that minus the reference order's. interval: 90 % interval of the value, or None, and then `note` says why.
    source: `estimate`, or `retrained` where the order has really been trained and the truth is known.
    """

    loss: float
    delta: float
    interval: tuple[float, float] | None
    estimator: str
    order: str
    source: str = "estimate"
    note: str = UNCALIBRATED
    readout: str = PROBE
    unit: str = "nats/token"

    @property
    def perplexity(self) -> float | None:
        """exp(loss), per token; None for a read-out that is no loss in nats/token."""
        return perplexity(self.loss) if self.unit == "nats/token" else None

    def as_dict(self) -> dict[str, Any]:
        return jsonable(asdict(self) | {"perplexity": self.perplexity})


@dataclass(frozen=True)
class Endpoint:
    """Parameters of one order, written to a file, and what they are worth.

    estimated_loss: the estimator's own figure; evaluated_loss: the probe loss really evaluated at these parameters
    [nats/token]. sketch_error: relative error |P^T P x - x| / |x| of rebuilding parameters from the sketch, measured on
    the reference run's own displacement; None where no sketch is involved.
    """

    path: Path
    estimator: str
    order: str
    estimated_loss: float
    evaluated_loss: float
    sketch_error: float | None
    sketch_error_theory: float | None

    def as_dict(self) -> dict[str, Any]:
        more = {
            "path": str(self.path),
            "estimated_perplexity": perplexity(self.estimated_loss),
            "evaluated_perplexity": perplexity(self.evaluated_loss),
            "interval": None,
            "note": "no interval: the evaluated loss is exact for these parameters; how near they are to those of really "
            "training in this order is what `fut verify` measures",
            "unit": "nats/token",
        }
        return jsonable(asdict(self) | more)


def estimated(
    order: Order,
    estimator: str,
    loss: float,
    variance: float,
    reference: float,
    calibration: Calibrated | None,
    readout: ReadOut,
) -> Estimate:
    """An estimator's figure: calibrated, with its interval, or with the word that it has none."""
    asked = {"readout": readout.name, "unit": readout.unit}
    if not math.isfinite(loss):
        return Estimate(loss, loss, None, estimator, order.digest, note=DIVERGED, **asked)
    if calibration is None:
        sampling = f"; its sampling error over coordinates alone is {variance**0.5:.2g} {readout.unit}".rstrip()
        why = IN_PLACE if estimator.partition(":")[0] == "reweighting" else UNCALIBRATED
        note = BASELINE if estimator == "reference" else why + (sampling if variance else "")
        return Estimate(loss, loss - reference, None, estimator, order.digest, note=note, **asked)
    corrected, interval = calibration.fit.correct(loss), calibration.interval(loss, variance)
    note = f"calibrated on {calibration.fit.count} retrained orders; interval of level 0.9"
    return Estimate(corrected, corrected - reference, interval, estimator, order.digest, note=note, **asked)


def known_truth(order: Order, estimator: str, loss: float, reference: float, readout: ReadOut) -> Estimate:
    """The value after really training, whose interval is a point."""
    note = "this order has really been trained on this run; the figure is the truth, not an estimate"
    asked = {"readout": readout.name, "unit": readout.unit}
    return Estimate(loss, loss - reference, (loss, loss), estimator, order.digest, "retrained", note, **asked)


def perplexity(loss: float) -> float:
    """exp(loss); infinity where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def jsonable(value: Any) -> Any:
    """The same value with numbers that JSON lacks (NaN, infinities) as None."""
    if isinstance(value, dict):
        return {k: jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

"""What a question is answered with: small values, each with its units and its interval or the word that it has none."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from estimators.orders.order import Order
from fut.display.notebook import COLOURS, GREY, MARKERS, Displayable, labelled
from fut.display.numbers import jsonable_fields, perplexity
from fut.display.scale import NATS, shown_unit
from fut.methods.registry import method_of
from fut.readouts.readout import PROBE, Readout

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fut.estimation.calibration import Calibrated


UNCALIBRATED = "no interval: this estimator is not calibrated on this run; `fut calibrate RUN` does that"
BASELINE = "no interval: the baseline answers the reference order's loss whatever the order; name another estimator"
IN_PLACE = "no interval: random orders cannot calibrate this estimator; `fut lds RUN` measures its error"
REFERENCE = "this order trains as the reference order does, whose recorded value every estimator gives exactly"
NAMED = 8
"""Orders up to which a picture names them."""
DIVERGED = "no interval: the estimate is not finite, the recursion diverged; use another estimator"


@dataclass(frozen=True)
class Estimate(Displayable):
    """The read-out under one order.

    value: the read-out's value at the end of training, in its unit; by default the mean probe loss [nats/token].
    delta: that minus the reference order's. interval: 90 % interval of the value, or None, and then `note` says why.
    source: `estimate`, or `retrained` where the value is the truth: by `retrain`, or where no estimator was named and the order
    has been retrained. order: its digest; asked: its name or its list, as it was asked for. truth: what retraining gave, beside
    an estimate, where it is known; the estimate does not use it. extrapolated: whether the estimate lies outside the
    range of those that its interval was fitted to.
    """

    value: float
    delta: float
    interval: tuple[float, float] | None
    estimator: str
    order: str
    source: str = "estimate"
    note: str = UNCALIBRATED
    readout: str = PROBE
    unit: str = NATS
    asked: str = ""
    truth: float | None = None
    extrapolated: bool = False

    @property
    def delta_interval(self) -> tuple[float, float] | None:
        """90 % interval of `delta`: the reference order's value is known."""
        if self.interval is None:
            return None
        reference = self.value - self.delta
        return self.interval[0] - reference, self.interval[1] - reference

    @property
    def perplexity(self) -> float | None:
        """exp(value), per token; None for a read-out that is no loss in nats/token."""
        return perplexity(self.value) if self.unit == NATS else None

    def as_dict(self) -> dict[str, Any]:
        return jsonable_fields(asdict(self) | {"perplexity": self.perplexity})

    def title(self) -> str:
        return Estimates([self]).title()

    def rows(self) -> list[dict[str, Any]]:
        return Estimates([self]).rows()

    def units(self) -> dict[str, str]:
        return Estimates([self]).units()

    def notes(self) -> list[str]:
        return [self.note]

    def draw(self, axes: Axes) -> None:
        Estimates([self]).draw(axes)


class Estimates(list[Estimate], Displayable):
    """Estimates of one read-out under several orders, in the order that was asked; a list that shows itself in a notebook."""

    @property
    def _unit(self) -> str:
        return self[0].unit if self else ""

    def title(self) -> str:
        named = self[0].readout if self else "nothing"
        return f"{named} under {len(self)} order{'' if len(self) == 1 else 's'}; Δ against the reference order"

    def rows(self) -> list[dict[str, Any]]:
        """A row per order: its value, `delta` against the reference order, and the interval `low` … `high` of the value."""
        return [
            {"order": e.asked or e.order[:12], "value": e.value, "delta": e.delta}
            | dict(zip(("low", "high"), e.interval or (None, None), strict=True))
            | {"perplexity": e.perplexity, "estimator": e.estimator, "source": e.source, "retrained": e.truth}
            for e in self
        ]

    def units(self) -> dict[str, str]:
        return dict.fromkeys(("value", "delta", "low", "high", "retrained"), self._unit)

    def notes(self) -> list[str]:
        return list(dict.fromkeys(e.note for e in self))

    def draw(self, axes: Axes) -> None:
        """`delta` of every order in turn, with its interval; retrained orders as squares."""
        axes.axhline(0, color=GREY, linewidth=1, linestyle="--", label="reference")
        for number, source in enumerate(("estimate", "retrained")):
            places = [place for place, e in enumerate(self) if e.source == source]
            if not places:
                continue
            values, deltas = np.array([(self[place].value, self[place].delta) for place in places]).T
            low, high = np.array([self[place].interval or (math.nan, math.nan) for place in places]).T
            style: dict[str, Any] = {"color": COLOURS[number], "fmt": MARKERS[number], "markersize": 4, "capsize": 2}
            axes.errorbar(places, deltas, (values - low, high - values), label=source, **style)
        beside = [
            (place, e.truth - e.value + e.delta)
            for place, e in enumerate(self)
            if e.truth is not None and e.source == "estimate"
        ]
        if beside:
            axes.plot(*zip(*beside, strict=True), "x", color=COLOURS[1], label="retrained")
        if 0 < len(self) <= NAMED and all(e.asked for e in self):
            axes.set_xticks(range(len(self)), [e.asked for e in self], rotation=30, ha="right")
        axes.set(xlabel="order, as asked", ylabel=labelled("Δ against the reference order", self._unit))
        axes.legend(fontsize="small", frameon=False)


@dataclass(frozen=True)
class Endpoint:
    """Parameters of one order, written to a file, and what they are worth.

    estimated_loss: the estimator's own figure; evaluated_loss: the probe loss evaluated at these parameters,
    in `unit`. sketch_error: relative error |P^T P x - x| / |x| of rebuilding parameters from the sketch, measured on
    the reference run's own displacement; None where no sketch is involved. caution: what the estimator says against itself.
    """

    path: Path
    estimator: str
    order: str
    estimated_loss: float
    evaluated_loss: float
    sketch_error: float | None
    sketch_error_theory: float | None
    caution: str = ""
    unit: str = NATS

    def as_dict(self) -> dict[str, Any]:
        nats = self.unit == NATS
        more = {
            "path": str(self.path),
            "estimated_perplexity": perplexity(self.estimated_loss) if nats else None,
            "evaluated_perplexity": perplexity(self.evaluated_loss) if nats else None,
            "interval": None,
            "note": "no interval: the evaluated loss is exact for these parameters; how near they are to those of "
            "retraining in this order is what `fut verify` measures" + (f"; {self.caution}" if self.caution else ""),
        }
        return jsonable_fields(asdict(self) | more)


@dataclass(frozen=True)
class Answers:
    """What a method said about n orders.

    values, intervals: [n] in the read-out's unit, 90 % intervals if it has any. endpoint_error: mean over the orders, relative,
    if it rebuilds parameters. seconds: in all. uncalibrated: values before calibration, if it is calibrated. caution: what it
    says against itself.
    """

    values: list[float]
    intervals: list[tuple[float, float]] | None
    endpoint_error: float | None
    seconds: float
    uncalibrated: list[float] | None = None
    caution: str = ""


class Changes(NamedTuple):
    """What n orders change of r read-outs, against the reference order [n, r], and the variance of each over a sample."""

    values: NDArray[np.float64]
    variances: NDArray[np.float64]


def estimated(
    order: Order,
    estimator: str,
    value: float,
    variance: float,
    reference: float,
    calibration: Calibrated | None,
    readout: Readout,
    own_error: float | None = None,
    share: float = 1.0,
) -> Estimate:
    """An estimator's figure: calibrated, with its interval, or with the word that it has none.

    share: how much an order has of what random ones, which the calibration is of, have in common (`estimators.orders.distance`).
    own_error: what the estimator errs by on runs that it is made of (standard deviation), where it is made of real ones.
    """
    about: dict[str, Any] = {"readout": readout.name, "unit": readout.unit}
    if not math.isfinite(value):
        return Estimate(value, value, None, estimator, order.digest, note=DIVERGED, **about)
    if calibration is None:
        note = (
            BASELINE
            if method_of(estimator).capabilities.baseline
            else _uncalibrated(estimator, variance, readout.unit, own_error)
        )
        return Estimate(value, value - reference, None, estimator, order.digest, note=note, **about)
    near = calibration.nearer(reference, share)
    corrected, interval = near.fit.correct(value), near.interval(value, variance)
    note = f"calibrated on {calibration.fitted_on}; interval of level 0.9"
    if near is not calibration:
        note += (
            f"; this order is close to the reference order, so {percent(share)} of the calibration offset is applied"
        )
        note += ", and a narrower interval" if near.fit.sd < calibration.fit.sd else ""
    beyond = calibration.extrapolates(value)
    note += f"; {beyond_range(calibration, value)}" if beyond else ""
    about |= {"note": note, "extrapolated": beyond}
    return Estimate(corrected, corrected - reference, interval, estimator, order.digest, **about)


def beyond_range(calibration: Calibrated, value: float) -> str:
    """How far an estimate lies outside the range of those that its interval was fitted to."""
    spread = float(np.std(calibration.estimates, ddof=1))
    off = (
        f", {abs(value - calibration.fit.mean) / spread:.1f} of their standard deviations from their mean"
        if spread
        else ""
    )
    advice = (
        "" if calibration.chosen or calibration.edit else "; `fut calibrate RUN --orders 16 --chosen` reaches further"
    )
    return (
        f"this estimate lies outside the range of those that the interval was fitted to{off}: it may not hold{advice}"
    )


def _uncalibrated(estimator: str, variance: float, unit: str, own_error: float | None) -> str:
    """Why there is no interval, and what is known of the error without one."""
    parts = [UNCALIBRATED if method_of(estimator).capabilities.moves_items else IN_PLACE]
    if own_error is not None:
        off = f"on the few real runs that it is made of it errs by {own_error:.2g} {shown_unit(unit)}".rstrip()
        parts.append(f"{off} (standard deviation, a common offset aside), on others rather by more")
    if variance:
        parts.append(f"its sampling error over coordinates alone is {variance**0.5:.2g} {shown_unit(unit)}".rstrip())
    return "; ".join(parts)


def known_truth(order: Order, estimator: str, value: float, reference: float, readout: Readout) -> Estimate:
    """The value after retraining, whose interval is a point."""
    note = "this order has been retrained on this run; the figure is the truth, not an estimate"
    about: dict[str, Any] = {"readout": readout.name, "unit": readout.unit}
    return Estimate(value, value - reference, (value, value), estimator, order.digest, "retrained", note, **about)


def exact_reference(order: Order, estimator: str, reference: float, readout: Readout) -> Estimate:
    """The reference order's recorded value, which an estimator answers exactly whatever it was fitted to."""
    about: dict[str, Any] = {"readout": readout.name, "unit": readout.unit}
    return Estimate(reference, 0.0, (reference, reference), estimator, order.digest, "estimate", REFERENCE, **about)


def percent(share: float) -> str:
    """A share in whole percent, with two digits below ten."""
    return f"{100 * share:{'.0f' if share >= 0.0995 else '.2g'}} %"

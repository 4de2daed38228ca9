"""Estimates, calibrations and endpoints as text."""

from __future__ import annotations

from fut.display.format import amount, loss
from fut.estimation.calibration import Calibrated
from fut.estimation.results import Endpoint, Estimate
from fut.methods.registry import EXACT, base_name
from fut.readouts.readout import PROBE


def estimate(found: Estimate) -> str:
    unit, interval = found.unit, found.note
    if found.interval is not None:
        low, high = (amount(v, unit) for v in found.interval)
        interval = f"90 % interval {low.removesuffix(unit).rstrip()} … {high}"
    source = "retrained" if found.source == "retrained" else f"estimated by {found.estimator}"
    value = loss(found.value) if unit == "nats/token" else amount(found.value, unit)
    named = "" if found.readout == PROBE else f"{found.readout}: "
    better = " (negative is better)" if unit == "nats/token" else ""
    delta = amount(found.delta, unit, "+.5f")
    return f"{named}{value}, {source}\n{delta} against the reference order{better}\n{interval}"


def calibration(found: Calibrated) -> str:
    fit = found.fit
    named = "" if found.readout == PROBE else f" of {found.readout}"
    return (
        f"{found.estimator}{named}: truth = {fit.offset:+.5f} {fit.slope:+.4f} × estimate, "
        f"residual sd {(format(fit.sd, '.6f') + ' ' + found.unit).rstrip()}, "
        f"fitted on {found.fitted_on} ({fit.freedom} degrees of freedom); kept in the run"
    )


def endpoint(found: Endpoint) -> str:
    lines = [f"wrote {found.path}", f"estimated {loss(found.estimated_loss)} by {found.estimator}"]
    lines.append(f"evaluated {loss(found.evaluated_loss)} at these parameters")
    if base_name(found.estimator) == EXACT.name:
        lines.append("`fut cache RUN --terms curved` prepares endpoints that cost a fraction of a training run each")
    if found.sketch_error is not None:
        lines.append(
            f"rebuilt from a sketch with relative error {found.sketch_error:.2f} (theory {found.sketch_error_theory:.2f}): "
            "above 1, the sketch's noise outweighs the displacement"
        )
    return "\n".join([*lines, found.as_dict()["note"]])

"""Estimates, calibrations and endpoints as text."""

from __future__ import annotations

from fut.artifacts.location import also_at
from fut.display.format import amount, loss
from fut.display.scale import PROBABILITY, better, shown_unit
from fut.estimation.calibration import Calibrated, formula
from fut.estimation.results import Endpoint, Estimate
from fut.methods.registry import EXACT, base_name
from fut.readouts.readout import PROBE


def estimate(answer: Estimate) -> str:
    unit, interval = answer.unit, answer.note
    if answer.interval is not None:
        low, high = (amount(v, unit) for v in answer.interval)
        interval = f"90 % interval {low.removesuffix(shown_unit(unit)).rstrip()} … {high}"
    source = "retrained" if answer.source == "retrained" else f"estimated by {answer.estimator}"
    value = loss(answer.value, unit)
    named = "" if answer.readout == PROBE else f"{answer.readout}: "
    sign = better(unit) if unit != PROBABILITY else ""
    said = f" ({sign})" if sign else ""
    delta = amount(answer.delta, unit, "+.5f")
    lines = [f"{named}{value}, {source}", f"{delta} against the reference order{said}", interval]
    if answer.source == "retrained":
        lines[-1] = answer.note
    elif answer.interval is not None:
        lines.append(answer.note)
    if answer.truth is not None and answer.source == "estimate":
        error = amount(answer.value - answer.truth, unit, "+.5f")
        lines.append(f"retrained: {amount(answer.truth, unit)}; estimate minus retrained {error}")
    return "\n".join(lines)


def calibration(calibrated: Calibrated) -> str:
    fit = calibrated.fit
    named = "" if calibrated.readout == PROBE else f" of {calibrated.readout}"
    return (
        f"{calibrated.estimator}{named}: truth = {formula(fit)}, "
        f"residual sd {(format(fit.sd, '.6f') + ' ' + shown_unit(calibrated.unit)).rstrip()}, "
        f"fitted on {calibrated.fitted_on} ({fit.freedom} degrees of freedom); kept in the run"
    )


def endpoint(written: Endpoint) -> str:
    lines = [
        f"wrote {written.path}",
        *also_at(written.path),
        f"estimated {loss(written.estimated_loss, written.unit)} by {written.estimator}",
    ]
    lines.append(f"evaluated {loss(written.evaluated_loss, written.unit)} at these parameters")
    if base_name(written.estimator) == EXACT.name:
        lines.append("`fut cache RUN --terms lowrank` prepares endpoints that cost a fraction of a training run each")
    if written.sketch_error is not None:
        lines.append(
            f"rebuilt from a sketch with relative error {written.sketch_error:.2f} (theory {written.sketch_error_theory:.2f}): "
            "above 1, the sketch's noise outweighs the displacement"
        )
    return "\n".join([*lines, written.as_dict()["note"]])

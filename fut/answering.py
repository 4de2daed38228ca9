"""Estimates of many orders: what is known is recalled, the rest is estimated in batches and calibrated."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from estimators.order import Order

from .answers import Estimate, estimated, known_truth
from .calibration import read_calibration
from .errors import NotCachedError
from .estimation import raw_estimates

if TYPE_CHECKING:
    from .run import Run


def estimate(
    run: Run, orders: Sequence[Order], name: str, known: bool, calibrated: bool, readout: str, **options: str
) -> list[Estimate]:
    """An answer per checked order; see `Run.estimate`."""
    asked = run.readouts.get(readout)
    reference = run.readouts.at_reference(asked)
    if name == "retrain":
        return [known_truth(o, name, run.readouts.truth(asked, run.retrain(o)), reference, asked) for o in orders]
    calibration = read_calibration(run, name, asked.name) if calibrated and not options else None
    found = [run.retrained.find(o) if known else None for o in orders]
    truths = [None if f is None else run.readouts.truth(asked, f) for f in found]
    if calibration is not None:  # a fit would move the reference order's value, which every estimator gives exactly
        truths = [reference if _is_reference(run, o) else t for o, t in zip(orders, truths, strict=True)]
    rest = [i for i, truth in enumerate(truths) if truth is None]
    values, variances = _raw(run, [orders[i] for i in rest], name, readout=asked.name, **options)
    figures = dict(zip(rest, zip(values, variances, strict=True), strict=True))
    return [
        estimated(order, name, *figures[i], reference, calibration, asked)
        if truth is None
        else known_truth(order, name, truth, reference, asked)
        for i, (order, truth) in enumerate(zip(orders, truths, strict=True))
    ]


def _raw(run: Run, orders: Sequence[Order], name: str, **options: str) -> tuple[list[float], list[float]]:
    if orders:
        return raw_estimates(run.estimator(name, **options), orders)
    with suppress(NotCachedError):  # a wrong name or option is refused even where nothing is left to estimate
        run.estimator(name, **options)
    return [], []


def _is_reference(run: Run, order: Order) -> bool:
    """Whether the order consumes the reference order's very content at every step: equal items are one."""
    return run.problem.canonical(order) == run.problem.canonical(run.reference)

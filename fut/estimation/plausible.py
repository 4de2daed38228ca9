"""Estimates of changes that no training makes: where they are met, a method has broken down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fut.errors import FutError
from fut.methods.base import Estimator
from fut.readouts.readout import PROBE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fut.methods.context import Context

WINDOWS, SPREADS = 3.0, 20.0
"""A change of the probe loss beyond what is plausible: in what the whole window changes it, and in standard deviations over the
real runs that the method is made of. Both must be exceeded."""
BROKEN = (
    "this change is far larger than those of real trainings: the estimate has broken down, do not use it; "
    "retrain the order (--estimator retrain)"
)


class BrokenDownError(FutError, ArithmeticError):
    """Estimates that are far larger than any change that training makes, to which nothing can be fitted."""


def is_broken(run: Context, estimator: Estimator, value: float) -> bool:
    """Whether an estimate of the probe loss [its unit] is further from the reference order's than orders can be."""
    change = abs(value - run.reference_loss)
    if estimator.readout.name != PROBE or not change > WINDOWS * abs(run.summary["start_loss"] - run.reference_loss):
        return False
    own = estimator.own_runs()
    return own is not None and change > SPREADS * own[1]


def broken_caution(run: Context, estimator: Estimator, values: Sequence[float]) -> str:
    """What is said of a method some of whose estimates have broken down; empty where none has."""
    count = sum(not math.isfinite(value) or is_broken(run, estimator, value) for value in values)
    if not count:
        return ""
    return (
        f"{count} of {len(values)} estimates have broken down: they are not finite, or far larger than what trainings change; "
        "take more steps before the window or a lower rate (`fut trust RUN`), or use --estimator replay-exact"
    )


def require_whole(run: Context, estimator: Estimator, values: Sequence[float]) -> None:
    """BrokenDownError where estimates have broken down, before anything is retrained to be compared with them."""
    if said := broken_caution(run, estimator, values):
        raise BrokenDownError(f"calibrate: expected estimates that a line can be fitted to, but {said}")

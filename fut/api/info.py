"""What a run is and what each method costs, ready for JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from fut.artifacts import dataset as dataset_file
from fut.artifacts.directory import directory_bytes
from fut.data.text import detokenize
from fut.errors import FutError, NoModuleError, UntrustedError, UsageError
from fut.estimation.calibration import known_calibrations
from fut.methods.context import Context
from fut.methods.registry import METHODS, default_estimator, open_estimator, preparations
from fut.orders.parsing import order_of
from fut.readouts.readout import PROBE
from fut.training.problem import unit_of_loss
from storage import address


def info(run: Context) -> dict[str, Any]:
    """Size, cost and state of a run, ready for JSON. Losses in `unit`; costs in gradient evaluations and bytes, None
    where only the model tells them, and it is not given or may not run."""
    facts = {
        "path": address(run.path),
        "steps": run.steps,
        "items": run.items,
        "items_per_step": run.config.data.per_step,
        "parameters": run.parameters,
        "rule": run.config.rule.name,
        "schedule": run.config.schedule.model_dump(),
        "text": run.summary["source"],
        "reference_loss": run.reference_loss,
        "start_loss": run.summary["start_loss"],
        "unit": unit_of_loss(run.problem),
        "noise": {"of": run.config.model.noise, "stays_with": run.config.model.noise_key},
        "estimators": METHODS.names,
        "precompute_gradients": {m.name: _counted(partial(m.gradients_before, run)) for m in METHODS},
        "query_gradients": {m.name: _counted(partial(m.gradients_per_order, run, {})) for m in METHODS},
        "term_bytes": {m.name: m.read_bytes(run) for m in METHODS},
        "store_bytes": directory_bytes(run.path),
        "calibrations": [asdict(calibration) for calibration in known_calibrations(run)],
        "retrained_orders": run.retrained.count(),
        "environment": run.manifest.environment,
    }
    for preparation in preparations():
        facts |= preparation.describe(run)
    return facts | {"adjoint_own_error": _own_error(run, facts["readouts"]) if facts["adjoint_cached"] else None}


def _counted(count: Callable[[], int]) -> int | None:
    """A number of gradients; None where only the model tells it, which is not given or may not run."""
    try:
        return count()
    except (NoModuleError, UntrustedError):
        return None


def _own_error(run: Context, readouts: list[str]) -> float | None:
    """What the default method errs by on the real runs that it is made of, in the loss's unit; None where it cannot be asked."""
    if readouts[0] != PROBE:  # its own runs are judged by the first read-out, in a unit of its own
        return None
    try:
        return open_estimator(run, default_estimator(run)).own_error()
    except FutError:  # tables that do not fit this machine's memory
        return None


def show_step(run: Context, step: int, order: Any = "identity") -> list[dict[str, Any]]:
    """Which items, and which text, a step consumed: item number, weight, content hash and the text of every sequence."""
    steps = order_of(run, order).entries
    if not 0 <= step < len(steps):
        raise UsageError(f"show-batch: expected a step 0..{len(steps) - 1}, got {step}; correct STEP")
    data = dataset_file.read_dataset(run.path, run.owner)
    hashes = run.manifest.identity["data"]["items"]
    return [
        {"item": i, "weight": w, "hash": hashes[i], "sequences": detokenize(data.items[i], run.config.data)}
        for i, w in steps[step]
    ]

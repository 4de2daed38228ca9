"""`verify` on a run: which orders, which estimators, what each costs, and what is kept of the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from estimators.orders.order import Order
from estimators.replay import batches
from fut.artifacts import directory as files
from fut.errors import NotCachedError, UsageError
from fut.estimation.calibration import Calibrated, answers_from, fresh_orders, read_calibration
from fut.methods.base import Estimator
from fut.methods.batching import batch_size
from fut.methods.costs import costs as costs_of
from fut.methods.registry import METHODS, REFERENCE, RETRAIN, base_name, method_of, open_estimator, require_movable
from fut.progress import Progress
from fut.questions.accuracy.result import Answers, Verification, verify
from fut.readouts.readout import PROBE, suffix
from storage import read_json, write_json

if TYPE_CHECKING:
    from fut.methods.context import Context


BASIS = "basis"
"""Of a kept verification, what each estimator's answers were made from."""


def verify_run(
    run: Context, count: int, seed: int, names: Sequence[str] | None = None, readout: str = PROBE
) -> Verification:
    """Retrain `count` random orders of the seed and compare every estimator of a read-out with them.

    names: estimators to compare; None for all whose terms are cached. `reference` is always among them. The result is
    kept in the run (`verification/`), beside the retrained endpoints, which later calls reuse.
    """
    if count < 2:
        raise UsageError(
            f"verify: expected at least 2 orders, got {count}; a correlation needs more, 32 is a good number"
        )
    asked = run.readouts.get(readout)
    chosen = _available(run, asked.name) if names is None else _checked(names)
    estimators = {
        name: open_estimator(run, name, readout=asked.name)
        for name in chosen
        if not method_of(name).capabilities.trains
    }
    for estimator in estimators.values():
        estimator.ready()  # refuse before anything is retrained
    fits = {name: read_calibration(run, name, asked.name) for name in estimators}
    used = {digest for fit in fits.values() if fit is not None for digest in fit.digests}
    orders = fresh_orders(run, count, seed, used)
    asks = {name: asker(run, estimator, fits[name], run.progress) for name, estimator in estimators.items()}
    with run.progress("retraining", count * run.steps) as tick:

        def retrain(order: Order) -> tuple[float, float]:
            found = run.retrain(order, listener=lambda step, state: tick())
            return run.readouts.truth(asked, found), found.seconds

        truths = {order: retrain(order) for order in orders}
    if RETRAIN.name in chosen:
        asks[RETRAIN.name] = lambda asked: _truth([truths[order] for order in asked])
    costs = {name: costs_of(run, name) for name in chosen}
    reference = run.readouts.at_reference(asked)
    result = verify(orders, reference, truths.__getitem__, asks, costs, asked.name, asked.unit)
    path = _record(run, count, seed, asked.name)
    path.parent.mkdir(exist_ok=True)
    write_json(path, result.as_dict() | {BASIS: {name: answers_from(run, name, asked.name) for name in estimators}})
    return result


def kept_verification(run: Context, count: int, seed: int) -> Verification | None:
    """What an earlier `verify_run` of the same orders kept, if it compared every estimator that is available now."""
    path = _record(run, count, seed, PROBE)
    if not path.exists():
        return None
    found = Verification.from_dict(without_stale(run, read_json(path)))
    return found if set(found.estimators) >= set(_available(run, PROBE)) else None


def without_stale(run: Context, content: dict[str, Any]) -> dict[str, Any]:
    """A kept verification less what it says of estimators whose terms or calibration have been made anew since."""
    basis, readout = content.get(BASIS, {}), content.get("readout", PROBE)
    stale = {name for name, held in basis.items() if held != answers_from(run, name, readout)}
    kept = ("estimators", "estimated_losses", "intervals")
    return content | {k: {n: v for n, v in content[k].items() if n not in stale} for k in kept if k in content}


def _record(run: Context, count: int, seed: int, readout: str) -> Path:
    return run.path / files.VERIFICATION / f"orders-{count}-seed-{seed}{suffix(readout)}.json"


def _truth(found: Sequence[tuple[float, float]]) -> Answers:
    """Retraining as one of the estimators: exact, each interval a point."""
    losses = [loss for loss, _ in found]
    return Answers(losses, [(loss, loss) for loss in losses], 0.0, sum(seconds for _, seconds in found))


def _checked(names: Sequence[str]) -> list[str]:
    unknown = [n for n in names if base_name(n) not in METHODS]
    if unknown:
        raise UsageError(
            f"verify: expected some of {', '.join(METHODS.names)}, got {', '.join(unknown)}; correct the names"
        )
    require_movable("verify", names)
    return list(dict.fromkeys([REFERENCE.name, *names]))


def _available(run: Context, readout: str) -> list[str]:
    """Every estimator that the run's store can serve."""
    able = []
    for name in (m.name for m in METHODS if m.capabilities.moves_items and not m.capabilities.trains):
        try:
            open_estimator(run, name, readout=readout).ready()
        except NotCachedError:
            continue
        able.append(name)
    return able


def asker(
    run: Context, estimator: Estimator, fit: Calibrated | None, progress: Progress
) -> Callable[[Sequence[Order]], Answers]:
    """The estimator as `verify` asks it, calibrated if it has been; endpoint errors against the retrained endpoints."""

    def ask(orders: Sequence[Order]) -> Answers:
        losses, variances, seconds = [0.0] * len(orders), [0.0] * len(orders), 0.0
        errors: list[float] = []
        groups = list(batches(orders, batch_size(estimator.width())))
        with progress(f"estimating with {estimator.name}", sum(len(batch[0]) for _, batch in groups)) as tick:
            for places, batch in groups:
                began = time.perf_counter()
                positions = estimator.positions(batch, lambda step, state: tick())
                found = estimator.losses(positions, len(batch[0]))
                seconds += time.perf_counter() - began
                spreads = estimator.variances(positions)
                for i, (place, order, position) in enumerate(zip(places, batch, positions, strict=True)):
                    losses[place], variances[place] = found[i], spreads[i]
                    if estimator.rebuilds:
                        errors += _endpoint_error(run, order, estimator.endpoint(position, len(order)))
        error = sum(errors) / len(errors) if errors else None
        if fit is None:
            return Answers(losses, None, error, seconds)
        intervals = [fit.interval(loss, v) for loss, v in zip(losses, variances, strict=True)]
        return Answers([fit.fit.correct(loss) for loss in losses], intervals, error, seconds, losses)

    return ask


def _endpoint_error(run: Context, order: Order, estimate: Tensor) -> list[float]:
    """|estimate - truth| / |truth - reference| over all parameters; nothing for an order that ends at the reference."""
    truth, reference = run.retrain(order).theta, run.state(len(order)).theta
    moved = (truth - reference).norm()
    return [((estimate - truth).norm() / moved).item()] if moved > 0 else []

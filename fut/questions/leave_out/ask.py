"""`lds` on a run: which subsets, which estimators, what each costs, and what is kept of the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from estimators.orders.order import Order
from fut.artifacts import directory as files
from fut.errors import NotCachedError, UsageError
from fut.methods.costs import costs as costs_of
from fut.methods.registry import ADJOINT_METHOD, METHODS, REFERENCE, base_name, method_of, open_estimator
from fut.questions.accuracy.ask import asker
from fut.questions.accuracy.result import verify
from fut.questions.leave_out.score import Datamodel, random_subsets
from fut.readouts.readout import suffix
from storage import write_json

if TYPE_CHECKING:
    from fut.methods.context import Context


READINGS = ("reweighting:reading=replayed", "reweighting:reading=linear")
DEFAULT = (*READINGS, ADJOINT_METHOD.name)
"""Estimators that are compared where none are named, those of them that are cached."""


def lds_run(
    run: Context, subsets: int, share: float, seed: int, names: Sequence[str] | None, readout: str
) -> Datamodel:
    """Retrain with `subsets` random subsets of the items left out in place, and compare estimators of a read-out with them.

    names: estimators to compare; `reference` is always among them. The result is kept in the run (`verification/`), and
    every retrained endpoint is, which later calls reuse.
    """
    if subsets < 2:
        raise UsageError(
            f"lds: expected at least 2 subsets, got {subsets}; a correlation needs more, 48 is a good number"
        )
    if seed < 0:
        raise UsageError(f"lds: expected a seed of 0 or more, got {seed}; correct --seed")
    try:
        chosen = random_subsets(run.items, subsets, share, seed)
    except ValueError as error:
        raise UsageError(f"lds: {error}; correct --share") from error
    asked = run.readouts.get(readout)
    estimators = {name: open_estimator(run, name, readout=asked.name) for name in _chosen(run, names, asked.name)}
    for estimator in estimators.values():
        estimator.ready()  # refuse before anything is retrained
    orders = [run.reference.without(left_out) for left_out in chosen]
    with run.progress("retraining", subsets * run.steps) as tick:

        def retrain(order: Order) -> tuple[float, float]:
            found = run.retrain(order, listener=lambda step, state: tick())
            return run.readouts.truth(asked, found), found.seconds

        truths = {order: retrain(order) for order in orders}
    costs = {name: costs_of(run, base_name(name)) for name in estimators}
    asks = {name: asker(run, estimator, None, run.progress) for name, estimator in estimators.items()}
    reference = run.readouts.at_reference(asked)
    found = verify(orders, reference, truths.__getitem__, asks, costs, asked.name, asked.unit)
    result = Datamodel([list(s) for s in chosen], share, seed, found)
    path = run.path / files.VERIFICATION / f"lds-{subsets}-share-{share:g}-seed-{seed}{suffix(asked.name)}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, result.as_dict())
    return result


def _chosen(run: Context, names: Sequence[str] | None, readout: str) -> list[str]:
    """The estimators to compare; without names, those of the default that the run's store can serve."""
    unknown = [n for n in names or () if base_name(n) not in METHODS or method_of(n).capabilities.trains]
    if unknown:
        known = ", ".join(m.name for m in METHODS if not m.capabilities.trains)
        raise UsageError(f"lds: expected some of {known}, got {', '.join(unknown)}; correct the names")
    if names is not None:
        return list(dict.fromkeys([REFERENCE.name, *names]))
    able = [name for name in DEFAULT if _is_cached(run, name, readout)]
    if not able:
        raise NotCachedError(
            "lds: expected what an estimator of leave-out effects reads, got none; run "
            "`fut cache RUN --terms reweighting`, or name --estimators"
        )
    return [REFERENCE.name, *able]


def _is_cached(run: Context, name: str, readout: str) -> bool:
    try:
        open_estimator(run, name, readout=readout).ready()
    except NotCachedError:
        return False
    return True

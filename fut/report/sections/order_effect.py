"""The order effect on a run: random orders that were really retrained, and some hundreds more that are estimated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from estimators.orders.order import Order, random_orders
from fut.estimation.service import Answering
from fut.methods.adjoint import identity
from fut.readouts.readout import PROBE
from fut.report.state import State, calibrations
from fut.studies.order_noise import OrderEffect, order_effect

if TYPE_CHECKING:
    from fut.methods.context import Context


SEED = 4_000_037
"""Seed of the orders that are only estimated, apart from those that anybody verifies or calibrates with."""


@dataclass(frozen=True)
class Trained:
    """A retrained order's value, in the read-out's unit. random: drawn uniformly, by `fut verify`, `fut calibrate` or
    `fut search`; any other was chosen by somebody."""

    digest: str
    value: float
    random: bool


@dataclass(frozen=True)
class Effects:
    """trained: retrained orders that consume every item as often as the reference order does. estimated: values of further
    random orders by `estimator`, calibrated or not. retrained, predicted: the spreads of both, None for fewer than two."""

    readout: str
    unit: str
    reference: float
    trained: list[Trained]
    retrained: OrderEffect | None
    estimator: str
    estimated: list[float]
    calibrated: bool
    predicted: OrderEffect | None


def gather_effects(run: Context, readout: str, state: State, count: int, estimator: str) -> Effects:
    """What is known of the order effect; `count` random orders of the seed above are estimated, none is trained."""
    asked = run.readouts.get(readout)
    reference = run.readouts.at_reference(asked)
    drawn = dict(_random_truths(run, readout, state))
    trained = [Trained(digest, value, True) for digest, value in sorted(drawn.items())]
    if readout == PROBE:
        trained += [Trained(d, v, False) for d, v in _permutations(run) if d not in drawn]
    values, calibrated = _estimates(run, readout, count, estimator)
    return Effects(
        readout,
        asked.unit,
        reference,
        trained,
        _spread(list(drawn.values()), reference),
        estimator,
        values,
        calibrated,
        _spread(values, reference),
    )


def _random_truths(run: Context, readout: str, state: State) -> Iterator[tuple[str, float]]:
    """Digest and value of every random order that a verification, a calibration or a search has retrained."""
    listed = [(v.orders, v.true_losses) for v in state.verified if v.readout == readout]
    listed += [(fit.orders, fit.truths) for fit in calibrations(run, readout)]
    kept = [([Order.of(order) for order in orders], values) for orders, values in listed]
    for found in state.searched:
        if found.readout == readout and found.start is None and not any(found.constraints.values()):
            values = found.random_losses
            kept.append((random_orders(run.reference, len(values), found.seed), values))
    for orders, values in kept:
        for order, value in zip(orders, values, strict=True):
            yield run.problem.canonical(order).digest, value


def _permutations(run: Context) -> Iterator[tuple[str, float]]:
    """Digest and probe loss of every retrained order of the same items, whole windows other than the reference."""
    canonical = run.problem.canonical
    reference = canonical(run.reference)
    for order, loss in run.retrained.losses():
        found = canonical(order)
        lengths = sorted(map(len, found.steps)) == sorted(map(len, reference.steps))
        if lengths and found.multiset_digest == reference.multiset_digest and found != reference:
            yield found.digest, loss


def _estimates(run: Context, readout: str, count: int, estimator: str) -> tuple[list[float], bool]:
    if not count or not identity.has_expansion(run.path):
        return [], False
    asker = Answering(run, estimator, readout, known=False)
    with run.progress(f"estimating {count} random orders", 1) as tick:
        found = asker.edited(random_orders(run.reference, count, SEED), [None] * count)
        tick()
    return [answer.value for answer in found], asker.calibration is not None


def _spread(values: Sequence[float], reference: float) -> OrderEffect | None:
    return order_effect(values, reference) if len(values) > 1 else None

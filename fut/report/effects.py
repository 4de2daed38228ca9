"""The order effect on a run: random orders that were retrained, and some hundreds more that are estimated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from estimators.orders.order import Order, random_orders
from fut.estimation.service import EstimationService
from fut.methods.adjoint import identity
from fut.questions.curriculum.result import Curriculum
from fut.readouts.readout import PROBE
from fut.report.board.tables import Board
from fut.report.section import RunRecord, calibrations
from fut.report.shared import distrusted, page_board, page_readout
from fut.studies.noise.spread import OrderEffect, order_effect

if TYPE_CHECKING:
    from fut.methods.context import Context


SEED = 4_000_037
"""Seed of the orders that are only estimated, apart from those that anybody verifies or calibrates with."""


@dataclass(frozen=True)
class Trained:
    """A retrained order.

    Args:
        value: in the read-out's unit.
        random: drawn uniformly, by `fut verify`, `fut calibrate` or `fut search`; any other was chosen by somebody.
    """

    value: float
    random: bool


@dataclass(frozen=True)
class Effects:
    """What is known of the order effect.

    Args:
        readout: by name.
        unit: of all values.
        reference: value in the reference order.
        trained: retrained orders that consume every item as often as the reference order does.
        retrained: spread of the random ones; None for fewer than two.
        estimator: who estimates further random orders.
        estimated: their values.
        calibrated: whether these are calibrated.
        predicted: their spread; None for fewer than two.
    """

    readout: str
    unit: str
    reference: float
    trained: list[Trained]
    retrained: OrderEffect | None
    estimator: str
    estimated: list[float]
    calibrated: bool
    predicted: OrderEffect | None

    @property
    def chosen(self) -> int:
        """Retrained orders that a question chose."""
        return sum(not t.random for t in self.trained)


def page_effects(record: RunRecord) -> Effects:
    """The order effect on the page's read-out; no random orders are estimated where their estimator misleads."""
    drawable = isinstance(record.once(page_board), Board) and not record.once(distrusted)
    return gather_effects(record, record.once(page_readout), record.sampling.count if drawable else 0)


def gather_effects(record: RunRecord, readout: str, count: int) -> Effects:
    """What is known of the order effect on a read-out; nothing is trained.

    Args:
        record: of the run.
        readout: by name.
        count: random orders of the seed above that are estimated.
    """
    run, estimator = record.run, record.sampling.estimator
    measure = run.readouts.get(readout)
    reference = run.readouts.at_reference(measure)
    drawn = dict(_random_truths(record, readout))
    trained = [Trained(value, True) for _, value in sorted(drawn.items())]
    if readout == PROBE:
        trained += [Trained(value, False) for digest, value in _permutations(run) if digest not in drawn]
    values, calibrated = _estimates(run, readout, count, estimator)
    spreads = _spread(list(drawn.values()), reference), _spread(values, reference)
    return Effects(readout, measure.unit, reference, trained, spreads[0], estimator, values, calibrated, spreads[1])


def _random_truths(record: RunRecord, readout: str) -> Iterator[tuple[str, float]]:
    """Digest and value of every random order that a verification, a calibration or a search has retrained."""
    run = record.run
    listed = [(v.orders, v.true_losses) for v in record.verified if v.readout == readout]
    listed += [(fit.orders, fit.truths) for fit in calibrations(run, readout)]
    kept = [([Order.of(order) for order in orders], values) for orders, values in listed]
    for answer in record.read("search", Curriculum.from_dict):
        if answer.readout == readout and answer.search.start is None and not any(answer.search.constraints.values()):
            values = answer.truths.random_losses
            kept.append((random_orders(run.reference, len(values), answer.search.seed), values))
    for orders, values in kept:
        for order, value in zip(orders, values, strict=True):
            yield run.problem.canonical(order).digest, value


def _permutations(run: Context) -> Iterator[tuple[str, float]]:
    """Digest and probe loss of every retrained order of the same items, whole windows other than the reference."""
    canonical = run.problem.canonical
    reference = canonical(run.reference)
    for order, loss in run.retrained.losses():
        permuted = canonical(order)
        lengths = sorted(map(len, permuted.steps)) == sorted(map(len, reference.steps))
        if lengths and permuted.multiset_digest == reference.multiset_digest and permuted != reference:
            yield permuted.digest, loss


def _estimates(run: Context, readout: str, count: int, estimator: str) -> tuple[list[float], bool]:
    if not count or not identity.has_expansion(run.path):
        return [], False
    asker = EstimationService(run).estimates(estimator, readout, known=False)
    with run.progress(f"estimating {count} random orders", 1) as tick:
        answers = asker.edited(random_orders(run.reference, count, SEED), [None] * count)
        tick()
    return [a.value for a in answers], asker.calibration is not None


def _spread(values: Sequence[float], reference: float) -> OrderEffect | None:
    return order_effect(values, reference) if len(values) > 1 else None

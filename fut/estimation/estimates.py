"""One read-out under many orders: what is known is recalled, the rest is estimated in batches and calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from estimators.orders.distance import Distance
from estimators.orders.order import Order
from fut.errors import NotCachedError
from fut.estimation.calibration import Calibrated, read_calibration
from fut.estimation.results import Estimate, estimated, known_truth
from fut.methods.base import Estimator
from fut.methods.batching import raw_estimates
from fut.methods.registry import canonical, method_of, open_estimator
from fut.orders.editing import CALIBRATED, edits_between

if TYPE_CHECKING:
    from fut.methods.context import Context


OTHER_ITEMS = (
    "this order trains on other items than the reference, or on some more often, unlike the random orders that the interval "
    "was fitted on"
)


class ReadoutEstimates:
    """One read-out of a run under any number of orders, by one method, whose tables are read once.

    Args:
        context: the opened run.
        method: its name; `retrain` trains every order that has not been trained yet.
        readout: the read-out's name.
        known: answer orders that have been retrained on this run by their truth.
        calibrated: apply the method's calibration, if there is one.
        beside: another read-out's estimates by the same method; what both read is then held in memory once.
        options: of the method; they go without a calibration.
    """

    _edit: str | None = None
    _origin: ReadoutEstimates | None = None

    def __init__(
        self,
        context: Context,
        method: str,
        readout: str,
        *,
        known: bool = True,
        calibrated: bool = True,
        beside: ReadoutEstimates | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._run, self.method, self._known_counts, self._options = context, canonical(method), known, options or {}
        self._trains = method_of(method).capabilities.trains
        self._about = context.readouts.get(readout)
        self.readout, self.unit = self._about.name, self._about.unit
        self.reference = context.readouts.at_reference(self._about)
        self._calibrated = calibrated and not options and not self._trains
        self._beside = beside

    @property
    def fitted_to(self) -> str | None:
        """What the intervals are fitted to: `random` orders, or a kind of edit; None without a calibration."""
        return None if self.calibration is None else self.calibration.edit or "random"

    def for_edit(self, edit: str) -> ReadoutEstimates:
        """The same for orders that each are one edit of a kind of the reference order, which a calibration on such orders is
        for, where there is one; the estimator is the same."""
        near = copy(self)
        near._edit, near._origin = edit, self
        for name in ("calibration", "estimator"):
            near.__dict__.pop(name, None)
        return near

    @cached_property
    def calibration(self) -> Calibrated | None:
        if not self._calibrated:
            return None
        near = read_calibration(self._run, self.method, self.readout, self._edit) if self._edit else None
        return near or read_calibration(self._run, self.method, self.readout)

    @cached_property
    def estimator(self) -> Estimator:
        if self._origin is not None:
            return self._origin.estimator
        made = open_estimator(self._run, self.method, readout=self.readout, **self._options)
        if self._beside is not None:
            with suppress(NotCachedError):
                made.share(self._beside.estimator)
        return made

    @cached_property
    def _canonical_reference(self) -> Order:
        return self._run.problem.canonical(self._run.reference)

    def ready(self) -> None:
        """NotCachedError, naming the command to run, if the store lacks what the estimator reads."""
        if not self._trains:
            self.estimator.ready()

    def __call__(self, orders: Sequence[Order]) -> list[Estimate]:
        """An answer per checked order."""
        about, reference = self._about, self.reference
        if self._trains:
            truths = [self._run.readouts.truth(about, self._run.retrain(o)) for o in orders]
            return [known_truth(o, self.method, t, reference, about) for o, t in zip(orders, truths, strict=True)]
        known = self._known(orders)
        rest = [i for i in range(len(orders)) if i not in known]
        values, variances = self._raw([orders[i] for i in rest])
        figures = dict(zip(rest, zip(values, variances, strict=True), strict=True))
        own_error = self.estimator.own_error() if rest and self.calibration is None else None
        return [
            known_truth(order, self.method, known[i], reference, about)
            if i in known
            else self._remarked(
                order,
                estimated(
                    order, self.method, *figures[i], reference, self.calibration, about, own_error, self._share(order)
                ),
            )
            for i, order in enumerate(orders)
        ]

    def edited(self, orders: Sequence[Order], edits: Sequence[str | None]) -> list[Estimate]:
        """The same of orders that each may be one edit of the reference order, which a calibration on such edits then answers.

        edits: per order, the kind of the edit that it was asked for as (`only_edit`), or None. An order that was not asked for
        so, and is one swap or move by what its steps consume, is answered as that edit is.
        """
        if not orders:
            return self(orders)
        answers: dict[int, Estimate] = {}
        kinds = [self._kind(order, edit) for order, edit in zip(orders, edits, strict=True)]
        for edit in dict.fromkeys(kinds):
            places = [place for place, kind in enumerate(kinds) if kind == edit]
            estimates = self if edit is None else self.for_edit(edit)
            answers |= zip(places, estimates([orders[place] for place in places]), strict=True)
        return [answers[place] for place in range(len(orders))]

    def _kind(self, order: Order, written: str | None) -> str | None:
        """The kind of edit by whose calibration an order is answered: as it was asked for, else as its steps say."""
        if written in self._fitted_edits or not self._fitted_edits:
            return written
        between = edits_between(self._canonical_reference, self._run.problem.canonical(order))
        return next((kind for kind in between if kind in self._fitted_edits), written)

    @cached_property
    def _fitted_edits(self) -> set[str]:
        """Kinds of single edits that the estimator is calibrated on."""
        if not self._calibrated:
            return set()
        return {kind for kind in CALIBRATED if read_calibration(self._run, self.method, self.readout, kind)}

    def _known(self, orders: Sequence[Order]) -> dict[int, float]:
        """The read-out's true value by the place of every order that it is known for."""
        trained = self._run.retrained.among(orders) if self._known_counts else {}
        known = {i: self._run.readouts.truth(self._about, truth) for i, truth in trained.items()}
        if self.calibration is not None:
            # a fit would move the reference order's value, which every estimator gives exactly
            known |= {i: self.reference for i, order in enumerate(orders) if self._is_reference(order)}
        return known

    def _remarked(self, order: Order, answer: Estimate) -> Estimate:
        """With what the estimator says against itself, and where random orders consume other items than the order does, with the
        word that the interval is of such orders."""
        if self._caution:
            answer = replace(answer, note=f"{answer.note}; {self._caution}")
        if answer.interval is None or (self.calibration is not None and self.calibration.edit):
            return answer
        return answer if _consumed(order) == self._items else replace(answer, note=f"{answer.note}; {OTHER_ITEMS}")

    @cached_property
    def _caution(self) -> str:
        return self.estimator.caution()

    @cached_property
    def _items(self) -> list[tuple[int, float]]:
        return _consumed(self._run.reference)

    @cached_property
    def _distance(self) -> Distance:
        return Distance(self._canonical_reference)

    def _share(self, order: Order) -> float:
        fit = self.calibration
        return 1.0 if fit is None or fit.edit else self._distance.share(self._run.problem.canonical(order))

    def _is_reference(self, order: Order) -> bool:
        """Whether the order consumes the reference order's very content at every step: equal items are one."""
        return self._run.problem.canonical(order) == self._canonical_reference

    def _raw(self, orders: Sequence[Order]) -> tuple[list[float], list[float]]:
        if orders:
            return raw_estimates(self.estimator, orders)
        with suppress(NotCachedError):  # a wrong name or option is refused even where nothing is left to estimate
            _ = self.estimator
        return [], []


def _consumed(order: Order) -> list[tuple[int, float]]:
    """Items and weights that an order consumes, ascending: those of permutations are equal."""
    if order.weights is None:
        return [(item, 1.0) for item in sorted(item for step in order.steps for item in step)]
    return sorted(pair for step in order.entries for pair in step if pair[1] > 0)

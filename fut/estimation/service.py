"""Estimates of many orders: what is known is recalled, the rest is estimated in batches and calibrated."""

from __future__ import annotations

from collections.abc import Sequence
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
from fut.methods.registry import open_estimator
from fut.orders.editing import CALIBRATED, edits_between

if TYPE_CHECKING:
    from fut.methods.context import Context


OTHER_ITEMS = (
    "this order trains on other items than the reference, or on some more often, unlike the random orders that the interval "
    "was fitted on"
)


class Answering:
    """One read-out of a run under any number of orders, by one estimator, whose tables are read once.

    known: answer orders that have really been trained on this run by their truth. calibrated: apply the estimator's
    calibration, if there is one. `name` may be `retrain`, which trains every order not trained yet.
    """

    _edit: str | None = None
    _origin: Answering | None = None
    _other: Answering | None = None

    def __init__(
        self, run: Context, name: str, readout: str, known: bool = True, calibrated: bool = True, **options: str
    ) -> None:
        self.run, self.name, self.known, self._options = run, name, known, options
        self.readout = run.readouts.get(readout)
        self.reference = run.readouts.at_reference(self.readout)
        self._calibrated = calibrated and not options and name != "retrain"

    def for_edit(self, edit: str) -> Answering:
        """The same for orders that each are one edit of a kind of the reference order, which a calibration on such orders is
        for, where there is one; the estimator is the same."""
        found = copy(self)
        found._edit, found._origin = edit, self
        for name in ("calibration", "estimator"):
            found.__dict__.pop(name, None)
        return found

    def beside(self, other: Answering) -> Answering:
        """This one, holding in memory only once what another read-out's estimator of the same name reads as well."""
        self._other = other
        return self

    @cached_property
    def calibration(self) -> Calibrated | None:
        if not self._calibrated:
            return None
        near = read_calibration(self.run, self.name, self.readout.name, self._edit) if self._edit else None
        return near or read_calibration(self.run, self.name, self.readout.name)

    @cached_property
    def estimator(self) -> Estimator:
        if self._origin is not None:
            return self._origin.estimator
        made = open_estimator(self.run, self.name, readout=self.readout.name, **self._options)
        if self._other is not None:
            with suppress(NotCachedError):
                made.share(self._other.estimator)
        return made

    @cached_property
    def _canonical_reference(self) -> Order:
        return self.run.problem.canonical(self.run.reference)

    def ready(self) -> None:
        """NotCachedError, naming the command to run, if the store lacks what the estimator reads."""
        if self.name != "retrain":
            self.estimator.ready()

    def __call__(self, orders: Sequence[Order]) -> list[Estimate]:
        """An answer per checked order."""
        asked, reference = self.readout, self.reference
        if self.name == "retrain":
            truths = [self.run.readouts.truth(asked, self.run.retrain(o)) for o in orders]
            return [known_truth(o, self.name, t, reference, asked) for o, t in zip(orders, truths, strict=True)]
        known = self._known(orders)
        rest = [i for i in range(len(orders)) if i not in known]
        values, variances = self._raw([orders[i] for i in rest])
        figures = dict(zip(rest, zip(values, variances, strict=True), strict=True))
        own_error = self.estimator.own_error() if rest and self.calibration is None else None
        return [
            known_truth(order, self.name, known[i], reference, asked)
            if i in known
            else self._remarked(
                order,
                estimated(
                    order, self.name, *figures[i], reference, self.calibration, asked, own_error, self._share(order)
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
        found: dict[int, Estimate] = {}
        kinds = [self._kind(order, edit) for order, edit in zip(orders, edits, strict=True)]
        for edit in dict.fromkeys(kinds):
            places = [place for place, own in enumerate(kinds) if own == edit]
            asker = self if edit is None else self.for_edit(edit)
            found |= zip(places, asker([orders[place] for place in places]), strict=True)
        return [found[place] for place in range(len(orders))]

    def _kind(self, order: Order, asked: str | None) -> str | None:
        """The kind of edit by whose calibration an order is answered: as it was asked for, else as its steps say."""
        if asked in self._fitted_edits or not self._fitted_edits:
            return asked
        between = edits_between(self._canonical_reference, self.run.problem.canonical(order))
        return next((kind for kind in between if kind in self._fitted_edits), asked)

    @cached_property
    def _fitted_edits(self) -> set[str]:
        """Kinds of single edits that the estimator is calibrated on."""
        if not self._calibrated:
            return set()
        return {kind for kind in CALIBRATED if read_calibration(self.run, self.name, self.readout.name, kind)}

    def _known(self, orders: Sequence[Order]) -> dict[int, float]:
        """The read-out's true value by the place of every order that it is known for."""
        found = self.run.retrained.among(orders) if self.known else {}
        known = {i: self.run.readouts.truth(self.readout, truth) for i, truth in found.items()}
        if self.calibration is not None:
            # a fit would move the reference order's value, which every estimator gives exactly
            known |= {i: self.reference for i, order in enumerate(orders) if self._is_reference(order)}
        return known

    def _remarked(self, order: Order, found: Estimate) -> Estimate:
        """With what the estimator says against itself, and where random orders consume other items than the order does, with the
        word that the interval is of such orders."""
        if self._caution:
            found = replace(found, note=f"{found.note}; {self._caution}")
        if found.interval is None or (self.calibration is not None and self.calibration.edit):
            return found
        return found if _consumed(order) == self._items else replace(found, note=f"{found.note}; {OTHER_ITEMS}")

    @cached_property
    def _caution(self) -> str:
        return self.estimator.caution()

    @cached_property
    def _items(self) -> list[tuple[int, float]]:
        return _consumed(self.run.reference)

    @cached_property
    def _distance(self) -> Distance:
        return Distance(self._canonical_reference)

    def _share(self, order: Order) -> float:
        fit = self.calibration
        return 1.0 if fit is None or fit.edit else self._distance.share(self.run.problem.canonical(order))

    def _is_reference(self, order: Order) -> bool:
        """Whether the order consumes the reference order's very content at every step: equal items are one."""
        return self.run.problem.canonical(order) == self._canonical_reference

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

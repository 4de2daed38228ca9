"""One read-out under many orders: what is known is recalled, the rest is estimated in batches and calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from estimators.orders.order import Order
from fut.errors import NotCachedError
from fut.estimation.calibration import Calibrated, read_calibration
from fut.estimation.nearness import Nearness
from fut.estimation.plausible import BROKEN, is_broken
from fut.estimation.results import Estimate, estimated, exact_reference, known_truth
from fut.methods.base import Estimator
from fut.methods.batching import raw_estimates
from fut.methods.elsewhere import train_ahead
from fut.methods.registry import canonical, default_estimator, method_of, open_estimator
from fut.orders.editing import CALIBRATED, edits_between
from fut.readouts.readout import PROBE

if TYPE_CHECKING:
    from fut.methods.context import Context


OTHER_ITEMS = (
    "this order trains on other items than the reference, or on some more often, unlike the random orders that the interval "
    "was fitted on"
)
EDIT = "`fut calibrate RUN --edit {}` fits it to single edits, which are estimated better"


class ReadoutEstimates:
    """One read-out of a run under any number of orders, by one method, whose tables are read once.

    Args:
        context: the opened run.
        method: its name; `retrain` trains every order that has not been trained yet.
        readout: the read-out's name.
        known: look for orders that have been retrained on this run: their truth is the answer.
        named: the method was named, so that it answers every order itself; what is known of the truth stands beside.
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
        named: bool = False,
        calibrated: bool = True,
        beside: ReadoutEstimates | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._run, self.method, self._known_counts, self._options = context, canonical(method), known, options or {}
        self._trains, self._named = method_of(method).capabilities.trains, named
        self._about = context.readouts.get(readout)
        self.readout, self.unit = self._about.name, self._about.unit
        self.reference = context.readouts.at_reference(self._about)
        self._calibrated = calibrated and not options and not self._trains
        self._beside, self._near = beside, Nearness(context, self._about)

    @property
    def fitted_to(self) -> str | None:
        """What the intervals are fitted to: `random` orders, or a kind of edit; None without a calibration."""
        return None if self.calibration is None else self.calibration.kind

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

    def ready(self) -> None:
        """NotCachedError, naming the command to run, if the store lacks what the estimator reads."""
        if not self._trains:
            self.estimator.ready()

    def __call__(self, orders: Sequence[Order]) -> list[Estimate]:
        """An answer per checked order."""
        about, reference = self._about, self.reference
        if self._trains:
            train_ahead(self._run, map(about.seen, orders))
            trained = [self._run.readouts.truth(about, self._run.retrain(about.seen(o))) for o in orders]
            return [known_truth(o, self.method, t, reference, about) for o, t in zip(orders, trained, strict=True)]
        truths = self._truths(orders)
        if self._named:
            self.ready()  # even where the reference order alone is asked about
            if self._known_counts:
                truths |= {i: reference for i, order in enumerate(orders) if self._is_reference(order)}
            return [
                replace(answer, truth=truths.get(i))
                for i, answer in enumerate(self._estimated(orders, range(len(orders))))
            ]
        truths |= self._exact(orders)
        rest = [i for i in range(len(orders)) if i not in truths]
        answers = {i: known_truth(orders[i], self.method, truth, reference, about) for i, truth in truths.items()}
        answers |= zip(rest, self._estimated(orders, rest), strict=True)
        return [answers[i] for i in range(len(orders))]

    def _estimated(self, orders: Sequence[Order], places: Sequence[int]) -> list[Estimate]:
        """The method's own answers about the orders at some places, whatever is known of the truth."""
        about, reference, fit = self._about, self.reference, self.calibration
        exact = self._exact(orders)
        asked = [i for i in places if i not in exact]
        values, variances = self._raw([orders[i] for i in asked])
        figures = dict(zip(asked, zip(values, variances, strict=True), strict=True))
        own_error = self.estimator.own_error() if asked and fit is None else None
        answers = []
        for i in places:
            order = orders[i]
            if i in exact:
                answers.append(exact_reference(order, self.method, reference, about))
                continue
            share = self._near.share(fit, order)
            answer = estimated(order, self.method, *figures[i], reference, fit, about, own_error, share)
            answers.append(self._remarked(order, answer))
        return answers

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
        if written in self._fitted_edits or (self.calibration is None and not self._fitted_edits):
            return written
        between = edits_between(self._near.reference, self._run.problem.canonical(order))
        return next((kind for kind in between if kind in self._fitted_edits), written or next(iter(between), None))

    @cached_property
    def _fitted_edits(self) -> set[str]:
        """Kinds of single edits that the estimator is calibrated on."""
        if not self._calibrated:
            return set()
        return {kind for kind in CALIBRATED if read_calibration(self._run, self.method, self.readout, kind)}

    def _truths(self, orders: Sequence[Order]) -> dict[int, float]:
        """The read-out's true value by the place of every order that has been retrained, where that is looked for."""
        trained = self._run.retrained.among([self._about.seen(o) for o in orders]) if self._known_counts else {}
        return {i: self._run.readouts.truth(self._about, truth) for i, truth in trained.items()}

    def _exact(self, orders: Sequence[Order]) -> dict[int, float]:
        """The reference order's value by place, under a calibration, whose fit would move what every estimator gives exactly."""
        if self.calibration is None:
            return {}
        return {i: self.reference for i, order in enumerate(orders) if self._is_reference(order)}

    def _remarked(self, order: Order, answer: Estimate) -> Estimate:
        """With what the estimator says against itself, and where the interval was fitted to orders unlike this one, with the word
        that it was."""
        said = [answer.note, self.caution, BROKEN if is_broken(self._run, self.estimator, answer.value) else ""]
        if answer.interval is not None and (self.calibration is None or not self.calibration.edit):
            said.append(self._unlike(order))
        return replace(answer, note="; ".join(part for part in said if part))

    def _unlike(self, order: Order) -> str:
        """How an order differs from the random ones that a calibration is of."""
        other = "" if _consumed(order) == self._items else OTHER_ITEMS
        command = self._edit or ""
        if command and self.method != default_estimator(self._run):
            command += f" --estimator {self.method}"
        if command and self.readout != PROBE:
            command += f" --readout {self.readout}"
        return "; ".join(part for part in (other, command and EDIT.format(command)) if part)

    @cached_property
    def caution(self) -> str:
        """What the estimator says against its estimates on this run; empty for nothing."""
        return "" if self._trains else self.estimator.caution()

    @cached_property
    def _items(self) -> list[tuple[int, float]]:
        return _consumed(self._run.reference)

    def _is_reference(self, order: Order) -> bool:
        """Whether the order consumes the reference order's very content at every step: equal items are one."""
        return self._near.is_reference(order)

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

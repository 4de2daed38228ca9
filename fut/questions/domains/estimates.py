"""What a method says of orders that move domains or one item, calibrated on such orders, and what is known of their truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.intervals import Calibration
from estimators.intervals import calibrate as fit
from estimators.orders.order import Order
from fut.divergence import require_trained, trained_apart
from fut.protocols import Value
from fut.questions.context import QuestionContext
from fut.questions.domains.result import Answer
from fut.questions.retraining import LEAST

SHARE = 2
"""Retrained orders that move domains for every one that moves an item."""
CALIBRATED, VERIFIED = 61, 59
"""What seeds of both draws differ in."""
RANDOM = (
    "; random orders are what it was calibrated on, and whole domains in a row lie outside its intervals more often: "
    "`fut domains --calibrate 8` fits it to orders like these"
)

REFERENCE = "the reference order's recorded value, which every estimator gives exactly"


class DomainEstimates:
    """One method about one read-out, and the truth about some of the orders that it is asked about.

    Estimates train nothing; what `retrain_to_fit` and `retrain_to_verify` train is in their names.
    """

    def __init__(self, context: QuestionContext, method: str, readout: str, seed: int) -> None:
        self._context, self._run, self._seed = context, context.run, seed
        estimates = context.service.estimates
        self._far = estimates(method, readout, known=False)
        self._close = self._far.for_edit("move") if context.run.items_per_step == 1 else self._far
        self._plain = estimates(method, readout, known=False, calibrated=False, beside=self._far)
        self._truths = context.service.truths(readout)
        self.readout, self.unit, self.reference = self._far.readout, self._far.unit, self._far.reference
        self._canonical_reference = self._run.canonical(self._run.reference)
        self.diverged: list[Order] = []
        self.trained = 0
        self._fitted: set[Order] = set()
        self._fit: Calibration | None = None
        self._guesses: dict[tuple[Order, ...], Sequence[Value]] = {}

    def fitted_on(self, order: Order) -> bool:
        """Whether the calibration saw the truth about this order."""
        return self._run.canonical(order) in self._fitted

    def estimate(self, orders: Sequence[Order]) -> list[Answer]:
        """Of orders that move domains."""
        if self._fit is None:
            return [_noted(answer, RANDOM if _has_fit(answer) else "") for answer in self._far(orders)]
        return [self._corrected(self._fit, o, a) for o, a in zip(orders, self._guessed(orders), strict=True)]

    def retrain_to_fit(self, orders: Sequence[Order], count: int) -> None:
        """Really train `count` of the orders that move domains, and fit later estimates of such orders to them."""
        guesses = {self._run.canonical(o): a.value for o, a in zip(orders, self._guessed(orders), strict=True)}
        before = len(self.diverged)
        retrained = self._retrain(orders, count, CALIBRATED)
        require_trained("domains", len(retrained), self.diverged[before:], LEAST)
        self._fitted = set(retrained)
        self._fit = fit([self._truths.train(order) for order in retrained], [guesses[order] for order in retrained])

    def retrain_to_verify(self, orders: Sequence[Order], close: Sequence[Order], count: int) -> None:
        """Really train `count` of the orders that were not fitted to, and half as many of those that move one item."""
        for estimates in (self._far, self._close):
            estimates.ready()  # before anything is trained
        self._retrain([order for order in orders if not self.fitted_on(order)], count, VERIFIED)
        self._retrain(close, count // SHARE, VERIFIED)

    def _guessed(self, orders: Sequence[Order]) -> Sequence[Value]:
        """Estimates without any calibration, made once."""
        key = tuple(orders)
        if key not in self._guesses:
            self._guesses[key] = self._plain(orders)
        return self._guesses[key]

    def _corrected(self, calibration: Calibration, order: Order, answer: Value) -> Answer:
        """An estimate by the fit to orders of domains; the reference order's own value as it is known."""
        if self._run.canonical(order) == self._canonical_reference:
            return Answer(self.reference, 0.0, (self.reference, self.reference), REFERENCE)
        value, interval = calibration.correct(answer.value), calibration.interval(answer.value)
        note = f"calibrated on {len(self._fitted)} retrained orders of domains; interval of level 0.9"
        note += f"; {self._plain.caution}" if self._plain.caution else ""
        return Answer(value, value - self.reference, interval, note)

    def estimate_close(self, orders: Sequence[Order]) -> list[Answer]:
        """Of orders that move one item: by a calibration on such orders where there is one, which is said where there is not."""
        return [_noted(answer, "") for answer in self._close(orders)]

    def truth(self, order: Order) -> float | None:
        """The read-out's value, if the order, or the reference order with the same content, has been retrained."""
        if self._run.canonical(order) == self._canonical_reference:
            return self.reference
        return self._truths.find(order)

    def _retrain(self, orders: Sequence[Order], count: int, key: int) -> list[Order]:
        """`count` of the orders that train otherwise than the reference order does, drawn from the seed, in canonical form;
        all where they are fewer. Those whose training diverges go to `diverged`."""
        forms = (self._run.canonical(order) for order in orders)
        different = list(dict.fromkeys(form for form in forms if form != self._canonical_reference))
        places = np.random.default_rng([self._seed, key]).permutation(len(different))[:count]
        drawn = [different[place] for place in sorted(places.tolist())]
        with self._context.progress("retraining", len(drawn) * self._run.steps) as tick:
            self._truths.ahead(drawn, tick)
            trained, diverged = trained_apart(drawn, lambda order: self._truths.train(order, tick))
        self.diverged += diverged
        self.trained += len(trained)
        return list(trained)


def _noted(answer: Value, more: str) -> Answer:
    return Answer(answer.value, answer.delta, answer.interval, answer.note + more)


def _has_fit(answer: Value) -> bool:
    """Whether it is an estimate with an interval."""
    return answer.interval is not None and answer.source == "estimate"

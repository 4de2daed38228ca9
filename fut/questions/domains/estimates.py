"""What an estimator says of orders that move domains or one item, calibrated on such orders, and what is known of their truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from estimators.intervals import Calibration
from estimators.intervals import calibrate as fit
from estimators.orders.order import Order
from fut.estimation.results import Estimate, known_truth
from fut.estimation.service import Answering

if TYPE_CHECKING:
    from fut.methods.context import Context


SHARE = 2
"""Retrained orders that move domains for every one that moves an item."""
CALIBRATED, VERIFIED = 61, 59
"""What seeds of both draws differ in."""
RANDOM = (
    "; random orders are what it was calibrated on, and whole domains in a row lie outside its intervals more often: "
    "`fut domains --calibrate 8` fits it to orders like these"
)

MOVES = "`fut calibrate RUN --edit move` fits it to orders like this one"


class Asking:
    """One estimator of one read-out, and the truth about some of the orders that it is asked about.

    Estimates train nothing; what `retrain_to_fit` and `retrain_to_verify` train is in their names.
    """

    def __init__(self, run: Context, name: str, readout: str, seed: int) -> None:
        self._run, self._seed = run, seed
        self._far = Answering(run, name, readout, known=False)
        self._close = self._far.for_edit("move") if run.config.data.per_step == 1 else self._far
        self._plain = Answering(run, name, readout, known=False, calibrated=False).beside(self._far)
        self.readout, self.reference = self._far.readout, self._far.reference
        self._fitted: set[Order] = set()
        self._fit: Calibration | None = None
        self._guesses: dict[tuple[Order, ...], list[Estimate]] = {}

    def fitted_on(self, order: Order) -> bool:
        """Whether the calibration saw the truth about this order."""
        return self._run.problem.canonical(order) in self._fitted

    def estimate(self, orders: Sequence[Order]) -> list[Estimate]:
        """Of orders that move domains."""
        if self._fit is None:
            return [self._random(answer) for answer in self._far(orders)]
        return [self._corrected(self._fit, o, a) for o, a in zip(orders, self._guessed(orders), strict=True)]

    def _random(self, answer: Estimate) -> Estimate:
        """With the word that the interval is that of random orders."""
        fitted = answer.interval is not None and answer.source == "estimate"
        return replace(answer, note=answer.note + RANDOM) if fitted else answer

    def retrain_to_fit(self, orders: Sequence[Order], count: int) -> None:
        """Really train `count` of the orders that move domains, and fit later estimates of such orders to them."""
        guesses = {self._canonical(o): a.value for o, a in zip(orders, self._guessed(orders), strict=True)}
        chosen = self._retrain(orders, count, CALIBRATED)
        self._fitted = set(chosen)
        truths = [self._run.readouts.truth(self.readout, self._run.retrain(order)) for order in chosen]
        self._fit = fit(truths, [guesses[order] for order in chosen])

    def retrain_to_verify(self, orders: Sequence[Order], close: Sequence[Order], count: int) -> None:
        """Really train `count` of the orders that were not fitted to, and half as many of those that move one item."""
        for asker in (self._far, self._close):
            asker.ready()  # before anything is trained
        self._retrain([order for order in orders if not self.fitted_on(order)], count, VERIFIED)
        self._retrain(close, count // SHARE, VERIFIED)

    def _guessed(self, orders: Sequence[Order]) -> list[Estimate]:
        """Estimates without any calibration, made once."""
        key = tuple(orders)
        if key not in self._guesses:
            self._guesses[key] = self._plain(orders)
        return self._guesses[key]

    def _corrected(self, found: Calibration, order: Order, answer: Estimate) -> Estimate:
        """An estimate by the fit to orders of domains; the reference order's own value as it is known."""
        if self._canonical(order) == self._own:
            return known_truth(order, answer.estimator, self.reference, self.reference, self.readout)
        value, interval = found.correct(answer.value), found.interval(answer.value)
        note = f"calibrated on {len(self._fitted)} retrained orders of domains; interval of level 0.9"
        return replace(answer, value=value, delta=value - self.reference, interval=interval, note=note)

    def estimate_close(self, orders: Sequence[Order]) -> list[Estimate]:
        """Of orders that move one item: by a calibration on such orders where there is one, which is said where there is not."""
        answers, found = self._close(orders), self._close.calibration
        if found is not None and found.edit is None:
            answers = [
                replace(a, note=f"{a.note}; {MOVES}") if a.source == "estimate" and a.interval is not None else a
                for a in answers
            ]
        return answers

    def truth(self, order: Order) -> float | None:
        """The read-out's value, if the order, or the reference order with the same content, has really been trained."""
        if self._canonical(order) == self._own:
            return self.reference
        found = self._run.retrained.find(order)
        return None if found is None else self._run.readouts.truth(self.readout, found)

    def _canonical(self, order: Order) -> Order:
        return self._run.problem.canonical(order)

    @cached_property
    def _own(self) -> Order:
        return self._canonical(self._run.reference)

    def _retrain(self, orders: Sequence[Order], count: int, key: int) -> list[Order]:
        """`count` of the orders that train otherwise than the reference order does, drawn from the seed, in canonical form;
        all where they are fewer."""
        own, run = self._own, self._run
        different = list({of: None for order in orders if (of := self._canonical(order)) != own})
        drawn = np.random.default_rng([self._seed, key]).permutation(len(different))[:count]
        chosen = [different[k] for k in sorted(drawn.tolist())]
        with run.progress("retraining", len(chosen) * run.steps) as tick:
            for order in chosen:
                run.retrain(order, lambda step, state: tick())
        return chosen

"""What an estimator says of orders that move domains or one item, calibrated on such orders, and what is known of their truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

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

    calibrate: how many orders that move domains to fit it to; verify: how many others to retrain.
    """

    def __init__(self, run: Context, name: str, readout: str, calibrate: int, verify: int, seed: int) -> None:
        self._run, self._calibrate, self._verify, self._seed = run, calibrate, verify, seed
        self._far = Answering(run, name, readout, known=False)
        self._close = self._far.for_edit("move") if run.config.data.per_step == 1 else self._far
        self._plain = Answering(run, name, readout, known=False, calibrated=False).beside(self._far)
        self.readout, self.reference = self._far.readout, self._far.reference
        self._fitted: set[Order] = set()

    def fitted_on(self, order: Order) -> bool:
        """Whether the calibration saw the truth about this order."""
        return self._run.problem.canonical(order) in self._fitted

    def estimate(self, orders: Sequence[Order]) -> list[Estimate]:
        """Of orders that move domains."""
        answers = self._refitted(orders) if self._calibrate else [self._random(a) for a in self._far(orders)]
        self._retrain([order for order in orders if not self.fitted_on(order)], self._verify, VERIFIED)
        return answers

    def _random(self, answer: Estimate) -> Estimate:
        """With the word that the interval is that of random orders."""
        fitted = answer.interval is not None and answer.source == "estimate"
        return replace(answer, note=answer.note + RANDOM) if fitted else answer

    def _refitted(self, orders: Sequence[Order]) -> list[Estimate]:
        """Fitted to a few of the orders themselves, really retrained."""
        plain, own = self._plain(orders), self._own
        chosen = self._retrain(orders, self._calibrate, CALIBRATED)
        self._fitted = set(chosen)
        guesses = {self._canonical(order): answer.value for order, answer in zip(orders, plain, strict=True)}
        truths = [self._run.readouts.truth(self.readout, self._run.retrain(order)) for order in chosen]
        found = fit(truths, [guesses[order] for order in chosen])
        note = f"calibrated on {len(chosen)} retrained orders of domains; interval of level 0.9"

        def corrected(order: Order, answer: Estimate) -> Estimate:
            if self._canonical(order) == own:
                return known_truth(order, answer.estimator, self.reference, self.reference, self.readout)
            value, interval = found.correct(answer.value), found.interval(answer.value)
            return replace(answer, value=value, delta=value - self.reference, interval=interval, note=note)

        return [corrected(order, answer) for order, answer in zip(orders, plain, strict=True)]

    def estimate_close(self, orders: Sequence[Order]) -> list[Estimate]:
        """Of orders that move one item: by a calibration on such orders where there is one, which is said where there is not."""
        answers, found = self._close(orders), self._close.calibration
        if found is not None and found.edit is None:
            answers = [
                replace(a, note=f"{a.note}; {MOVES}") if a.source == "estimate" and a.interval is not None else a
                for a in answers
            ]
        self._retrain(orders, self._verify // SHARE, VERIFIED)
        return answers

    def truth(self, order: Order) -> float | None:
        """The read-out's value, if the order, or the reference order with the same content, has really been trained."""
        if self._canonical(order) == self._own:
            return self.reference
        found = self._run.retrained.find(order)
        return None if found is None else self._run.readouts.truth(self.readout, found)

    def _canonical(self, order: Order) -> Order:
        return self._run.problem.canonical(order)

    @property
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

"""A method as it is measured: asked about all orders of a comparison, timed, against retrained endpoints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from estimators.orders.order import Order
from estimators.replay import batches
from fut.estimation.calibration import read_calibration
from fut.estimation.nearness import Nearness
from fut.estimation.plausible import broken_caution
from fut.estimation.results import Answers
from fut.methods.batching import batch_size
from fut.methods.registry import method_of, open_estimator

if TYPE_CHECKING:
    from fut.methods.context import Context


class Measured:
    """Answers of one method about one read-out, calibrated as `estimate` has them, with the time that they take and the errors of
    rebuilt endpoints.

    Args:
        context: the opened run.
        method: the method's name.
        readout: the read-out's name.
        calibrated: apply the method's calibration, if there is one, once `fitted_digests` or an answer is asked for.
    """

    def __init__(self, context: Context, method: str, readout: str, calibrated: bool = True) -> None:
        self._run, self.method = context, method
        self._estimator = open_estimator(context, method, readout=readout)
        self._fit = read_calibration(context, method, readout) if calibrated else None
        self._near = Nearness(context, self._estimator.readout)

    def ready(self) -> None:
        """NotCachedError, naming the command to run, where the store lacks what the method reads."""
        self._estimator.ready()

    @property
    def fitted_digests(self) -> list[str]:
        """Digests of the orders that the method is calibrated on."""
        return [] if self._fit is None else self._fit.digests

    def __call__(self, orders: Sequence[Order]) -> Answers:
        """All answers at once; endpoint errors against endpoints that are retrained where they are not yet."""
        estimator, fit = self._estimator, self._fit
        if method_of(self.method).gradients_per_order(self._run, {}):
            _ = self._run.problem.objective.call  # a model that is yet to be built is no part of an order's time
        values, variances, seconds = [0.0] * len(orders), [0.0] * len(orders), 0.0
        errors: list[float] = []
        asked = orders
        orders = estimator.seen(orders)
        groups = list(batches(orders, batch_size(estimator.width())))
        total = sum(len(batch[0]) for _, batch in groups)
        with self._run.progress(f"estimating with {estimator.name}", total) as tick:
            for places, batch in groups:
                began = time.perf_counter()
                states = estimator.final_states(batch, lambda step, state: tick())
                batch_values = estimator.values(states, len(batch[0]))
                seconds += time.perf_counter() - began
                spreads = estimator.variances(states)
                for i, (place, order, state) in enumerate(zip(places, batch, states, strict=True)):
                    values[place], variances[place] = batch_values[i], spreads[i]
                    if estimator.rebuilds:
                        errors += self._endpoint_error(order, estimator.endpoint(state, len(order)))
        error = sum(errors) / len(errors) if errors else None
        caution = "; ".join(filter(None, (estimator.caution(), broken_caution(self._run, estimator, values))))
        if fit is None:
            return Answers(values, None, error, seconds, caution=caution)
        fits = [self._near.applied(fit, order, estimator.reference_value) for order in asked]
        intervals = [near.interval(value, v) for near, value, v in zip(fits, values, variances, strict=True)]
        corrected = [near.fit.correct(value) for near, value in zip(fits, values, strict=True)]
        return Answers(corrected, intervals, error, seconds, values, caution)

    def _endpoint_error(self, order: Order, estimate: Tensor) -> list[float]:
        """|estimate - truth| / |truth - reference| over all parameters; nothing for an order that ends at the reference."""
        truth, reference = self._run.retrain(order).theta, self._run.state(len(order)).theta
        moved = (truth - reference).norm()
        return [((estimate - truth).norm() / moved).item()] if moved > 0 else []

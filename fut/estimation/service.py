"""Everything about a run that questions have estimated or trained: the one place that opens methods for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from estimators.orders.order import Halves, Order
from fut.artifacts.directory import ENDPOINTS, RETRAINED
from fut.artifacts.location import located
from fut.errors import FutError, NotCachedError
from fut.estimation.calibration import Calibrated, answers_from, calibrate_run
from fut.estimation.calibration_orders import calibration_orders
from fut.estimation.changes import PassPlan, ReadoutChanges, open_changes, plan_changes
from fut.estimation.endpoint import write_endpoint
from fut.estimation.estimates import ReadoutEstimates
from fut.estimation.interactions import HalvesTrained, train_halves
from fut.estimation.measured import Measured
from fut.estimation.results import Endpoint
from fut.estimation.searching import Searching
from fut.estimation.signals import RunSignals
from fut.estimation.surrogate import halves_learnt
from fut.methods.elsewhere import train_ahead
from fut.methods.registry import METHODS, costs, open_estimator, rebuilding, require_movable
from fut.protocols import Estimates
from fut.training.trainer import Retrained
from storage import fetch_all

if TYPE_CHECKING:
    from fut.methods.context import Context


def _no_tick() -> None:
    """Nobody counts."""


class RunTruths:
    """One read-out of orders that have been retrained on a run."""

    def __init__(self, service: EstimationService, readout: str) -> None:
        self._service, self._run = service, service.context
        self._about = self._run.readouts.get(readout)
        self.readout, self.unit = self._about.name, self._about.unit
        self.reference = self._run.readouts.at_reference(self._about)

    def find(self, order: Order) -> float | None:
        """The value, if the order has been trained before; trains nothing."""
        trained = self._run.retrained.find(self._about.seen(order))
        return None if trained is None else self._run.readouts.truth(self._about, trained)

    def ahead(self, orders: Iterable[Order], tick: Callable[[], object] = _no_tick) -> None:
        """Have orders trained by other processes, where the run's engine has some: see `fut.methods.elsewhere.train_ahead`."""
        self._service.train_ahead(map(self._about.seen, orders), tick=tick)

    def train(self, order: Order, tick: Callable[[], object] = _no_tick) -> float:
        """The value; really trains the order, unless that has been done before."""
        return self.train_timed(order, tick)[0]

    def train_timed(self, order: Order, tick: Callable[[], object] = _no_tick) -> tuple[float, float]:
        """The same, and the seconds that training took."""
        trained = self._service.trained(self._about.seen(order), tick)
        return self._run.readouts.truth(self._about, trained), trained.seconds


class EstimationService:
    """Estimates and truths about a run, each opened when it is asked for.

    Args:
        context: the opened run.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._last: tuple[Order, Retrained] | None = None

    def estimates(
        self,
        method: str,
        readout: str,
        *,
        known: bool = True,
        named: bool = False,
        calibrated: bool = True,
        beside: Estimates | None = None,
        options: Mapping[str, str] | None = None,
    ) -> ReadoutEstimates:
        """One read-out by one method; arguments as in `ReadoutEstimates`."""
        like = cast("ReadoutEstimates | None", beside)
        return ReadoutEstimates(
            self.context,
            method,
            readout,
            known=known,
            named=named,
            calibrated=calibrated,
            beside=like,
            options=options,
        )

    def truths(self, readout: str) -> RunTruths:
        """One read-out of orders that are retrained."""
        return RunTruths(self, readout)

    def trained(self, order: Order, tick: Callable[[], object]) -> Retrained:
        """The order's training, recalled where there has been one; the last is kept for its other read-outs."""
        if self._last is None or self._last[0] != order:
            self._last = order, self.context.retrain(order, lambda step, state: tick())
        return self._last[1]

    def train_at(self, order: Order, steps: Sequence[int], tick: Callable[[], object] = _no_tick) -> None:
        """Train an order, and keep what it has come to after some steps too; what is known is not trained again."""
        self.context.retrain(order, lambda step, state: tick(), at=steps)

    def train_ahead(
        self, orders: Iterable[Order], steps: Sequence[int] = (), tick: Callable[[], object] = _no_tick
    ) -> None:
        """Have orders trained by other processes, where the run's engine has some, and what they come to after steps kept."""
        train_ahead(self.context, orders, steps, tick)

    def untrained(self, orders: Sequence[Order]) -> list[Order]:
        """Those of the orders whose truth is not kept."""
        return [order for order in orders if not self.context.retrained.has(order)]

    def kept_orders(self) -> list[Order]:
        """Every order whose truth is kept, the first steps of orders among them."""
        return [order for order, _ in self.context.retrained.losses()]

    def take_truths(self, path: Path) -> tuple[int, int]:
        """Copy the truths of another copy of the run, or of a URL: see `fut.training.retrained.RetrainedOrders.take`."""
        truths = located(path) / RETRAINED
        fetch_all(truths)
        return self.context.retrained.take(truths)

    def measured(self, method: str, readout: str, *, calibrated: bool = True) -> Measured:
        """A method as a comparison with retrained orders asks it."""
        return Measured(self.context, method, readout, calibrated)

    def searching(self, method: str, readout: str) -> Searching:
        """A method as a search asks it; UsageError for one that cannot move items, NotCachedError without its terms."""
        return Searching(self.context, method, readout)

    def changes(self, method: str, shared: Sequence[str], items: Sequence[int]) -> ReadoutChanges:
        """Changes of several read-outs: see `open_changes`."""
        return open_changes(self.context, method, shared, items)

    def plan_changes(self, method: str, shared: Sequence[str], items: Sequence[int]) -> PassPlan | None:
        """What `changes` would compute first; None for nothing."""
        return plan_changes(self.context, method, shared, items)

    def calibrate(self, method: str, readout: str, orders: int, seed: int, kind: str | None) -> Calibrated:
        """Retrain a few orders, fit the method to them and keep the fit: see `calibrate_run`."""
        return calibrate_run(self.context, orders, seed, method, readout, kind)

    def calibration_orders(self, orders: int, seed: int, kind: str | None, readout: str) -> list[Order]:
        """The orders that `calibrate` retrains."""
        return calibration_orders(self.context, orders, seed, kind, readout)

    def train_halves(
        self, halves: Halves, steps: Sequence[int], readout: str, tick: Callable[[], object] = _no_tick
    ) -> HalvesTrained:
        """Train three orders and compare their parameters after some steps: see `fut.estimation.interactions`."""
        return train_halves(self.context, halves, steps, readout, tick)

    def surrogate(self, orders: Sequence[Order], truths: Sequence[float]) -> list[NDArray[np.float64]] | None:
        """What could be learnt of orders from retrained ones alone: see `fut.estimation.surrogate`."""
        return halves_learnt(self.context, orders, truths)

    def own_runs(self, method: str, readout: str) -> tuple[float, float] | None:
        """What a method errs by on the real runs that it is made of, and what these differ by: standard deviations, in the
        read-out's unit; None where it is made of none, or is not ready."""
        try:
            return open_estimator(self.context, method, readout=readout).own_runs()
        except FutError:
            return None

    def endpoint(self, order: Order, method: str | None, out: Path | None, options: Mapping[str, str]) -> Endpoint:
        """Write the parameters that an order leads to: see `write_endpoint`. out: None for a file in the run."""
        name = method or rebuilding(self.context).name
        target = out or self.context.path / ENDPOINTS / f"{name}-{order.digest[:16]}.safetensors"
        return write_endpoint(self.context, order, name, target, **options)

    def is_ready(self, method: str, readout: str) -> bool:
        """Whether everything that the method reads is there."""
        try:
            open_estimator(self.context, method, readout=readout).ready()
        except NotCachedError:
            return False
        return True

    def ready_methods(self, readout: str) -> list[str]:
        """Every method that moves items and can answer now, but for `retrain`."""
        movable = (m.name for m in METHODS if m.capabilities.moves_items and not m.capabilities.trains)
        return [name for name in movable if self.is_ready(name, readout)]

    def require_movable(self, question: str, methods: Sequence[str]) -> None:
        """UsageError, in the question's name, where a method answers no order that moves items."""
        require_movable(question, methods)

    def signals(self) -> RunSignals:
        """Signal and noise of the run's gradients, by module."""
        return RunSignals(self.context)

    def costs(self, method: str) -> dict[str, Any]:
        """Gradients and bytes before the first order, and gradients an order."""
        return dict(costs(self.context, method))

    def basis(self, method: str, readout: str) -> str:
        """Digest of what the method's answers are made from."""
        return answers_from(self.context, method, readout)

"""What a question is asked of: a few protocols in one bundle, in place of an opened run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from estimators.orders.order import Halves, Order
from fut.estimation.calibration import Calibrated
from fut.estimation.changes import PassPlan, ReadoutChanges
from fut.estimation.interactions import HalvesTrained
from fut.estimation.measured import Measured
from fut.estimation.results import Endpoint
from fut.estimation.searching import Searching
from fut.estimation.signals import RunSignals
from fut.progress import Progress
from fut.protocols import Archive, Estimates, RunFacts, Tick, Truths


class Service(Protocol):
    """Estimates and truths, opened when they are asked for; `fut.estimation.service.EstimationService` is one."""

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
    ) -> Estimates:
        """One read-out by one method. named: it was named, so that it answers even orders whose truth is known."""

    def truths(self, readout: str) -> Truths:
        """One read-out of orders that are retrained."""

    def train_at(self, order: Order, steps: Sequence[int], tick: Tick = ...) -> None:
        """Train an order, and keep what it has come to after some steps too."""

    def train_ahead(self, orders: Iterable[Order], steps: Sequence[int] = ..., tick: Tick = ...) -> None:
        """Have orders trained by other processes, where there are some: `train_at` and `Truths.train` then find them."""

    def untrained(self, orders: Sequence[Order]) -> list[Order]:
        """Those of the orders whose truth is not kept."""

    def kept_orders(self) -> list[Order]:
        """Every order whose truth is kept."""

    def take_truths(self, path: Path) -> tuple[int, int]:
        """Copy the truths of another copy of the run; how many were copied, and how many were here already."""

    def measured(self, method: str, readout: str, *, calibrated: bool = True) -> Measured:
        """A method as a comparison with retrained orders asks it."""

    def searching(self, method: str, readout: str) -> Searching:
        """A method as a search asks it."""

    def changes(self, method: str, shared: Sequence[str], items: Sequence[int]) -> ReadoutChanges:
        """(orders, names) -> changes of several read-outs: those in `shared`, and the losses on the items."""

    def plan_changes(self, method: str, shared: Sequence[str], items: Sequence[int]) -> PassPlan | None:
        """What `changes` would compute first; None for nothing."""

    def calibrate(self, method: str, readout: str, orders: int, seed: int, kind: str | None) -> Calibrated:
        """Retrain a few orders, fit the method to them and keep the fit. kind: of edit, `chosen`, or None for random orders."""

    def calibration_orders(self, orders: int, seed: int, kind: str | None, readout: str) -> list[Order]:
        """The orders that `calibrate` retrains."""

    def train_halves(self, halves: Halves, steps: Sequence[int], readout: str, tick: Tick = ...) -> HalvesTrained:
        """Train three orders and compare their parameters after some steps."""

    def surrogate(self, orders: Sequence[Order], truths: Sequence[float]) -> list[NDArray[np.float64]] | None:
        """Every other order's value as learnt from the rest's truths, and the rest's from these; None for too few orders."""

    def own_runs(self, method: str, readout: str) -> tuple[float, float] | None:
        """What a method errs by on the real runs that it is made of, and what these differ by; None where there are none."""

    def endpoint(self, order: Order, method: str | None, out: Path | None, options: Mapping[str, str]) -> Endpoint:
        """Write the parameters that an order leads to. out: None for a file in the run."""

    def is_ready(self, method: str, readout: str) -> bool:
        """Whether everything that the method reads is there."""

    def ready_methods(self, readout: str) -> list[str]:
        """Every method that moves items and can answer now, but for `retrain`."""

    def require_movable(self, question: str, methods: Sequence[str]) -> None:
        """UsageError where a method answers no order that moves items."""

    def signals(self) -> RunSignals:
        """Signal and noise of the run's gradients, by module."""

    def costs(self, method: str) -> dict[str, Any]:
        """Gradients and bytes before the first order, and gradients an order."""

    def basis(self, method: str, readout: str) -> str:
        """Digest of what the method's answers are made from."""


@dataclass(frozen=True)
class QuestionContext:
    """What a question is asked of.

    run: sizes, orders and scores. service: estimates and truths. archive: where answers are kept. progress: hears of long work.
    """

    run: RunFacts
    service: Service
    archive: Archive
    progress: Progress

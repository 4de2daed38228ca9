"""Questions that a run is asked: each a method of `fut.Run`, and a module that knows how it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from estimators.families import arranged
from estimators.order import Order
from estimators.positions import best_assignment

from .calibration import SEED, Calibrated, calibrate_run
from .curriculum import Request, search_run
from .datamodel import lds_run
from .difficulty import Difficulty, difficulty, named_orders
from .questions.constraints import Constraints
from .questions.curriculum import Curriculum
from .questions.datamodel import Datamodel
from .questions.verify import Verification
from .readouts import PROBE
from .report import SAMPLES, Report, write_report
from .verification import verify_run

if TYPE_CHECKING:
    from .positions import Positions
    from .reweighting import Reweighting
    from .run import OrderLike, Run

Names = Sequence[str] | None


class Asking:
    """What a run can be asked beyond single estimates."""

    @property
    def _run(self) -> Run:
        return cast("Run", self)

    def calibrate(
        self, orders: int = 8, seed: int = SEED, estimator: str | None = None, readout: str = PROBE
    ) -> Calibrated:
        """Retrain a few random orders and fit the estimator to them; every later estimate carries a 90 % interval."""
        return calibrate_run(self._run, orders, seed, estimator or self._run.default_estimator, readout)

    def verify(self, orders: int = 32, seed: int = 0, estimators: Names = None, readout: str = PROBE) -> Verification:
        """Retrain random orders and compare every estimator with them: see `fut.questions.verify`."""
        return verify_run(self._run, orders, seed, estimators, readout)

    def lds(
        self, subsets: int = 48, share: float = 0.1, seed: int = 0, estimators: Names = None, readout: str = PROBE
    ) -> Datamodel:
        """Retrain with random subsets left out in place and compare estimators with them: see `fut.datamodel`."""
        return lds_run(self._run, subsets, share, seed, estimators, readout)

    def report(self, out: Path | str | None = None, samples: int = SAMPLES, estimator: str = "positions") -> Report:
        """Write all that has been asked of the run as one HTML page, with a what-if board: see `fut.report`."""
        return write_report(self._run, out, samples, estimator)

    def attributions(self, readout: str = PROBE) -> np.ndarray:
        """Derivative of a read-out by the weight of every item in every step [T, items per step], in its unit."""
        return cast("Reweighting", self._run.estimator("reweighting", readout=readout)).attributions.cpu().numpy()

    def search(
        self,
        seconds: float | None = None,
        evaluations: int | None = None,
        *,
        start: OrderLike | None = None,
        method: str = "local",
        verify: int = 16,
        finalists: int = 4,
        heuristics: Names = None,
        seed: int = 0,
        constraints: Constraints | None = None,
        estimator: str | None = None,
        readout: str = PROBE,
        maximize: bool = False,
    ) -> Curriculum:
        """The order that would have trained best, as far as a budget of estimates finds it; then the truth about it.

        seconds, evaluations: when the search ends; with evaluations alone its result is always the same. start: where it
        begins, in place of the best order under the table of positions; it arranges the start's items. method: `local`,
        `genetic` or `assignment`. verify: how many random orders are really retrained beside the found one, the next best
        `finalists` that differ, and the named orders in `heuristics` (None: all of them); 0 retrains nothing.
        maximize: seek the greatest value of the read-out. See `fut.questions.curriculum`.
        """
        chosen = self._run.order(start) if start is not None and not isinstance(start, str) else start
        named, within = None if heuristics is None else tuple(heuristics), constraints or Constraints()
        asked = Request(
            seconds, evaluations, chosen, method, verify, finalists, named, seed, within, estimator, readout, maximize
        )
        return search_run(self._run, asked)

    def difficulty(self, key: str) -> Difficulty:
        """A score per item: `length`, `loss`, `gradient-norm` or `perplexity-drop`; see `fut.difficulty`."""
        return difficulty(self._run, key)

    def arranged(
        self, scores: Sequence[float], family: str = "sort", number: int | None = None, descending: bool = False
    ) -> Order:
        """The order of a family by scores of your own, one per item: see `estimators.families`."""
        return arranged(self._run.reference, scores, family, number, descending)

    def named_orders(self) -> dict[str, Order]:
        """The orders that a found one is compared with, by name: see `fut.difficulty.named_orders`."""
        return named_orders(self._run)

    def positions(self, readout: str = PROBE) -> np.ndarray:
        """What putting an item at a step does to a read-out, to first order: [T, items], in its unit; entries of one
        step compare with one another; see `fut.positions`."""
        return cast("Positions", self._run.estimator("positions", readout=readout)).table.cpu().numpy()

    def best_order(self, readout: str = PROBE) -> Order:
        """The order of every item once with the least sum in the table of positions: a start for a search, not its end."""
        return best_assignment(self.positions(readout))

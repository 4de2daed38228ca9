"""Questions that a run is asked: each a method of `fut.Run`, and a module that knows how it is answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from estimators.errors import OrderError
from estimators.orders.families import arranged
from estimators.orders.order import Order
from estimators.position_table import best_assignment
from fut.estimation.calibration import SEED, Calibrated, calibrate_run
from fut.methods.adjoint.positions import position_table
from fut.methods.context import Context
from fut.methods.registry import default_estimator, open_estimator
from fut.orders.parsing import OrderLike, named_orders, order_of
from fut.orders.scores import Difficulty, difficulty
from fut.questions.accuracy.ask import verify_run
from fut.questions.accuracy.result import Verification
from fut.questions.curriculum.ask import Request, search_run
from fut.questions.curriculum.constraints import Constraints
from fut.questions.curriculum.result import Curriculum
from fut.questions.domains.ask import domains_run
from fut.questions.domains.result import Domains
from fut.questions.leave_out.ask import lds_run
from fut.questions.leave_out.score import Datamodel
from fut.questions.memorization.ask import GROUPS, MOST, asked_of, memorize_run
from fut.questions.memorization.result import Memorization
from fut.questions.whatif.ask import WhatIfs, whatif_run
from fut.questions.whatif.result import WhatIf
from fut.questions.whatif.stream import answer_queries
from fut.readouts.readout import PROBE
from fut.report import SAMPLES, Report, write_report
from fut.resources.device import computes

if TYPE_CHECKING:
    from fut.methods.reweighting.estimator import Reweighting


Names = Sequence[str] | None


@computes
class Asking:
    """What a run can be asked beyond single estimates."""

    context: Context

    def calibrate(
        self,
        orders: int = 8,
        seed: int = SEED,
        estimator: str | None = None,
        readout: str = PROBE,
        edit: str | None = None,
    ) -> Calibrated:
        """Retrain a few random orders and fit the estimator to them; every later estimate carries a 90 % interval.

        edit: `swap`, `move`, `repeat`, `replace` or `without`, for orders that are one such edit away from the reference
        order: what-if questions about one edit of that kind then have the interval that such orders deserve.
        """
        return calibrate_run(self.context, orders, seed, estimator or default_estimator(self.context), readout, edit)

    def verify(self, orders: int = 32, seed: int = 0, estimators: Names = None, readout: str = PROBE) -> Verification:
        """Retrain random orders and compare every estimator with them: see `fut.questions.verify`."""
        return verify_run(self.context, orders, seed, estimators, readout)

    def whatif(
        self,
        order: OrderLike = "identity",
        edits: Sequence[Any] = (),
        readouts: Sequence[str] = (PROBE,),
        estimator: str | None = None,
        verify: bool = False,
        known: bool = True,
        partial: bool = False,
    ) -> WhatIf:
        """What training in another order would have changed, per read-out; kept in the run (`answers/`).

        edits: applied in turn to `order`, as `swap:3,7`, ("swap", 3, 7) or ("sort", "loss"): see `fut.questions.editing`.
        estimator: None for the default, and for an order shorter than the window one that can answer it, which the answer
        says. verify: retrain that order, and give the truth beside the estimate. known, partial: as in `estimate`, `order`.
        """
        return whatif_run(self.context, order, edits, readouts, estimator, verify, {"known": known, "partial": partial})

    def whatifs(
        self,
        queries: Any,
        readouts: Sequence[str] = (PROBE,),
        estimator: str | None = None,
        verify: bool = False,
        known: bool = True,
        partial: bool = False,
        start: OrderLike = "identity",
    ) -> Iterator[dict[str, Any]]:
        """Answers to any number of what-if queries, in their order, in memory that does not grow with their number.

        queries: a file of lines (a name, a JSON list, or a JSON object of `id`, `order`, `edits`, `readouts`), or an iterable
        of such lines, orders and dicts. start: the order of those that name none. NotCachedError before the first answer; a
        bad query has `error` in its answer, and the rest go on: see `fut.querying.answer_queries`.
        """
        asked = WhatIfs(self.context, estimator, readouts, start, known, verify, partial)
        asked.ready()
        return answer_queries(asked, queries)

    def lds(
        self, subsets: int = 48, share: float = 0.1, seed: int = 0, estimators: Names = None, readout: str = PROBE
    ) -> Datamodel:
        """Retrain with random subsets left out in place and compare estimators with them: see `fut.datamodel`."""
        return lds_run(self.context, subsets, share, seed, estimators, readout)

    def memorize(
        self,
        items: Sequence[int] | None = None,
        most: int = MOST,
        groups: int = GROUPS,
        showing: int = -1,
        calibrate: int = 0,
        verify: int = 0,
        seed: int = 0,
        estimator: str | None = None,
    ) -> Memorization:
        """The loss on items, and on held-out text near and far, by the step an item stands at: see `fut.questions.memorization`.

        Sweeps what is missing first (`fut memorize` says what it costs), retrains `calibrate` + `verify` cells and half as
        many orders without an item, and keeps the answer in the run (`answers/`).
        """
        counts = {"groups": groups, "showing": showing, "calibrate": calibrate, "verify": verify, "seed": seed}
        return memorize_run(self.context, asked_of(self.context, items, most, estimator=estimator, **counts))

    def domains(
        self, labels: Any, orders: Sequence[Sequence[str]] | None = None, items: Sequence[int] = (), **options: Any
    ) -> Domains:
        """What the order of whole domains, and the place of one of them or of one item, does to a read-out.

        labels: a mapping of label to items, a list with one label per item, a JSON file of one of both, `source`, or `loss:3`.
        orders: lists of all labels; None for all orders, or a sample. items: each put at every step. options: `most`,
        `places`, `calibrate`, `verify`, `seed`, `readout`, `estimator`, as in `fut.domains.domains_run`.
        """
        return domains_run(self.context, labels, orders, items, **options)

    def report(self, out: Path | str | None = None, samples: int = SAMPLES, estimator: str = "positions") -> Report:
        """Write all that has been asked of the run as one HTML page, with a what-if board: see `fut.report`."""
        return write_report(self.context, out, samples, estimator)

    def attributions(self, readout: str = PROBE) -> np.ndarray:
        """Derivative of a read-out by the weight of every item in every step [T, items per step], in its unit."""
        return (
            cast("Reweighting", open_estimator(self.context, "reweighting", readout=readout)).attributions.cpu().numpy()
        )

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
        also: Sequence[str] = (),
    ) -> Curriculum:
        """The order that would have trained best, as far as a budget of estimates finds it; then the truth about it.

        seconds, evaluations: when the search ends; with evaluations alone its result is always the same. start: where it
        begins, in place of the best order under the table of positions; it arranges the start's items. method: `local`,
        `genetic` or `assignment`. verify: how many random orders are really retrained beside the found one, the next best
        `finalists` that differ, and the named orders in `heuristics` (None: all of them); 0 retrains nothing.
        maximize: seek the greatest value of the read-out. also: other read-outs of the retrained orders, which were not
        sought: the search fits the one that it seeks. See `fut.questions.curriculum`.
        """
        chosen = order_of(self.context, start) if start is not None and not isinstance(start, str) else start
        named, within = None if heuristics is None else tuple(heuristics), constraints or Constraints()
        retraining = (verify, finalists, named, seed)
        asked = Request(
            seconds, evaluations, chosen, method, *retraining, within, estimator, readout, maximize, tuple(also)
        )
        return search_run(self.context, asked)

    def difficulty(self, key: str) -> Difficulty:
        """A score per item: `length`, `loss`, `gradient-norm` or `perplexity-drop`; see `fut.difficulty`."""
        return difficulty(self.context, key)

    def arranged(
        self, scores: Sequence[float], family: str = "sort", number: int | None = None, descending: bool = False
    ) -> Order:
        """The order of a family by scores of your own, one per item: see `estimators.families`."""
        if len(scores) != self.context.items:
            raise OrderError(
                f"arranged: expected {self.context.items} scores, one per item, got {len(scores)}; give them in the items' order"
            )
        return arranged(self.context.reference, scores, family, number, descending)

    def named_orders(self) -> dict[str, Order]:
        """The orders that a found one is compared with, by name: see `fut.difficulty.named_orders`."""
        return named_orders(self.context)

    def positions(self, readout: str = PROBE) -> np.ndarray:
        """What putting an item at a step does to a read-out, to first order: [T, items], in its unit; entries of one
        step compare with one another; see `fut.positions`."""
        return position_table(self.context, readout)

    def best_order(self, readout: str = PROBE) -> Order:
        """The order of every item once with the least sum in the table of positions: a start for a search, not its end."""
        return best_assignment(self.positions(readout))

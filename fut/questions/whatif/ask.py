"""`whatif` on a run: which estimator answers which order, what is kept of it, and many queries at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from estimators.errors import OrderError
from estimators.orders.families import FAMILIES
from estimators.orders.order import Order
from fut.artifacts import directory as files
from fut.errors import EXPECTED, NotCachedError, UsageError
from fut.estimation.results import Estimate
from fut.estimation.service import Answering
from fut.methods.adjoint import identity
from fut.methods.adjoint.identity import open_expansion
from fut.methods.lowrank.terms import has_base
from fut.methods.registry import default_estimator, open_estimator
from fut.orders.editing import Edit, edited, only_edit
from fut.orders.parsing import order_of, sorted_order
from fut.questions.whatif.query import Query
from fut.questions.whatif.result import Change, WhatIf, compare
from fut.readouts.readout import PROBE, readout_names
from storage import write_json

if TYPE_CHECKING:
    from fut.methods.context import Context


class WhatIfs:
    """Answers what-if queries about a run; estimators are made once and kept.

    estimator: its name, or None for the run's default, in whose place another answers orders that it cannot. readouts: asked
    for where a query names none. start: what is edited where a query names no order. known: answer orders that have really
    been trained by their truth. verify: retrain every order, and put the truth beside the estimate. partial: accept lists
    shorter than the window.
    """

    def __init__(
        self,
        run: Context,
        estimator: str | None = None,
        readouts: Sequence[str] = (PROBE,),
        start: Any = "identity",
        known: bool = True,
        verify: bool = False,
        partial: bool = False,
    ) -> None:
        self.run, self.partial, self.verify, self.known = run, partial, verify, known and not verify
        self.estimator, self.start = estimator, start
        self.readouts = self.names(readouts)
        self._askers: dict[tuple[str, str, str | None], Answering] = {}

    def names(self, readouts: Sequence[str]) -> list[str]:
        """The read-outs that these stand for, each once; `items` for every item's loss."""
        return [self.run.readouts.get(name).name for name in readout_names(readouts, self.run.items)]

    def _allowed(self, readouts: Sequence[str]) -> list[str]:
        """The read-outs that a query names. A line of data imports no code: functions of modules must be among `readouts`,
        registered, or what the run's expansion was swept for."""
        for name in readouts:
            if ":" in name and not name.startswith("item:") and name not in self._functions:
                raise UsageError(
                    f"query: expected a read-out that needs no import, or one named with --readout, got `{name}`; name it there"
                )
        return self.names(readouts)

    @cached_property
    def _functions(self) -> set[str]:
        swept = open_expansion(self.run).names if identity.has_expansion(self.run.path) else []
        return {*self.readouts, *swept}

    def ready(self) -> None:
        """NotCachedError, naming the command to run, unless the usual read-outs can be answered for orders of T steps."""
        for readout in self.readouts:
            self.asker(readout, self.estimator_for(self.run.reference)).ready()

    def order(self, query: Query) -> Order:
        """The order that a query is about; OrderError where there is none."""
        spec = self.start if query.order is None else query.order
        found = order_of(self.run, spec, self.partial)
        if not query.edits:
            return found
        found = edited(found, query.edits, lambda order, key: self._sorted(order, key))
        return found.check(self.run.items, self.run.steps, partial=True)

    def edit(self, query: Query) -> str | None:
        """The kind of the one edit of the reference order that a query asks for, if it is one."""
        return only_edit(self.start if query.order is None else query.order, query.edits)

    def _sorted(self, order: Order, key: str) -> Order:
        family = key.partition(":")[0]
        named = key if family == "sort" or family in FAMILIES else f"sort:{key}"
        found = sorted_order(self.run, named, order)
        if found is None:
            raise OrderError(f"edit: expected a key to sort by, got `{key}`; write sort:loss")
        return found

    def estimator_for(self, order: Order) -> str:
        """The estimator that answers an order: the named one; else the run's default, or for an order that is shorter than
        the window, which the default cannot answer, `curved` where it is cached and `replay-exact` where it is not."""
        usual = self.estimator or default_estimator(self.run)
        if self.estimator or len(order) == self.run.steps or usual != "adjoint":
            return usual
        return "curved" if self._curved else "replay-exact"

    @cached_property
    def _curved(self) -> bool:
        with suppress(NotCachedError):
            if has_base(self.run.path):
                open_estimator(self.run, "curved").ready()
                return True
        return False

    def asker(self, readout: str, estimator: str, edit: str | None = None) -> Answering:
        """What answers about a read-out by an estimator. edit: as `only_edit` has it."""
        key = (readout, estimator, edit)
        if key not in self._askers:
            self._askers[key] = (
                self._made(readout, estimator) if edit is None else self.asker(readout, estimator).for_edit(edit)
            )
        return self._askers[key]

    def _made(self, readout: str, estimator: str) -> Answering:
        made = Answering(self.run, estimator, readout, self.known)
        like = next((held for (_, name, _), held in self._askers.items() if name == estimator), None)
        return made if like is None else made.beside(like)

    def _remark(self, order: Order, found: Estimate, asker: Answering, edit: str | None) -> str:
        """What an answer does not say of itself: that another estimator gave it, for which orders its interval holds."""
        remarks, fit = [], asker.calibration
        if len(order) != self.run.steps and not self.estimator and found.source == "estimate":
            remarks.append(
                f"{default_estimator(self.run)} answers orders of exactly {self.run.steps} steps, so {found.estimator} answered "
                f"this one of {len(order)}; `without` leaves an item out and keeps its step, --verify retrains"
            )
        if found.source != "estimate" or found.interval is None or (fit is not None and fit.edit):
            return "; ".join(remarks)
        if edit:
            named = "" if asker.name == default_estimator(self.run) else f" --estimator {asker.name}"
            named += "" if asker.readout.name == PROBE else f" --readout {asker.readout.name}"
            remarks.append(
                f"`fut calibrate RUN --edit {edit}{named}` fits it to single edits, which are estimated better"
            )
        return "; ".join(remarks)

    def changes(
        self, orders: Sequence[Order], readouts: Sequence[str], edits: Sequence[str | None] = ()
    ) -> list[list[Change]]:
        """What each of these checked orders changes of each read-out. edits: per order, what `only_edit` says of it."""
        rows: list[list[Change]] = [[] for _ in orders]
        groups: dict[tuple[str, str | None], list[int]] = {}
        for place, (order, edit) in enumerate(zip(orders, edits or [None] * len(orders), strict=True)):
            groups.setdefault((self.estimator_for(order), edit), []).append(place)
        for readout in readouts:
            for (estimator, edit), places in groups.items():
                for place, change in zip(
                    places, self._compared([orders[p] for p in places], readout, estimator, edit), strict=True
                ):
                    rows[place].append(change)
        return rows

    def _compared(self, orders: Sequence[Order], readout: str, estimator: str, edit: str | None) -> list[Change]:
        asker = self.asker(readout, estimator, edit)
        truth = self._truth(asker) if self.verify else None
        answer = asker if edit else lambda orders: asker.edited(orders, [None] * len(orders))
        return compare(orders, answer, asker.reference, lambda o, found: self._remark(o, found, asker, edit), truth)

    def _truth(self, asker: Answering) -> Callable[[Order], float]:
        def truth(order: Order) -> float:
            with self.run.progress("retraining", len(order)) as tick:
                found = self.run.retrain(order, lambda step, state: tick())
            return self.run.readouts.truth(asker.readout, found)

        return truth

    def together(self, queries: Sequence[Query]) -> list[tuple[Order, list[Change]] | Exception]:
        """An answer per query, or the error that it is; queries that name the same read-outs are estimated in one batch."""
        found: list[Any] = [self._attempt(query) for query in queries]
        groups: dict[tuple[str, ...], list[int]] = {}
        for place, asked in enumerate(found):
            if not isinstance(asked, Exception):
                groups.setdefault(asked[2], []).append(place)
        for readouts, places in groups.items():
            self._fill(found, readouts, places)
        return found

    def _attempt(self, query: Query) -> tuple[Order, str | None, tuple[str, ...]] | Exception:
        try:
            asked = self.readouts if query.readouts is None else self._allowed(query.readouts)
            return self.order(query), self.edit(query), tuple(asked)
        except EXPECTED as error:
            return error

    def _fill(self, found: list[Any], readouts: tuple[str, ...], places: Sequence[int]) -> None:
        """Answer in one batch; where that fails, one by one, so that the error stays with the query that it is about."""
        try:
            rows = self.changes([found[p][0] for p in places], readouts, [found[p][1] for p in places])
        except EXPECTED as error:
            if len(places) == 1:
                found[places[0]] = error
                return
            for place in places:
                self._fill(found, readouts, [place])
            return
        for place, row in zip(places, rows, strict=True):
            found[place] = (found[place][0], row)


def whatif_run(
    run: Context,
    order: Any,
    edits: Sequence[Any],
    readouts: Sequence[str],
    estimator: str | None,
    verify: bool,
    options: Mapping[str, bool],
) -> WhatIf:
    """One what-if question, its answer kept in the run (`answers/`); see `Asking.whatif`."""
    asked = WhatIfs(run, estimator, readouts, order, verify=verify, **options)
    query = Query(None, tuple(Edit.of(edit) for edit in edits))
    found = asked.order(query)
    (changes,) = asked.changes([found], asked.readouts, [asked.edit(query)])
    start = order if isinstance(order, str) else str(order_of(run, order, True).tolist())
    result = WhatIf(start, [str(edit) for edit in query.edits], found.tolist(), found.digest, changes)
    path = run.path / files.ANSWERS / f"whatif-{found.digest[:16]}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, result.as_dict())
    return result

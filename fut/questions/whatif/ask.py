"""`whatif`: which method answers which order, what is kept of it, and many queries at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from estimators.errors import OrderError
from estimators.orders.families import FAMILIES
from estimators.orders.order import Order
from fut.errors import EXPECTED, UsageError
from fut.methods.registry import ENDPOINTS, EXACT, method_of
from fut.orders.editing import Edit, edited, only_edit
from fut.protocols import Estimates, Value
from fut.questions.context import QuestionContext
from fut.questions.question import ESTIMATOR, KNOWN, ORDER, Question, Request, option
from fut.questions.whatif import render
from fut.questions.whatif.query import Query
from fut.questions.whatif.result import Change, WhatIf
from fut.readouts.readout import PROBE

A = TypeVar("A")


@dataclass(frozen=True)
class WhatIfOptions(Request[A]):
    """What one what-if question and many have in common.

    Args:
        order: what is edited.
        edits: applied to it in turn, as `swap:3,7`, ("swap", 3, 7) or ("sort", "loss"): see `fut.orders.editing`.
        readouts: what is asked for; `items` for every item's loss.
        estimator: the method's name; None for the default, and for an order shorter than the window one that can
            answer it, which the answer says.
        verify: retrain in that order, and give the truth beside the estimate.
        known: say what is known of orders that have been retrained: in `truth` beside the answer of an estimator that was
            named, as the answer itself where none was.
        partial: accept lists shorter than the window.

    Raises:
        OrderError: for an edit that there is not.
    """

    order: Any = option("identity", help=ORDER)
    edits: Sequence[Any] = ()
    readouts: Sequence[str] = option(
        (PROBE,),
        name="--readout",
        help="probe, accuracy, item:I, items or package.module:name; again for more",
        read=lambda flag, text: text,
        many=True,
    )
    estimator: str | None = option(None, help=ESTIMATOR)
    verify: bool = option(False, help="retrain in that order, and say what came out")
    known: bool = option(True, help=KNOWN)
    partial: bool = option(False, help="accept a list shorter than the window")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tuples("edits", "readouts")
        for edit in self.edits:
            Edit.of(edit)  # refuses what is no edit


@dataclass(frozen=True)
class WhatIfRequest(WhatIfOptions[WhatIf]):
    """What training in another order would have changed, per read-out; fields as in `WhatIfOptions`."""


class Understood(NamedTuple):
    """A query about an order, the kind of the one edit that it is, if it is one, and the read-outs that are asked for."""

    order: Order
    edit: str | None
    readouts: tuple[str, ...]


class WhatIfs:
    """Answers what-if queries about a run; estimates are opened once and kept.

    Args:
        context: what is asked.
        request: the method, the read-outs of queries that name none, the order that is edited where a query names none,
            and whether orders are retrained.
    """

    def __init__(self, context: QuestionContext, request: WhatIfOptions[Any]) -> None:
        self._context, self._run, self._request = context, context.run, request
        self.readouts = self._run.readouts(request.readouts)
        self._opened: dict[tuple[str, str, str | None], Estimates] = {}

    def _allowed(self, readouts: Sequence[str]) -> list[str]:
        """The read-outs that a query names. A line of data imports no code: functions of modules must be among `readouts`,
        registered, or what the run has an adjoint pass of."""
        for name in readouts:
            if ":" in name and not name.startswith("item:") and name not in self._functions:
                raise UsageError(
                    f"query: expected a read-out that needs no import, or one named with --readout, got `{name}`; name it there"
                )
        return self._run.readouts(readouts)

    @cached_property
    def _functions(self) -> set[str]:
        return {*self.readouts, *self._run.computed_readouts()}

    def ready(self) -> None:
        """NotCachedError, naming the command to run, unless the usual read-outs can be answered for orders of T steps."""
        for readout in self.readouts:
            self.estimates(readout, self.method_for(self._run.reference)).ready()

    def order(self, query: Query) -> Order:
        """The order that a query is about; OrderError where there is none."""
        order = self._run.order(self._start(query), self._request.partial)
        if not query.edits:
            return order
        order = edited(order, query.edits, self._sorted)
        return self._run.order(order)

    def edit(self, query: Query) -> str | None:
        """The kind of the one edit of the reference order that a query asks for, if it is one."""
        return only_edit(self._start(query), query.edits)

    def _start(self, query: Query) -> Any:
        return self._request.order if query.order is None else query.order

    def _sorted(self, order: Order, key: str) -> Order:
        family = key.partition(":")[0]
        named = key if family == "sort" or family in FAMILIES else f"sort:{key}"
        by_key = self._run.sorted(named, order)
        if by_key is None:
            raise OrderError(f"edit: expected a key to sort by, got `{key}`; write sort:loss")
        return by_key

    def method_for(self, order: Order) -> str:
        """The method that answers an order: the named one; else the default, or for an order that is shorter than the window,
        which the default cannot answer, `lowrank` where it is cached and `replay-exact` where it is not."""
        usual = self._request.estimator or self._run.default_method
        if self._request.estimator or len(order) == self._run.steps or method_of(usual).capabilities.any_length:
            return usual
        return (ENDPOINTS if self._low_rank else EXACT).name

    @cached_property
    def _low_rank(self) -> bool:
        return self._context.service.is_ready(ENDPOINTS.name, PROBE)

    def estimates(self, readout: str, method: str, edit: str | None = None) -> Estimates:
        """What answers about a read-out by a method. edit: as `only_edit` has it."""
        key = (readout, method, edit)
        if key not in self._opened:
            opened = self._open(readout, method) if edit is None else self.estimates(readout, method).for_edit(edit)
            self._opened[key] = opened
        return self._opened[key]

    def _open(self, readout: str, method: str) -> Estimates:
        known, named = self._request.known and not self._request.verify, self._request.estimator is not None
        like = next((opened for (_, name, _), opened in self._opened.items() if name == method), None)
        return self._context.service.estimates(method, readout, known=known, named=named, beside=like)

    def _remark(self, order: Order, answer: Value) -> str:
        """What an answer does not say of itself: that another method gave it."""
        steps, default = self._run.steps, self._run.default_method
        if len(order) != steps and not self._request.estimator and answer.source == "estimate":
            return (
                f"{default} answers orders of exactly {steps} steps, so {answer.estimator} answered "
                f"this one of {len(order)}; `without` leaves an item out and keeps its step, --verify retrains"
            )
        return ""

    def changes(
        self, orders: Sequence[Order], readouts: Sequence[str], edits: Sequence[str | None] = ()
    ) -> list[list[Change]]:
        """What each of these checked orders changes of each read-out. edits: per order, what `only_edit` says of it."""
        rows: list[list[Change]] = [[] for _ in orders]
        groups: dict[tuple[str, str | None], list[int]] = {}
        for place, (order, edit) in enumerate(zip(orders, edits or [None] * len(orders), strict=True)):
            groups.setdefault((self.method_for(order), edit), []).append(place)
        for readout in readouts:
            for (method, edit), places in groups.items():
                changes = self._compared([orders[p] for p in places], readout, method, edit)
                for place, change in zip(places, changes, strict=True):
                    rows[place].append(change)
        return rows

    def _compared(self, orders: Sequence[Order], readout: str, method: str, edit: str | None) -> list[Change]:
        estimates = self.estimates(readout, method, edit)
        truth = self._truth(readout) if self._request.verify else lambda order: None
        answers = estimates(orders) if edit else estimates.edited(orders, [None] * len(orders))
        return [
            Change.of(answer, estimates.reference, self._remark(order, answer), truth(order))
            for order, answer in zip(orders, answers, strict=True)
        ]

    def _truth(self, readout: str) -> Callable[[Order], float]:
        truths = self._context.service.truths(readout)

        def truth(order: Order) -> float:
            with self._context.progress("retraining", len(order)) as tick:
                return truths.train(order, tick)

        return truth

    def together(self, queries: Sequence[Query]) -> list[tuple[Order, list[Change]] | Exception]:
        """An answer per query, or the error that it is; queries that name the same read-outs are estimated in one batch."""
        understood = [self._attempt(query) for query in queries]
        answers: dict[int, tuple[Order, list[Change]] | Exception] = {}
        groups: dict[tuple[str, ...], dict[int, Understood]] = {}
        for place, query in enumerate(understood):
            if isinstance(query, Understood):
                groups.setdefault(query.readouts, {})[place] = query
            else:
                answers[place] = query
        for of_readouts in groups.values():
            self._fill(answers, of_readouts)
        return [answers[place] for place in range(len(queries))]

    def _attempt(self, query: Query) -> Understood | Exception:
        try:
            readouts = self.readouts if query.readouts is None else self._allowed(query.readouts)
            return Understood(self.order(query), self.edit(query), tuple(readouts))
        except EXPECTED as error:
            return error

    def _fill(self, answers: dict[int, tuple[Order, list[Change]] | Exception], queries: dict[int, Understood]) -> None:
        """Answer in one batch; where that fails, one by one, so that the error stays with the query that it is about."""
        batch = list(queries.values())
        try:
            rows = self.changes([q.order for q in batch], batch[0].readouts, [q.edit for q in batch])
        except EXPECTED as error:
            if len(batch) == 1:
                answers[next(iter(queries))] = error
                return
            for place, query in queries.items():
                self._fill(answers, {place: query})
            return
        for (place, query), row in zip(queries.items(), rows, strict=True):
            answers[place] = (query.order, row)


def ask(request: WhatIfRequest, context: QuestionContext) -> WhatIf:
    """One what-if question, its answer kept in the run (`answers/`)."""
    whatifs, start = WhatIfs(context, request), request.order
    query = Query(None, tuple(Edit.of(edit) for edit in request.edits))
    order = whatifs.order(query)
    (changes,) = whatifs.changes([order], whatifs.readouts, [whatifs.edit(query)])
    named = start if isinstance(start, str) else str(context.run.order(start, True).tolist())
    result = WhatIf(named, [str(edit) for edit in query.edits], order.tolist(), order.digest, changes)
    context.archive.keep("whatif", order.digest[:16], result)
    return result


def _costs(request: WhatIfRequest, context: QuestionContext) -> Sequence[str]:
    run, lines = context.run, []
    steps = len(run.order(request.order, request.partial))
    shorter = steps < run.steps or any(Edit.of(edit).name == "drop" for edit in request.edits)
    if shorter and request.estimator is None and not method_of(run.default_method).capabilities.any_length:
        lines.append(
            "an order shorter than the window: the adjoint cannot answer it, an estimator that takes gradients will"
        )
    return [*lines, f"retraining at most {steps} steps"] if request.verify else lines


WHATIF = Question(
    "whatif",
    WhatIfRequest,
    ask,
    render.text,
    "What another order would have changed: edits apply in the order written.",
    _costs,
    command=False,
)

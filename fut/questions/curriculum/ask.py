"""`search`: which method is asked, how the found order is judged, what is retrained, and what is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from estimators.errors import EstimatorError, OrderError
from estimators.orders.order import Order, random_orders
from fut.divergence import divergence_note, trained_apart
from fut.errors import FutError, NotCachedError, UsageError
from fut.estimation.ranking import best as best_of
from fut.estimation.searching import Searching
from fut.protocols import RunFacts, Truths
from fut.questions.context import QuestionContext
from fut.questions.curriculum import render
from fut.questions.curriculum.arrangements import Arrangements
from fut.questions.curriculum.request import SearchRequest
from fut.questions.curriculum.result import (
    Curriculum,
    OrderEstimate,
    RetrainedOrders,
    SearchCost,
    SearchCourse,
)
from fut.questions.curriculum.search import SearchResult, comparable, search
from fut.questions.question import Question


def ask(request: SearchRequest, context: QuestionContext) -> Curriculum:
    """Search, retrain, compare; the answer is kept in the run (`answers/`), and every retrained order is."""
    run, service = context.run, context.service
    if request.start is not None and not isinstance(request.start, (str, Order)):
        request = replace(request, start=run.order(request.start))
    name, truths = request.estimator or run.default_method, service.truths(request.readout)
    searching = service.searching(name, truths.readout)
    start = _start(run, request)
    space = Arrangements(start, request.constraints)
    others = [service.truths(other) for other in request.also]
    rivals = _rivals(run, request, space)  # what cannot be meant is refused before anything is spent
    result = _searched(context, request, start, searching)
    finalists = [order for order, _ in result.finalists]
    orders = [*finalists, *rivals.randoms, *rivals.named.values()] if request.verify else []
    trained, diverged = _retrained(context, [truths, *others], orders)
    able = [order for order in finalists if order in trained]
    best = able[best_of([trained[order].value for order in able], request.maximize)] if able else result.best
    randoms = [order for order in rivals.randoms if order in trained]
    gradients, seconds = service.costs(name)["precompute_gradients"], [of.seconds for of in trained.values()]
    retraining = float(np.mean(seconds)) if seconds else None, float(np.sum(seconds))
    answer = Curriculum(
        best.tolist(),
        OrderEstimate(**searching.judged(best)),
        RetrainedOrders(
            trained[best].value if best in trained else None,
            truths.reference,
            [trained[order].value for order in randoms],
            {name: trained[order].value for name, order in rivals.named.items() if order in trained},
            [_finalist(order, value, trained) for order, value in result.finalists],
            {o.readout: _elsewhere(o, place, trained, best, randoms) for place, o in enumerate(others, 1) if able},
            request.maximize,
            divergence_note(len(trained), diverged) if diverged else "",
        ),
        SearchCourse(result.history, result.evaluations, result.seconds, **request.described()),
        SearchCost(*retraining, gradients, gradients / run.consumed),
        name,
        request.readout,
        truths.unit,
    )
    context.archive.keep("search", request.key, answer)
    return answer


def _start(run: RunFacts, request: SearchRequest) -> Order:
    """The order whose items are arranged, and where the search begins if one was asked for."""
    start = run.reference if request.start is None else run.order(request.start)
    if len(start) != run.steps:
        raise OrderError(
            f"search: expected a start order of {run.steps} steps, the length of the window, got {len(start)}; fill it, or "
            "begin at another"
        )
    return start


@dataclass(frozen=True)
class Trained:
    """Read-outs of a retrained order, the one that was asked for first, and the seconds that it took."""

    values: list[float]
    seconds: float

    @property
    def value(self) -> float:
        return self.values[0]


TrainedOrders = dict[Order, Trained]
"""By order; empty where nothing was retrained."""


def _finalist(order: Order, value: float, trained: TrainedOrders) -> dict[str, Any]:
    retrained = trained[order].value if order in trained else None
    return {"order": order.tolist(), "searched_loss": value, "retrained_loss": retrained}


@dataclass(frozen=True)
class Rivals:
    """Orders that the found one is compared with."""

    randoms: list[Order]
    named: dict[str, Order]


def _rivals(run: RunFacts, request: SearchRequest, space: Arrangements) -> Rivals:
    """Random orders of the start's items and named ones, all within the constraints; named ones that hold other items than
    the start are left out, unless they were asked for."""
    same = run.reference.multiset_digest == space.start.multiset_digest
    drawn = random_orders(run.reference if same else space.start, request.verify, request.seed)
    usual = run.named_orders() if request.heuristics is None and request.verify else {}
    named = usual if request.heuristics is None else {n: run.order(n) for n in request.heuristics}
    kept = comparable(space, named)
    if request.heuristics is not None and (left := sorted(set(named) - set(kept))):
        raise UsageError(
            f"search: expected heuristics that hold the start's items in steps of the same lengths, got {', '.join(left)}; "
            "name others"
        )
    return Rivals(list(comparable(space, {str(i): o for i, o in enumerate(drawn)}).values()), kept)


def _searched(context: QuestionContext, request: SearchRequest, start: Order, searching: Searching) -> SearchResult:
    """The search itself, with progress: by evaluations, or by seconds of a budget in seconds."""
    budget = request.budget
    total = budget.evaluations or math.ceil(budget.seconds or 0)
    table = searching.table()
    if request.method == "assignment" and table is None:
        raise NotCachedError(
            "search: expected a table of positions for the method `assignment`, got none; run `fut cache RUN --terms adjoint`"
        )
    with context.progress("searching", total) as tick:
        began, ticked = time.perf_counter(), [0]

        def tell(count: int) -> None:
            done = ticked[0] + count if budget.evaluations else int(time.perf_counter() - began)
            for _ in range(min(done, total) - ticked[0]):
                tick()
            ticked[0] = min(done, total)

        try:
            return search(
                searching.values,
                start,
                table,
                method=request.method,
                budget=replace(budget, tick=tell),
                seed=request.seed,
                constraints=request.constraints,
                from_start=request.start is not None,
                maximize=request.maximize,
                finalists=request.finalists if request.verify else 1,
            )
        except ValueError as error:
            raise error if isinstance(error, (FutError, EstimatorError)) else UsageError(str(error)) from error


def _retrained(
    context: QuestionContext, readouts: Sequence[Truths], orders: Sequence[Order]
) -> tuple[TrainedOrders, list[Order]]:
    """Read-outs of every order, retrained; what has been trained before is recalled. Then the orders that diverged."""

    def train(order: Order) -> Trained:
        timed = [truths.train_timed(order, tick) for truths in readouts]
        return Trained([value for value, _ in timed], timed[0][1])

    with context.progress("retraining", len(set(orders)) * context.run.steps) as tick:
        for truths in readouts:
            truths.ahead(orders, tick)
        return trained_apart(dict.fromkeys(orders), train)


def _elsewhere(
    truths: Truths, place: int, trained: TrainedOrders, order: Order, randoms: Sequence[Order]
) -> dict[str, Any]:
    """Another read-out of the retrained orders, which the search did not seek; `place` among those that were taken."""
    return {
        "unit": truths.unit,
        "found": trained[order].values[place],
        "reference": truths.reference,
        "random": [trained[o].values[place] for o in randoms],
    }


def _costs(request: SearchRequest, context: QuestionContext) -> Sequence[str]:
    if not request.verify:
        return ()
    named = context.run.named_orders() if request.heuristics is None else request.heuristics
    count = request.verify + request.finalists + len(named)
    return [f"retraining at most {count} orders after the search, {count * context.run.consumed} gradients"]


SEARCH = Question(
    "search",
    SearchRequest,
    ask,
    render.text,
    "Find the order that would have trained best, then retrain in it, beside random and named orders.",
    _costs,
    retrains=True,
)

"""`memorize`: one adjoint pass for every item and group of held-out text, every cell estimated, some of them retrained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from estimators.errors import DivergenceError
from estimators.orders.order import Order
from fut.data.probe_groups import Group
from fut.display.format import amount, brief, nbytes
from fut.divergence import divergence_note
from fut.errors import UsageError
from fut.estimation.changes import PassPlan
from fut.methods.registry import method_of
from fut.orders.editing import place_of
from fut.questions.context import QuestionContext
from fut.questions.memorization import render
from fut.questions.memorization.maps import (
    KINDS,
    Cells,
    Fitted,
    Floats,
    Maps,
    ProbeGroups,
    by_kind,
    draw_cells,
    estimate_maps,
    fit_maps,
)
from fut.questions.memorization.result import LossMaps, Memorization
from fut.questions.outliers import outlier_note
from fut.questions.question import ESTIMATOR, Question, Request, numbers, option
from fut.questions.retraining import LEAST
from fut.readouts.readout import PROBE, shortened

MOST, GROUPS = 64, 8
"""Items of which a map is made where none are named, and groups of held-out samples."""
CALIBRATED, VERIFIED = 41, 43
"""What seeds of both draws differ in."""
SHARE = 2
"""Retrained cells for every order without an item that is retrained with them."""
UNCALIBRATED = "no intervals: no cells have been retrained for them; `fut memorize RUN --calibrate 16` does that"
TRUTH = "no intervals: every cell has been retrained; the figures are the truth"


@dataclass(frozen=True)
class MemorizeRequest(Request[Memorization]):
    """Maps of the loss by the step that an item stands at.

    Args:
        items: rows; None for all that the reference order shows, or `most` of them, evenly spread.
        most: rows at most where no items are named.
        groups: number of groups of like held-out samples.
        showing: which of an item's showings is moved: 0 the first, -1 the last.
        calibrate: cells to retrain for 90 % intervals, and for every two of them an order without an item.
        verify: cells to retrain and compare with, and orders as for `calibrate`.
        seed: of the cells that are retrained.
        estimator: `adjoint` reads all read-outs off one pass, any other is resolved read-out by read-out; None for the
            default.

    Raises:
        UsageError: for no group, and for fewer cells to retrain than a fit needs.
    """

    items: Sequence[int] | None = option(
        None, help="comma-separated items, the rows; default: all, or --most of them", read=numbers
    )
    most: int = option(MOST, help="rows at most where no items are named, evenly spread")
    groups: int = option(GROUPS, help="groups of like held-out samples, for text near an item and far from it")
    showing: int = option(-1, help="which of an item's showings is moved: 0 the first, -1 the last")
    calibrate: int = option(0, help="cells to retrain for 90 % intervals")
    verify: int = option(0, help="cells to retrain and compare with; 64 is a good number")
    seed: int = option(0, help="seed of the cells that are retrained")
    estimator: str | None = option(None, help=ESTIMATOR)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tuples("items")
        if self.groups < 1 or any(count < 0 or 0 < count < LEAST for count in (self.calibrate, self.verify)):
            raise UsageError(
                f"memorize: expected at least 1 group and 0 or at least {LEAST} cells to retrain, got groups={self.groups}, "
                f"calibrate={self.calibrate}, verify={self.verify}; 16 is a good number to calibrate, 64 to verify"
            )

    @property
    def shared(self) -> list[str]:
        """Read-outs of every row: the probe loss and the groups of held-out samples."""
        return [PROBE, *(Group(g, self.groups).name for g in range(self.groups))]

    @property
    def retrained(self) -> int:
        """Orders that are retrained at most for intervals and comparison."""
        return sum(count + count // SHARE for count in (self.calibrate, self.verify))


@dataclass(frozen=True)
class ResolvedRequest(MemorizeRequest):
    """A request that a run can answer: its rows and its method are named."""

    items: Sequence[int] = ()
    estimator: str = ""


def resolve(request: MemorizeRequest, context: QuestionContext) -> ResolvedRequest:
    """The request with what the run makes of it; UsageError or OrderError where it cannot be answered."""
    run, method = context.run, request.estimator or context.run.default_method
    items = _items(request, context)
    method_of(method)  # refuses what is no method
    context.service.require_movable("memorize", [method])
    run.probe_groups(request.groups)  # refuses more groups than samples
    for item in items:
        place_of(run.reference, item, request.showing)
    free = len(items) * (run.steps - 1)
    if request.calibrate + request.verify > free:
        raise UsageError(
            f"memorize: expected at most {free} cells to retrain, all but the items' own steps, got "
            f"{request.calibrate + request.verify}; lower --calibrate or --verify"
        )
    return ResolvedRequest(**vars(request) | {"items": items, "estimator": method})


def _items(request: MemorizeRequest, context: QuestionContext) -> list[int]:
    """The rows: those named, else all that the reference order shows, or as many as are resolved for, evenly spread."""
    shown, items = sorted({i for step in context.run.reference.steps for i in step}), request.items
    if items is None:
        spread = np.linspace(0, len(shown) - 1, request.most).round().astype(int)
        items = shown if len(shown) <= request.most else [shown[k] for k in spread]
    unknown = [i for i in items if i not in shown]
    if unknown or not items or len(set(items)) < len(items):
        raise UsageError(
            f"memorize: expected different items of 0..{context.run.items - 1}, got "
            f"{shortened(list(map(str, items))) or 'none'}; correct --items"
        )
    return list(items)


def pass_of(request: ResolvedRequest, context: QuestionContext) -> PassPlan | None:
    """What the adjoint pass would still cost; None where it is there, or where the method needs none."""
    return context.service.plan_changes(request.estimator, request.shared, request.items)


def ask(request: MemorizeRequest, context: QuestionContext) -> Memorization:
    """Compute what is missing of the adjoint pass, estimate every cell, retrain what is asked for; the answer is kept."""
    resolved, run = resolve(request, context), context.run
    changes = context.service.changes(resolved.estimator, resolved.shared, resolved.items)
    groups = ProbeGroups(
        run.probe_groups(resolved.groups), run.item_similarity(resolved.groups, resolved.items).tolist()
    )
    with context.progress("maps", len(resolved.items)) as tick:
        maps = estimate_maps(changes, run.reference, resolved.items, groups, resolved.showing, tick)
    result = _answer(context, resolved, groups, maps, changes.caution)
    key = {name: value for name, value in vars(resolved).items() if name != "most"}
    context.archive.keep("memorization", key, result)
    return result


def _answer(
    context: QuestionContext, request: ResolvedRequest, groups: ProbeGroups, maps: Maps, caution: str
) -> Memorization:
    """The maps with their intervals and what verification says of them."""
    run, items, service = context.run, list(request.items), context.service
    places = [place_of(run.reference, item, request.showing)[0] for item in items]
    fitted_on, compared = _cells(run.steps, request, places)
    with context.progress("retraining", (len(fitted_on.rows) + len(compared.rows)) * run.steps) as tick:
        (fit_truth, lost), (truth, more) = (
            _truth(context, request, groups, cells, tick) for cells in (fitted_on, compared)
        )
    trained = len(fitted_on.rows) + len(compared.rows) - len(lost) - len(more)
    diverged = divergence_note(trained, [*lost, *more]) if lost or more else ""
    unit = service.truths(PROBE).unit
    fitted = fit_maps(maps, places, fitted_on, fit_truth)
    references = [
        [service.truths(name).reference for name in groups.readouts(item, row)] for row, item in enumerate(items)
    ]
    note = (
        TRUTH if method_of(request.estimator).capabilities.trains else _note(fitted, fitted_on) + _sampled(maps, unit)
    )
    note += f"; {caution}" if caution else ""
    return Memorization(
        request.estimator,
        run.steps,
        items,
        places,
        {kind: [row[k] for row in references] for k, kind in enumerate(KINDS)},
        LossMaps(
            by_kind(fitted.effects),
            by_kind(fitted.absence),
            maps.group_absence.tolist(),
            None if fitted.half is None else by_kind(fitted.half),
            None if fitted.absence_half is None else by_kind(fitted.absence_half),
            {kind: float(np.sqrt(maps.variances[k]).mean()) for k, kind in enumerate(KINDS)},
        ),
        groups,
        note + outlier_note(run, items, request.estimator) + (f"; {diverged}" if diverged else ""),
        fitted.fits or None,
        fitted.check(items, compared, truth),
        list(run.rates),
        request.showing,
        unit,
    )


def _note(fitted: Fitted, cells: Cells) -> str:
    if fitted.half is None:
        return UNCALIBRATED
    without = f" and {len(cells.absent)} orders without an item" if fitted.absence_half is not None else ""
    return f"calibrated on {len(cells.moved)} retrained cells{without}; half-widths of 90 % intervals" + (
        "" if without else f"; those of absence have none, which takes {SHARE * LEAST} cells"
    )


def _sampled(maps: Maps, unit: str) -> str:
    """What is known of the error without retraining: that of the sample of coordinates."""
    sd = float(np.sqrt(maps.variances[0]).mean())
    return (
        f"; the sampling error over coordinates alone is {amount(sd, unit, '.2g')} on the items themselves"
        if sd
        else ""
    )


def _cells(steps: int, request: ResolvedRequest, places: Sequence[int]) -> tuple[Cells, Cells]:
    """What is retrained for intervals, and what for the comparison: nothing twice."""
    drawn: list[Cells] = []
    for count, key in ((request.calibrate, CALIBRATED), (request.verify, VERIFIED)):
        drawn.append(draw_cells(places, steps, count, count // SHARE, drawn, [request.seed, key]))
    return drawn[0], drawn[1]


def _truth(
    context: QuestionContext,
    request: ResolvedRequest,
    groups: ProbeGroups,
    cells: Cells,
    tick: Callable[[], object],
) -> tuple[Floats, list[Order]]:
    """Really retrained changes of the loss against the reference order, [orders, kinds], NaN where training diverged, and the
    orders that did."""
    changes: list[list[float]] = []
    diverged: list[Order] = []
    orders = cells.orders(context.run.reference, request.items, request.showing)
    context.service.train_ahead(orders, (), tick)
    for row, order in zip(cells.rows, orders, strict=True):
        of_row = [context.service.truths(name) for name in groups.readouts(request.items[row], row)]
        try:
            changes.append([truths.train(order, tick) - truths.reference for truths in of_row])
        except DivergenceError:
            diverged.append(order)
            changes.append([math.nan] * len(KINDS))
    return np.array(changes).reshape(-1, len(KINDS)), diverged


def _costs(request: MemorizeRequest, context: QuestionContext) -> Sequence[str]:
    resolved, steps = resolve(request, context), context.run.steps
    plan, sweep = pass_of(resolved, context), "no adjoint pass is needed"
    if plan is not None:
        sweep = (
            f"one adjoint pass for {plan.readouts} read-outs: {plan.gradients:,} gradients, about {brief(plan.seconds)}, "
            f"{nbytes(plan.nbytes)} on disk and {nbytes(plan.scratch)} of scratch meanwhile, before compression"
        )
    rows, done = len(resolved.items), "retrained" if method_of(resolved.estimator).capabilities.trains else "estimated"
    return [
        f"{sweep}; {rows * steps:,} cells and {rows} orders without an item are {done}; at most {resolved.retrained} orders "
        f"are retrained for intervals and comparison, {resolved.retrained * steps:,} steps"
    ]


MEMORIZE = Question(
    "memorize",
    MemorizeRequest,
    ask,
    render.memorization,
    "The loss on every item, and on held-out text near it and far from it, by the step the item stands at.",
    _costs,
    draw=render.picture,
    picture=lambda answer, request: "answers/memorization.png",
    picture_help="PNG of the maps; default: in the run",
    retrains=True,
)

"""`lds`: which subsets are left out, which methods are compared, and what is kept of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fut.errors import NotCachedError, UsageError
from fut.methods.baseline import REFERENCE
from fut.methods.registry import canonical, method_of
from fut.questions.accuracy.result import verify
from fut.questions.context import QuestionContext, method_name
from fut.questions.leave_out import render
from fut.questions.leave_out.score import Datamodel, random_subsets
from fut.questions.question import Question
from fut.questions.request import READOUT_HELP, Request, names_if_any, option
from fut.readouts.readout import PROBE, suffix

READINGS = ("reweighting:reading=replayed", "reweighting:reading=linear")
DEFAULT = (*READINGS, "adjoint")
"""Methods that are compared where none are named, those of them that are cached."""


@dataclass(frozen=True)
class LdsRequest(Request[Datamodel]):
    """A comparison of methods with training without random subsets of the items.

    Args:
        subsets: how many, at least 2.
        share: of all items that each leaves out, in place; between 0 and 1.
        seed: of the draw.
        estimators: methods to compare, `reference` always among them; None for `DEFAULT`, where they are cached.
        readout: what is compared.

    Raises:
        UsageError: for fewer than 2 subsets or a negative seed.
    """

    subsets: int = option(48, help="random subsets to leave out and retrain without")
    share: float = option(0.1, help="share of all items that each leaves out, in place")
    seed: int = option(0, help="seed of the subsets")
    estimators: Sequence[str] | None = option(
        None, help="comma-separated names; default: reweighting and adjoint where they are cached", read=names_if_any
    )
    readout: str = option(PROBE, help=READOUT_HELP)

    def __post_init__(self) -> None:
        self._tuples("estimators")
        if self.subsets < 2:
            raise UsageError(
                f"lds: expected at least 2 subsets, got {self.subsets}; a correlation needs more, 48 is a good number"
            )
        if self.seed < 0:
            raise UsageError(f"lds: expected a seed of 0 or more, got {self.seed}; correct --seed")


def ask(request: LdsRequest, context: QuestionContext) -> Datamodel:
    """Retrain and compare; the result is kept in the run, and every retrained endpoint is, which later calls reuse."""
    service, run = context.service, context.run
    try:
        subsets = random_subsets(run.items, request.subsets, request.share, request.seed)
    except ValueError as error:
        raise UsageError(f"lds: {error}; correct --share") from error
    truths = service.truths(request.readout)
    readout = truths.readout
    methods = {name: service.measured(name, readout, calibrated=False) for name in _chosen(request, context, readout)}
    for method in methods.values():
        method.ready()  # refuse before anything is retrained
    orders = [run.reference.without(left_out) for left_out in subsets]
    with context.progress("retraining", request.subsets * run.steps) as tick:
        trained = {order: truths.train_timed(order, tick) for order in orders}
    costs = {name: service.costs(method_name(name)) for name in methods}
    compared = verify(orders, truths.reference, trained.__getitem__, dict(methods), costs, readout, truths.unit)
    result = Datamodel([list(s) for s in subsets], request.share, request.seed, compared)
    key = f"{request.subsets}-share-{request.share:g}-seed-{request.seed}{suffix(readout)}"
    context.archive.keep("lds", key, result)
    return result


def _chosen(request: LdsRequest, context: QuestionContext, readout: str) -> list[str]:
    """The methods to compare; without names, those of the default that the run's store can serve."""
    known = [name for name in context.run.methods if not method_of(name).capabilities.trains]
    methods = None if request.estimators is None else [canonical(name) for name in request.estimators]
    unknown = [name for name in methods or () if method_name(name) not in known]
    if unknown:
        raise UsageError(f"lds: expected some of {', '.join(known)}, got {', '.join(unknown)}; correct the names")
    if methods is not None:
        return list(dict.fromkeys([REFERENCE.name, *methods]))
    able = [name for name in DEFAULT if context.service.is_ready(name, readout)]
    if not able:
        raise NotCachedError(
            "lds: expected what an estimator of leave-out effects reads, got none; run "
            "`fut cache RUN --terms reweighting`, or name --estimators"
        )
    return [REFERENCE.name, *able]


def _costs(request: LdsRequest, context: QuestionContext) -> Sequence[str]:
    gradients = request.subsets * context.run.consumed
    return [f"retraining at most {request.subsets} subsets of {context.run.steps} steps, at most {gradients} gradients"]


LDS = Question(
    "lds",
    LdsRequest,
    ask,
    render.datamodel,
    "Retrain without random subsets of the items and score how estimators rank them (LDS).",
    _costs,
)

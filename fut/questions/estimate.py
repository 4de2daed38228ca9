"""`estimate`: a read-out under other orders, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from estimators.orders.order import Order
from fut.estimation import render
from fut.estimation.results import Estimate, Estimates
from fut.orders.editing import only_edit
from fut.orders.parsing import written
from fut.protocols import Value
from fut.questions.context import QuestionContext
from fut.questions.question import (
    ESTIMATOR,
    KNOWN,
    ORDER,
    READOUT_HELP,
    Question,
    Request,
    one_order,
    option,
    require_list,
)
from fut.readouts.readout import PROBE


@dataclass(frozen=True)
class EstimateRequest(Request[Estimates]):
    """What training in other orders would have given.

    Args:
        orders: each a name, a list with one entry per step, a path to a JSON list, or an `Order`.
        estimator: the method's name, which then estimates every order; `retrain` trains. None for the default.
        partial: accept orders shorter than the window.
        known: say what is known of orders that have been retrained: in `truth` beside the answer of an estimator that was
            named, as the answer itself where none was.
        readout: what is asked for.
        calibrated: apply the method's calibration, if there is one.
        options: of the method, by name; estimates with options go without a calibration.

    Raises:
        OrderError: for one order in place of a list of them.
    """

    orders: Sequence[Any] = option(help=ORDER, name="--order", read=one_order)
    estimator: str | None = option(None, help=ESTIMATOR)
    partial: bool = option(False, help="accept a list shorter than the window")
    known: bool = option(True, help=KNOWN)
    readout: str = option(PROBE, help=READOUT_HELP)
    calibrated: bool = option(True, help="apply the estimator's calibration, if there is one")
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_list("estimate", self.orders)
        self._tuples("orders")


def ask(request: EstimateRequest, context: QuestionContext) -> Estimates:
    """An estimate per order; one edit of the reference order has the calibration of such edits, where there is one."""
    estimates = context.service.estimates(
        request.estimator or context.run.default_method,
        request.readout,
        known=request.known,
        named=request.estimator is not None or bool(request.options),
        calibrated=request.calibrated,
        options=request.options,
    )
    orders = [context.run.order(spec, request.partial) for spec in request.orders]
    with context.progress(f"estimating {len(orders)} orders", 1) as tick:
        answers = estimates.edited(orders, [only_edit(spec, ()) for spec in request.orders])
        tick()
    asked = zip(request.orders, orders, answers, strict=True)
    return Estimates(_estimate(written(spec), order, answer) for spec, order, answer in asked)


def _estimate(asked: str, order: Order, answer: Value) -> Estimate:
    rest = (
        answer.estimator,
        order.digest,
        answer.source,
        answer.note,
        answer.readout,
        answer.unit,
        asked,
        answer.truth,
    )
    return Estimate(answer.value, answer.delta, answer.interval, *rest)


def _first(answers: Estimates) -> dict[str, Any]:
    return answers[0].as_dict()


ESTIMATE = Question(
    "estimate",
    EstimateRequest,
    ask,
    lambda answers: render.estimate(answers[0]),
    "The probe loss, or another read-out, that training in another order would have given, without training.",
    content=_first,
)

"""`estimate`: a read-out under other orders, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from estimators.errors import OrderError
from estimators.orders.order import Order
from fut import protocols
from fut.estimation import render
from fut.estimation.curve import Curve
from fut.estimation.results import Estimate, Estimates
from fut.methods.registry import method_of
from fut.orders.editing import only_edit
from fut.orders.parsing import written
from fut.protocols import Value
from fut.questions.context import QuestionContext
from fut.questions.curves import CURVE, curve_names, train_at
from fut.questions.question import (
    ESTIMATOR,
    KNOWN,
    ORDER,
    READOUT_HELP,
    Question,
    Request,
    numbers,
    one_order,
    option,
    require_list,
)
from fut.readouts.readout import PROBE, step_of


@dataclass(frozen=True)
class EstimateRequest(Request[Estimates]):
    """What training in other orders would have given.

    Args:
        orders: each a name, a list with one entry per step, a path to a file, or an `Order`.
        estimator: the method's name, which then estimates every order; `retrain` trains. None for the default.
        partial: accept orders shorter than the window.
        known: say what is known of orders that have been retrained: in `truth` beside the answer of an estimator that was
            named, as the answer itself where none was.
        readout: what is asked for.
        calibrated: apply the method's calibration, if there is one.
        curve: of one order, the read-out over the steps, as a `Curve`: after each step that the run has an adjoint pass of, and
            at the end.
        curve_steps: after these steps in place of those; a method without an adjoint pass answers after any.
        options: of the method, by name; estimates with options go without a calibration.

    Raises:
        OrderError: for one order in place of a list of them, and for several where a curve is asked for.
    """

    orders: Sequence[Any] = option(help=ORDER, name="--order", read=one_order)
    estimator: str | None = option(None, help=ESTIMATOR)
    partial: bool = option(False, help="accept a list shorter than the window")
    known: bool = option(True, help=KNOWN)
    readout: str = option(PROBE, help=READOUT_HELP)
    calibrated: bool = option(True, help="apply the estimator's calibration, if there is one")
    curve: bool = option(False, help=CURVE)
    curve_steps: tuple[int, ...] = option((), help="comma-separated steps of a curve, in place of those", read=numbers)
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_list("estimate", self.orders)
        self._tuples("orders")
        if self.along and len(self.orders) != 1:
            raise OrderError(f"estimate: expected one order for a curve, got {len(self.orders)}; ask for one at a time")

    @property
    def along(self) -> bool:
        """Whether a curve is asked for."""
        return self.curve or bool(self.curve_steps)


def ask(request: EstimateRequest, context: QuestionContext) -> Estimates:
    """An estimate per order, or per step of one; one edit of the reference order has the calibration of such edits, where there
    is one."""
    if request.along:
        return _curve(request, context)
    estimates = _opened(request, context, request.readout)
    orders = [context.run.order(spec, request.partial) for spec in request.orders]
    with context.progress(f"estimating {len(orders)} orders", 1) as tick:
        answers = estimates.edited(orders, [only_edit(spec, ()) for spec in request.orders])
        tick()
    asked = zip(request.orders, orders, answers, strict=True)
    return Estimates(_estimate(written(spec), order, answer) for spec, order, answer in asked)


def _opened(
    request: EstimateRequest, context: QuestionContext, readout: str, beside: protocols.Estimates | None = None
) -> protocols.Estimates:
    """The request's method for a read-out. beside: another read-out's, with which tables are shared."""
    return context.service.estimates(
        request.estimator or context.run.default_method,
        readout,
        known=request.known,
        named=request.estimator is not None or bool(request.options),
        calibrated=request.calibrated,
        beside=beside,
        options=request.options,
    )


def _curve(request: EstimateRequest, context: QuestionContext) -> Curve:
    (spec,) = request.orders
    order, edit = context.run.order(spec), only_edit(spec, ())
    names = curve_names(context, request.readout, request.curve_steps)
    if request.estimator is not None and method_of(request.estimator).capabilities.trains:
        train_at(context, [order], names)
    answers, first = list[Estimate](), None
    with context.progress(f"estimating after {len(names)} steps", len(names)) as tick:
        for name in names:
            estimates = _opened(request, context, name, first)
            first = first or estimates
            answers.append(_estimate(written(spec), order, estimates.edited([order], [edit])[0]))
            tick()
    return Curve(answers, [step_of(name) or context.run.steps for name in names], request.readout)


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


def _content(answers: Estimates) -> dict[str, Any]:
    return answers.as_dict() if isinstance(answers, Curve) else answers[0].as_dict()


def _text(answers: Estimates) -> str:
    return answers.text() if isinstance(answers, Curve) else render.estimate(answers[0])


ESTIMATE = Question(
    "estimate",
    EstimateRequest,
    ask,
    _text,
    "The probe loss, or another read-out, that training in another order would have given, without training.",
    content=_content,
    retrains=True,
)

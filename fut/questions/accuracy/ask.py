"""`verify`: which orders are retrained, which methods are compared with them, and what is kept of the result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from estimators.orders.order import Order
from fut.divergence import require_trained, trained_apart
from fut.errors import UsageError
from fut.estimation.calibration_orders import fresh_orders
from fut.estimation.measured import Measured
from fut.estimation.results import Answers
from fut.methods.baseline import REFERENCE
from fut.methods.registry import base_name, canonical, method_of
from fut.methods.retrain import RETRAIN
from fut.protocols import Truths
from fut.questions.accuracy import render
from fut.questions.accuracy.curve import CurveVerification, scatter
from fut.questions.accuracy.curve import table as curve_table
from fut.questions.accuracy.result import Surrogate, Verification, verify
from fut.questions.context import QuestionContext
from fut.questions.curves import CURVE, curve_names, train_at
from fut.questions.question import READOUT_HELP, Question, Request, names_if_any, option
from fut.questions.retraining import retraining
from fut.readouts.readout import PROBE, suffix

KIND, BASIS = "orders", "basis"
"""Of kept verifications; and of one, what each method's answers were made from."""


@dataclass(frozen=True)
class VerifyRequest(Request[Verification]):
    """A comparison of methods with retrained random orders.

    Args:
        orders: how many, at least 2.
        seed: of the draw.
        estimators: methods to compare, `reference` always among them; None for all whose terms are cached.
        readout: what is compared.
        curve: compare after several steps of the same orders too: after each step that the run has an adjoint pass of. The
            answer is a `CurveVerification`.

    Raises:
        UsageError: for fewer than 2 orders.
    """

    orders: int = option(32, help="random orders to retrain")
    seed: int = option(0, help="seed of the orders")
    estimators: Sequence[str] | None = option(
        None, help="comma-separated names; default: all that are cached", read=names_if_any
    )
    readout: str = option(PROBE, help=READOUT_HELP)
    curve: bool = option(False, help=CURVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tuples("estimators")
        if self.orders < 2:
            raise UsageError(
                f"verify: expected at least 2 orders, got {self.orders}; a correlation needs more, 32 is a good number"
            )

    def key(self, readout: str) -> str:
        """Names the kept answer; readout: its name in full."""
        return f"{self.orders}-seed-{self.seed}{suffix(readout)}"


def ask(request: VerifyRequest, context: QuestionContext) -> Verification:
    """Retrain the orders and compare; the result is kept in the run, beside the retrained endpoints, which later calls reuse."""
    if request.curve:
        return _along(request, context)
    service, run, truths = context.service, context.run, context.service.truths(request.readout)
    readout = truths.readout
    names = _methods(request, context, readout)
    methods = {name: service.measured(name, readout) for name in names if not method_of(name).capabilities.trains}
    used = {digest for method in methods.values() for digest in method.fitted_digests}
    draw = partial(fresh_orders, run.reference, run.canonical, request.orders, request.seed, used)
    result = compare(context, truths, methods, draw, RETRAIN.name in names)
    result = replace(result, surrogate=_learnt(context, result))
    basis = {name: service.basis(name, readout) for name in methods}
    context.archive.keep(KIND, request.key(readout), result, **{BASIS: basis})
    return result


def _along(request: VerifyRequest, context: QuestionContext) -> CurveVerification:
    """The comparison after each step, once every order has been trained and what it came to after them is kept."""
    names, run = curve_names(context, context.service.truths(request.readout).readout), context.run
    parts = [replace(request, readout=name, curve=False) for name in names]
    for part in parts:
        for method in _methods(part, context, part.readout):
            if not method_of(method).capabilities.trains:
                context.service.measured(method, part.readout).ready()  # refuse before anything is retrained
    used = {digest for part in parts for digest in _fitted_on(part, context)}
    train_at(context, fresh_orders(run.reference, run.canonical, request.orders, request.seed, used), names)
    return CurveVerification.of({part.readout: ask(part, context) for part in parts})


def _fitted_on(request: VerifyRequest, context: QuestionContext) -> list[str]:
    """Digests of the orders that the methods are calibrated on."""
    methods = [m for m in _methods(request, context, request.readout) if not method_of(m).capabilities.trains]
    return [digest for m in methods for digest in context.service.measured(m, request.readout).fitted_digests]


def compare(
    context: QuestionContext,
    truths: Truths,
    methods: Mapping[str, Measured],
    draw: Callable[[], Sequence[Order]],
    exact: bool = False,
) -> Verification:
    """Retrain orders and compare methods with them, once it is known that all methods can answer.

    Args:
        context: what is asked.
        truths: the read-out of retrained orders.
        methods: by name, as the table has them.
        draw: gives the orders.
        exact: whether retraining is a row of the table too.
    """
    for method in methods.values():
        method.ready()  # refuse before anything is retrained
    orders = draw()
    with context.progress("retraining", len(orders) * context.run.steps) as tick:
        truths.ahead(orders, tick)
        trained, diverged = trained_apart(orders, lambda order: truths.train_timed(order, tick))
    require_trained("verify", len(trained), diverged)
    orders = list(trained)
    answering: dict[str, Callable[[Sequence[Order]], Answers]] = dict(methods)
    if exact:
        answering[RETRAIN.name] = lambda orders: _exact([trained[order] for order in orders])
    costs = {name: context.service.costs(name) for name in answering}
    found = verify(orders, truths.reference, trained.__getitem__, answering, costs, truths.readout, truths.unit)
    return replace(found, diverged=[order.tolist() for order in diverged])


def _learnt(context: QuestionContext, found: Verification) -> dict[str, Any] | None:
    """What a learner of the retrained orders alone has; None for too few of them."""
    halves = context.service.surrogate(list(map(Order.of, found.orders)), found.true_losses)
    return None if halves is None else asdict(Surrogate.of(halves, found.true_losses, found.reference_loss))


def kept_verification(request: VerifyRequest, context: QuestionContext) -> Verification | None:
    """What an earlier call kept of the same orders, if it compared every method that is available now."""
    content = context.archive.find(KIND, request.key(request.readout))
    if content is None:
        return None
    kept = Verification.from_dict(without_stale(content, context.service.basis))
    return kept if set(kept.estimators) >= set(context.service.ready_methods(request.readout)) else None


def without_stale(content: Mapping[str, Any], basis: Callable[[str, str], str]) -> dict[str, Any]:
    """A kept verification less what it says of methods whose terms or calibration have been made anew since.

    Args:
        content: as it was kept.
        basis: (method, read-out) -> digest of what the method's answers are made from now.
    """
    readout = content.get("readout", PROBE)
    stale = {name for name, digest in content.get(BASIS, {}).items() if digest != basis(name, readout)}
    return dict(content) | {
        key: {name: value for name, value in content[key].items() if name not in stale}
        for key in ("estimators", "estimated_losses", "intervals")
        if key in content
    }


def _exact(trained: Sequence[tuple[float, float]]) -> Answers:
    """Retraining as one of the methods: exact, each interval a point."""
    values = [value for value, _ in trained]
    return Answers(values, [(value, value) for value in values], 0.0, sum(seconds for _, seconds in trained))


def _methods(request: VerifyRequest, context: QuestionContext, readout: str) -> list[str]:
    """The methods that are compared."""
    if request.estimators is None:
        return context.service.ready_methods(readout)
    methods = with_baseline("verify", request.estimators, context.run.methods)
    context.service.require_movable("verify", methods)
    return methods


def with_baseline(question: str, names: Sequence[str], known: Collection[str]) -> list[str]:
    """The named methods after `reference`, each once; UsageError, in the question's name, for one that there is not."""
    methods = [canonical(name) for name in names]
    if unknown := [name for name in methods if base_name(name) not in known]:
        raise UsageError(
            f"{question}: expected some of {', '.join(known)}, got {', '.join(unknown)}; correct the names"
        )
    return list(dict.fromkeys([REFERENCE.name, *methods]))


def _costs(request: VerifyRequest, context: QuestionContext) -> Sequence[str]:
    return [retraining(context, request.orders)]


def _picture(result: Verification, request: VerifyRequest) -> str:
    along = "-curve" if request.curve else ""
    return str(Path("verification") / f"{KIND}-{request.key(result.readout)}{along}.png")


def _text(result: Verification) -> str:
    return curve_table(result) if isinstance(result, CurveVerification) else render.table(result)


VERIFY = Question(
    "verify",
    VerifyRequest,
    ask,
    _text,
    "Retrain random orders and compare every estimator with them, beside the baseline `reference`.",
    _costs,
    draw=scatter,
    picture=_picture,
    picture_help="PNG of estimated against retrained losses; default: in the run",
    retrains=True,
)

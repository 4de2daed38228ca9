"""`calibrate`: retrain a few orders and fit a method to them, so that its later estimates carry intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from estimators.intervals import CURVED_LEAST
from fut.errors import UsageError
from fut.estimation import render
from fut.estimation.calibration import SEED, Calibrated
from fut.estimation.calibration_orders import CHOSEN
from fut.methods.registry import method_of
from fut.orders.editing import CALIBRATED
from fut.questions.context import QuestionContext
from fut.questions.curves import CURVE, curve_names, train_at
from fut.questions.question import ESTIMATOR, READOUT_HELP, Question, Request, option
from fut.questions.retraining import retraining
from fut.readouts.readout import PROBE


@dataclass(frozen=True)
class CalibrateRequest(Request[Calibrated]):
    """A calibration of a method: a few orders to retrain, which it is fitted to.

    Args:
        orders: how many, at least 3.
        seed: of the draw.
        estimator: the method's name; None for the default.
        readout: what is fitted.
        edit: `swap`, `move`, `repeat`, `replace` or `without`, for orders that are one such edit away from the
            reference order: questions about one edit of that kind then have the interval that such orders deserve.
            None for random orders.
        chosen: orders between the best and the worst by their estimates in place of random ones, at least 12; the fit may bend.
            What is chosen for its estimate, as by a search or by sorting, is then within what the fit has seen.
        curve: fit the read-out after several steps too, to the same orders: after each step that the run has an adjoint pass
            of. The answer is the fit at the end.

    Raises:
        UsageError: for fewer than 3 orders, and for a method that has nothing to calibrate.
    """

    orders: int = option(8, help="random orders to retrain")
    seed: int = option(SEED, help="seed of the orders; keep it apart from those you verify with")
    estimator: str | None = option(None, help=ESTIMATOR)
    readout: str = option(PROBE, help=READOUT_HELP)
    edit: str | None = option(
        None, help=f"orders one random edit away from the reference: {', '.join(CALIBRATED)}; for `fut whatif`"
    )
    chosen: bool = option(
        False,
        help="orders from the best to the worst by their estimates, 12 or more: for what a search or a sort finds",
    )
    curve: bool = option(False, help=CURVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator is not None and not method_of(self.estimator).capabilities.calibrates:
            raise UsageError(
                f"calibrate: expected an estimator, got `{self.estimator}`, which has nothing to calibrate; name another"
            )
        if self.chosen and self.edit is not None:
            raise UsageError(
                f"calibrate: expected --chosen or --edit, got both, `{self.edit}`; calibrate twice, on each alone"
            )
        if self.chosen and self.orders < CURVED_LEAST:
            raise UsageError(
                f"calibrate: expected at least {CURVED_LEAST} orders with --chosen, got {self.orders}; 16 is a good number"
            )
        if self.orders < 3:
            raise UsageError(f"calibrate: expected at least 3 orders, got {self.orders}; 8 is a good number")


def ask(request: CalibrateRequest, context: QuestionContext) -> Calibrated:
    """The fit, which is kept in the run."""
    method, service = request.estimator or context.run.default_method, context.service
    names = curve_names(context, request.readout) if request.curve else [request.readout]
    kind = CHOSEN if request.chosen else request.edit
    if request.curve:
        orders = [o for name in names for o in service.calibration_orders(request.orders, request.seed, kind, name)]
        train_at(context, list(dict.fromkeys(orders)), names)
    fits = [service.calibrate(method, name, request.orders, request.seed, kind) for name in names]
    return fits[-1]


def _costs(request: CalibrateRequest, context: QuestionContext) -> Sequence[str]:
    return [retraining(context, request.orders)]


CALIBRATE = Question(
    "calibrate",
    CalibrateRequest,
    ask,
    render.calibration,
    "Retrain a few orders and fit an estimator to them: every later estimate then carries a 90 % interval.",
    _costs,
    retrains=True,
)

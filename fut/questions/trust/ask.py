"""`trust`: before anything dear is computed, how well can estimates be expected to rank the orders of this window?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from estimators.orders.order import Halves, shuffled_halves
from fut.errors import UsageError
from fut.estimation.interactions import HalvesTrained
from fut.methods.registry import method_of
from fut.questions.context import QuestionContext
from fut.questions.question import ESTIMATOR, READOUT_HELP, Question, Request, option
from fut.questions.retraining import retraining
from fut.questions.trust import render
from fut.questions.trust.result import OwnRuns, Trust
from fut.readouts.readout import PROBE

SEED = 2_000_003
"""Default seed of the trials, apart from those of calibration and verification."""
PARTS = 4
"""Places in the window at which parameters are compared."""
ORDERS = len(Halves._fields)


@dataclass(frozen=True)
class TrustRequest(Request[Trust]):
    """How far what orders change is from a sum over their steps, by training three orders or a few times three.

    Args:
        trials: three orders are trained for each: two that permute a half of the steps each, and both changes together.
        seed: of the halves and the permutations.
        estimator: the method whose error on its own real runs stands beside; None for the default.
        readout: whose interactions are taken too.

    Raises:
        UsageError: for no trial, and for a method that there is not.
    """

    trials: int = option(
        1, help="times that three orders are trained; from 4 on the read-out's own share is stated too"
    )
    seed: int = option(SEED, help="seed of the orders; keep it apart from those you verify with")
    estimator: str | None = option(None, help=ESTIMATOR)
    readout: str = option(PROBE, help=READOUT_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials < 1:
            raise UsageError(f"trust: expected at least 1 trial, got {self.trials}; 1 is a good number to begin with")
        if self.estimator is not None:
            method_of(self.estimator)  # refuses a name that there is not, before anything is trained


def ask(request: TrustRequest, context: QuestionContext) -> Trust:
    """Train, compare; the orders and the answer are kept in the run."""
    run, service = context.run, context.service
    method, truths = request.estimator or run.default_method, service.truths(request.readout)
    drawn = [shuffled_halves(run.reference, request.seed, trial) for trial in range(request.trials)]
    same = run.canonical(run.reference)
    if any(run.canonical(order) == same for halves in drawn for order in halves[:2]):
        raise UsageError(
            "trust: expected items that differ in either half of the steps, got a half whose order changes nothing; take another "
            "--seed, or a window of more items"
        )
    steps = sorted({max(1, run.steps * part // PARTS) for part in range(1, PARTS + 1)})
    with context.progress("retraining", ORDERS * request.trials * run.steps) as tick:
        trials: list[HalvesTrained] = [service.train_halves(halves, steps, truths.readout, tick) for halves in drawn]
    if not any(trial.over[-1].effect for trial in trials):
        raise UsageError(
            f"trust: expected orders that change what training leads to, got {ORDERS * request.trials} that change nothing, "
            "as where items are equal or the rate is 0; then every order is the reference's, else take another --seed"
        )
    own = service.own_runs(method, truths.readout)
    gradients = ORDERS * request.trials * run.consumed
    answer = Trust(trials, None if own is None else OwnRuns(*own), method, truths.readout, truths.unit, gradients)
    context.archive.keep("trust", request.as_dict(), answer)
    return answer


def _costs(request: TrustRequest, context: QuestionContext) -> Sequence[str]:
    return [retraining(context, ORDERS * request.trials)]


TRUST = Question(
    "trust",
    TrustRequest,
    ask,
    render.text,
    "Before anything dear: is this window smooth enough, and how well will estimates rank orders? Trains three orders.",
    _costs,
    retrains=True,
)

"""`branch`: two trainings that are one up to a step, of which one is treated there, over several seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from estimators.orders.order import Order, random_orders
from fut.divergence import divergence_note, require_trained
from fut.errors import UsageError
from fut.protocols import Branches, BranchPair, BranchPlan, Estimates
from fut.questions.question import Request, option
from fut.studies.base import Study, StudyContext
from fut.studies.branch.render import draw, text
from fut.studies.branch.result import BranchEffect
from fut.studies.paired import paired_effect

OF_ORDER, UNIFORM, LEAST = "order", "uniform", 6


@dataclass(frozen=True)
class BranchRequest(Request[BranchEffect]):
    """What a treatment of one source of memory does, as the mean over seeds of treated minus control.

    A seed is a random order of the run's items, trained from the run's own state before the window.

    Args:
        at: the step before which the arms part.
        source: `optimizer`, `order`, `path`, `schedule` or `averages`.
        treatment: of the source, as `reset`, `scale:0.5` or `swap:0:3`; `nothing` is a check.
        window: steps that the treatment acts in, and that are held equal otherwise; None for two half-lives of the slowest
            memory, or what is left.
        horizon: steps after which training ends; None for all of the run's.
        seeds: pairs of trainings.
        clamp: repeat the treatment before every step of the window.
        average: what is judged: None for the parameters, a decay as `0.99` for their exponential average, `uniform` for their
            mean.
        seed: root of the orders and of the treatment's random numbers.

    Raises:
        UsageError: for a branch, window or horizon that are none, no seed, or an average that is none.
    """

    at: int = option(0, help="step before which the two arms part")
    source: str = option("optimizer", help="of memory: optimizer, order, path, schedule or averages")
    treatment: str = option(
        "nothing", help="of the source, as `reset`, `scale:0.5`, `swap:0:3`; an unknown one lists them all"
    )
    window: int | None = option(None, help="steps the treatment acts in; default: two half-lives of the slowest memory")
    horizon: int | None = option(None, help="steps after which training ends; default: all of the run's")
    seeds: int = option(LEAST, help="pairs of trainings, each in a random order of its own", largest=10_000)
    clamp: bool = option(False, help="repeat the treatment before every step of the window")
    average: str | None = option(None, help="judge an average of the parameters: a decay as 0.99, or uniform")
    seed: int = option(0, help="root of the orders and of the treatment's random numbers")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("at", 0), ("window", 1), ("horizon", 1), ("seeds", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"branch: expected {name} >= {least}, got {value}; correct it")
        if self.average not in (None, UNIFORM):
            try:
                decay = float(str(self.average))
            except ValueError:
                decay = -1.0
            if not 0 <= decay < 1:
                raise UsageError(
                    f"branch: expected a decay of the average from 0 to below 1, or `uniform`, got `{self.average}`; correct it"
                )


def plan_of(request: BranchRequest, branches: Branches) -> BranchPlan:
    """The plan of a request, checked against the run."""
    horizon = branches.steps if request.horizon is None else request.horizon
    window = suggested_window(branches.half_lives, horizon - request.at) if request.window is None else request.window
    average = request.average if request.average in (None, UNIFORM) else float(str(request.average))
    made = (request.source, request.treatment, request.clamp, average, request.seed)
    plan = BranchPlan(request.at, window, horizon, *made)
    branches.check(plan)
    return plan


def suggested_window(lives: Mapping[str, float], left: int) -> int:
    """Two half-lives of the slowest buffer, at most the steps that are left, at least one."""
    return max(1, min(left, math.ceil(2 * max(lives.values(), default=0.5))))


def ask(request: BranchRequest, context: StudyContext) -> BranchEffect:
    """The effect with its audit record, which are kept in the run."""
    branches = _branches(context)
    plan = plan_of(request, branches)
    orders = random_orders(context.reference, request.seeds, request.seed)
    with context.progress("branches", branches.gradients(plan, request.seeds)) as tick:
        found = list(branches.pairs(plan, orders, tick))
    pairs, diverged = [f for f in found if isinstance(f, BranchPair)], [f for f in found if isinstance(f, Order)]
    require_trained("branch", len(pairs), diverged, least=1)
    effect = BranchEffect(
        plan,
        branches.half_lives,
        branches.units,
        tuple(pairs),
        {name: paired_effect(values, request.seed) for name, values in differences(pairs).items()},
        branches.environment,
        estimated(plan, branches.steps, pairs, context.estimates),
        divergence_note(len(pairs), diverged) if diverged else "",
    )
    about = request.as_dict() | {"readout": context.truths.readout}
    context.archive.keep(BRANCH.name, about, effect, request=about)
    return effect


def differences(pairs: Sequence[BranchPair]) -> dict[str, list[float]]:
    """Treated minus control at the horizon, of every metric, by pair."""
    ends = [pair.readings[-1] for pair in pairs]
    return {name: [end.treated[name] - end.control[name] for end in ends] for name in ends[0].control}


def estimated(
    plan: BranchPlan, steps: int, pairs: Sequence[BranchPair], estimates: Estimates | None
) -> tuple[str, tuple[float, ...]] | None:
    """What a method says of the differences without training, where it can: of orders, at the end of the run's window."""
    if plan.source != OF_ORDER or plan.horizon != steps or plan.average is not None or estimates is None:
        return None
    asked = [order for pair in pairs for order in pair.orders]
    values = [answer.value for answer in estimates(asked)]
    return estimates.method, tuple(t - c for c, t in zip(values[::2], values[1::2], strict=True))


def _branches(context: StudyContext) -> Branches:
    if context.branches is None:
        raise UsageError("branch: expected a run that can be trained, got a context without one; ask an opened run")
    return context.branches


def _costs(request: BranchRequest, context: StudyContext) -> Sequence[str]:
    branches = _branches(context)
    plan = plan_of(request, branches)
    count = branches.gradients(plan, request.seeds)
    few = f"; fewer than {LEAST} seeds cannot reach p = 0.05 in the sign-flip test" if request.seeds < LEAST else ""
    return [
        f"branches: {request.seeds} pairs from step {plan.at}, window of {plan.window} steps, to step {plan.horizon}: "
        f"{count} gradients, about {count / max(1, context.consumed):.1f} training runs{few}"
    ]


BRANCH = Study(
    "branch",
    "Branch and hold: treat one source of training's memory at a step, and measure what that does at the end.",
    BranchRequest,
    ask,
    text=text,
    costs=_costs,
    draw=draw,
    picture=lambda answer, request: "branch.png",
    picture_help="PNG of the effect by seed and over steps; default: branch.png in the run",
)
"""The study, for the registry."""

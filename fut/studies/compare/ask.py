"""`compare`: is one update rule better than another by more than the order of the data gives anyway?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from estimators.errors import DivergenceError
from estimators.intervals import student_quantile
from estimators.orders.order import Order, random_orders
from fut.divergence import divergence_note, require_trained
from fut.errors import UsageError
from fut.protocols import OtherRules, Tick
from fut.questions.question import READOUT_HELP, Request, option
from fut.readouts.readout import PROBE
from fut.studies.base import Study, StudyContext
from fut.studies.compare.arms import Arm, arms_of, baseline
from fut.studies.compare.render import draw, text
from fut.studies.compare.result import ArmValues, Compared, Difference, verdict
from fut.studies.paired import LEVEL, paired_effect

FACTOR, REACH = 2.0, 12
"""Ratio of neighbouring rates of a search, and how many it goes up or down at most."""
LEAST, FILL = 6, 16


@dataclass(frozen=True)
class CompareRequest(Request[Compared]):
    """Update rules on a run's data, paired by order, beside the noise of the order.

    Args:
        rules: the first is the baseline. `own` is the run's rule; others by name, with options and perhaps a rate behind
            colons, as `lion:rate=0.0003`; `corrections` are AdamW, Sophia and Shampoo, plain and corrected in three ways.
        seeds: random orders, which every rule is trained in.
        search: whether the rate of a rule that has none given is searched for on the reference order; else it is the run's.
        fill: steps that fill a rule's memory before the window, their displacement taken back; 0 for empty memory.
        seed: of the draw of orders.
        readout: what is compared.

    Raises:
        UsageError: for fewer than two rules or seeds, or a rule that is none.
    """

    rules: tuple[str, ...] = option(
        ("adamw", "lion"),
        name="--rule",
        many=True,
        read=lambda flag, written: written,
        metavar="NAME[:OPTION=VALUE…]",
        help="own, a rule with options or `rate` behind colons, or corrections; twice or more; the first is the baseline",
    )
    seeds: int = option(LEAST, help="random orders, in which every rule is trained", largest=10_000)
    search: bool = option(True, help="search the rate of rules without one on the reference order; else take the run's")
    fill: int = option(FILL, help="steps that fill a rule's memory before the window; 0 for empty memory")
    seed: int = option(0, help="seed of the orders")
    readout: str = option(PROBE, help=READOUT_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._tuples("rules")
        if self.seeds < 2 or self.seed < 0 or self.fill < 0:
            raise UsageError(
                "compare: expected at least 2 seeds, and a seed and steps of `fill` from 0, got "
                f"{self.seeds}, {self.seed} and {self.fill}; 6, 0 and {FILL} are good numbers"
            )
        arms_of(self.rules)


def ask(request: CompareRequest, context: StudyContext) -> Compared:
    """Train every rule in the same random orders; the answer is kept in the run."""
    arms, rules = _checked(request, context), _rules(context)
    orders = random_orders(context.reference, request.seeds, request.seed)
    steps = len(context.reference)
    rates, tried = dict[str, float](), dict[str, list[tuple[float, float | None]]]()
    with context.progress("searching rates", len(arms) * steps * 5 if request.search else 0) as tick:
        for arm in arms:
            rates[arm.label], tried[arm.label] = _rate(arm, request.search, rules, context.reference, tick)
    found: dict[str, list[float | None]] = {}
    with context.progress("rules in shared orders", len(arms) * len(orders) * steps) as tick:
        for arm in arms:
            found[arm.label] = [_value(rules, arm, rates[arm.label], order, tick) for order in orders]
    values = [_arm(arm, rates[arm.label], tried[arm.label], found[arm.label]) for arm in arms]
    pairs = [_difference(arm, baseline(arm, arms), found, orders) for arm in arms[1:]]
    lost = [order for place, order in enumerate(orders) if any(own[place] is None for own in found.values())]
    note = f"by at least one rule, {divergence_note(len(orders) - len(lost), lost)}" if lost else ""
    answer = Compared(context.truths.readout, context.truths.unit, len(orders), values, pairs, note)
    about = request.as_dict() | {"readout": context.truths.readout}
    context.archive.keep(COMPARE.name, about, answer, request=about, readout=context.truths.readout)
    return answer


def searched(loss_at: Callable[[float], float], start: float) -> tuple[float, list[tuple[float, float | None]]]:
    """The rate of the least loss among `start` times powers of FACTOR, and all that were tried, ascending.

    The search goes on in a direction for as long as the loss falls. Where training diverges at the start, it begins below.

    Args:
        loss_at: rate -> loss; infinite where training diverges.
        start: where it begins.

    Raises:
        DivergenceError: where no rate has a finite loss.
    """
    losses: dict[int, float] = {}

    def at(place: int) -> float:
        if place not in losses:
            losses[place] = loss_at(start * FACTOR**place)
        return losses[place]

    best = 0
    while not math.isfinite(at(best)) and best > -REACH:
        best -= 1
    for step in (1, -1):
        while abs(best + step) <= REACH and at(best + step) < at(best):
            best += step
    if not math.isfinite(at(best)):
        raise DivergenceError(f"compare: expected a rate at which training does not diverge, got none up to {start:g}")
    tried = [(start * FACTOR**place, loss if math.isfinite(loss) else None) for place, loss in sorted(losses.items())]
    return start * FACTOR**best, tried


def _rate(
    arm: Arm, search: bool, rules: OtherRules, reference: Order, tick: Tick
) -> tuple[float, list[tuple[float, float | None]]]:
    """The rate of an arm: as given, as searched for, or the run's."""
    if arm.choice.rate is not None:
        return arm.choice.rate, []
    if not search:
        return rules.rate, []

    def loss_at(rate: float) -> float:
        try:
            return rules.train(arm.choice, rate, reference, tick)[1]
        except DivergenceError:
            return math.inf

    try:
        return searched(loss_at, rules.rate)
    except DivergenceError as error:
        raise DivergenceError(f"{error}; give `{arm.label}` a rate: --rule {arm.label}:rate=…") from error


def _value(rules: OtherRules, arm: Arm, rate: float, order: Order, tick: Tick) -> float | None:
    """The read-out after an order; None where training diverges."""
    try:
        return rules.train(arm.choice, rate, order, tick)[0]
    except DivergenceError:
        return None


def _arm(
    arm: Arm, rate: float, tried: Sequence[tuple[float, float | None]], values: Sequence[float | None]
) -> ArmValues:
    known = [value for value in values if value is not None]
    sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return ArmValues(arm.label, arm.choice.name, arm.choice.options, rate, tried, values, sd)


def _difference(arm: Arm, against: Arm, found: dict[str, list[float | None]], orders: Sequence[Order]) -> Difference:
    """An arm minus its baseline, over the orders in which both were trained."""
    both = [
        (own, other)
        for own, other in zip(found[arm.label], found[against.label], strict=True)
        if own is not None and other is not None
    ]
    lost = [
        o for o, own, other in zip(orders, found[arm.label], found[against.label], strict=True) if None in (own, other)
    ]
    require_trained("compare", len(both), lost, least=1)
    effect = paired_effect([own - other for own, other in both])
    baselines = [other for _, other in both]
    noise = order_noise(baselines)
    rho = None
    if len(both) > 2 and all(np.ptp(side) > 0 for side in zip(*both, strict=True)):
        rho = float(np.corrcoef(np.array(both).T)[0, 1])
    differences = [own - other for own, other in both]
    return Difference(arm.label, against.label, differences, effect, noise, verdict(effect, noise), rho)


def order_noise(values: Sequence[float]) -> float | None:
    """Half the 95 % interval of the difference of two single runs that differ in their random orders alone.

    Args:
        values: of n runs in random orders, taken as normal. With their standard deviation s it is t √2 s, t being Student's
            quantile of n − 1 degrees of freedom.

    Returns:
        In the values' unit; None for one run.
    """
    if len(values) < 2:
        return None
    return float(student_quantile((1 + LEVEL) / 2, len(values) - 1) * math.sqrt(2) * np.std(values, ddof=1))


def _rules(context: StudyContext) -> OtherRules:
    if context.rules is None:
        raise UsageError("compare: expected a run that can be trained, got a context without one; ask an opened run")
    return context.rules


def _checked(request: CompareRequest, context: StudyContext) -> list[Arm]:
    """The arms, each of which can train this run."""
    arms, rules = arms_of(request.rules, min(request.fill, len(context.reference))), _rules(context)
    for arm in arms:
        rules.check(arm.choice)
    return arms


def _costs(request: CompareRequest, context: StudyContext) -> Sequence[str]:
    arms = _checked(request, context)
    count = len(arms) * request.seeds
    filled = f", each after {arms[0].choice.fill} steps that fill the rule's memory" if request.fill else ""
    searches = sum(request.search and arm.choice.rate is None for arm in arms)
    more = f", and 3 to {REACH + 2} for each of {searches} searched rates" if searches else ""
    few = f"; fewer than {LEAST} seeds cannot reach p = 0.05 in the sign-flip test" if request.seeds < LEAST else ""
    return [f"{len(arms)} rules in {request.seeds} shared orders: {count} training runs{more}{filled}{few}"]


COMPARE = Study(
    "compare",
    "Update rules on the same data, paired by order: is a gain larger than what shuffling alone gives?",
    CompareRequest,
    ask,
    text=text,
    costs=_costs,
    draw=draw,
    picture=lambda answer, request: "answers/compare.png",
    picture_help="PNG of the differences by order, beside the order's noise; default: answers/compare.png in the run",
)
"""The study, for the registry."""

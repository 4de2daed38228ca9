"""Branch and hold: two trainings that are one up to a step, of which one is treated there (arXiv 2601.21624, section 6)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from estimators.errors import DivergenceError
from estimators.orders.order import Order
from estimators.parameters import ParameterLayout
from estimators.replay import OrderBatch, Picks, RuleTransition, replay
from estimators.rules.base import Rule
from estimators.rules.grouped import Grouped
from estimators.state import State
from fut.errors import UsageError
from fut.models.objective import item_digest
from fut.protocols import BranchPair, BranchPlan, Reading, Tick
from fut.training.curvature import true_gradients
from fut.training.interventions import Point, key_of, normal, parse
from fut.training.predictions import compared
from fut.training.problem import Problem, finite
from fut.training.stepwise import Stepwise
from fut.training.weights import weighed

READINGS = 6
"""Moments at which both arms are read, about evenly spread, beside the end of the window."""
UNITS = {
    "accuracy": "share of targets",
    "calibration_error": "probability",
    "disagreement": "share of targets",
    "symmetric_kl": "nats",
    "logit_rms": "",
}


@dataclass
class Average:
    """A running average of parameters. decay: of an exponential one; None for the mean of all so far."""

    value: Tensor
    decay: float | None
    count: int = 1

    def add(self, theta: Tensor) -> None:
        self.count += 1
        share = 1.0 / self.count if self.decay is None else 1.0 - self.decay
        self.value = self.value + share * (theta - self.value)


@dataclass(frozen=True)
class Arm:
    """One arm as it stands: its state of one run [D], and its average where averages are judged."""

    state: State
    average: Average | None

    @property
    def judged(self) -> Tensor:
        """The parameters that are read [D]."""
        return self.state.theta if self.average is None else self.average.value


@dataclass(frozen=True)
class TrainedBranches:
    """`fut.protocols.Branches` of a run.

    Args:
        problem: what is trained.
        start: the lifted state before the window [D].
        unit: of the loss.
        about: versions and machine, for the record.
    """

    problem: Problem
    start: State
    unit: str
    about: Mapping[str, Any]

    @property
    def steps(self) -> int:
        """T."""
        return self.problem.config.steps

    @property
    def half_lives(self) -> Mapping[str, float]:
        """ln ½ / ln β of every buffer whose decay β the rule has, in steps."""
        return half_lives(self.problem.rule)

    @property
    def units(self) -> Mapping[str, str]:
        return {"loss": self.unit, **UNITS}

    @property
    def environment(self) -> Mapping[str, Any]:
        by_step = self.problem.config.model.noise_key == "step"
        kind = "by step: it stays when items move" if by_step else "by item: it travels with the item"
        keyed = kind if self.problem.objective.stochastic else "none is drawn"
        probe = hashlib.sha256(b"".join(item_digest(item) for item in self.problem.data.probe)).hexdigest()
        return {**self.about, "noise_of_the_forward_pass": keyed, "probe_sha256": probe}

    def check(self, plan: BranchPlan) -> None:
        """UsageError for a plan that this run cannot follow."""
        if not 0 <= plan.at < plan.horizon <= self.steps:
            raise UsageError(
                f"branch: expected 0 <= at < horizon <= {self.steps}, the steps of the run, got at={plan.at} and "
                f"horizon={plan.horizon}; choose others"
            )
        if not 1 <= plan.window <= plan.horizon - plan.at:
            raise UsageError(
                f"branch: expected a window of 1 to {plan.horizon - plan.at} steps between the branch and the horizon, got "
                f"{plan.window}; choose a shorter one"
            )
        treatment, _ = parse(plan.source, plan.treatment)
        if plan.clamp and not treatment.clamps:
            raise UsageError(
                f"branch: expected a treatment of memory that can be repeated at every step for `clamp`, got "
                f"`{plan.source}` `{plan.treatment}`; leave `clamp` out"
            )
        if plan.source == "averages" and plan.average is None:
            raise UsageError("branch: expected an average to treat, got none; say its decay, as 0.99, or `uniform`")

    def gradients(self, plan: BranchPlan, seeds: int) -> int:
        """Of the common part, of both arms, and of the first control again, which shows that training is repeatable."""
        per_step = self.problem.config.data.per_step
        return per_step * (seeds * (plan.at + 2 * (plan.horizon - plan.at)) + plan.horizon - plan.at)

    def pairs(self, plan: BranchPlan, orders: Sequence[Order], tick: Tick) -> Iterator[BranchPair | Order]:
        """Both arms of every order. Where a treatment takes another seed's run, all states at the branch are held at once."""
        repeat = True  # the control of the first pair is trained again
        for seed, (order, arm, donor) in enumerate(self._branched(plan, orders, tick)):
            found = order if arm is None else self._trained(plan, seed, order, arm, donor, tick, repeat)
            repeat = repeat and isinstance(found, Order)
            yield found

    def _branched(
        self, plan: BranchPlan, orders: Sequence[Order], tick: Tick
    ) -> Iterator[tuple[Order, Arm | None, State | None]]:
        """Every order with its arm at the branch, None where that diverges, and another seed's state where one is needed."""
        treatment, _ = parse(plan.source, plan.treatment)
        if not treatment.donor:
            yield from ((order, self._before(plan, order, tick), None) for order in orders)
            return
        arms = [self._before(plan, order, tick) for order in orders]
        states = [arm.state for arm in arms if arm is not None]
        for order, arm in zip(orders, arms, strict=True):
            at = -1 if arm is None else next(k for k, state in enumerate(states) if state is arm.state)
            yield order, arm, states[(at + 1) % len(states)] if len(states) > 1 else None

    def _trained(
        self, plan: BranchPlan, seed: int, order: Order, arm: Arm, donor: State | None, tick: Tick, repeat: bool
    ) -> BranchPair | Order:
        """The pair of a seed; the order where one of its arms diverges."""
        try:
            pair = self._pair(plan, seed, order, arm, donor, tick)
            if not repeat:
                return pair
            again = self._train(arm, order, plan.at, plan.horizon, self.problem.rate, tick)
            return replace(pair, digests={**pair.digests, "repeated control": buffer_digests(again.state)})
        except DivergenceError:
            return order

    def _before(self, plan: BranchPlan, order: Order, tick: Tick) -> Arm | None:
        """The common part, from the start of the window to the branch; None where it diverges."""
        average = None
        if plan.average is not None:
            decay = None if isinstance(plan.average, str) else plan.average
            average = Average(self.start.theta.clone(), decay)
        try:
            return self._train(Arm(self.start, average), order, 0, plan.at, self.problem.rate, tick)
        except DivergenceError:
            return None

    def _pair(self, plan: BranchPlan, seed: int, order: Order, arm: Arm, donor: State | None, tick: Tick) -> BranchPair:
        treat = Treated(
            plan,
            self.problem,
            seed,
            Point(
                arm.state,
                self.problem.rule.init(arm.state.theta),
                donor,
                self.start.theta,
                lambda: normal(key_of(plan.seed, "noise", seed), arm.state.theta),
            ),
        )
        orders = (order, treat.order(order))
        arms, rates = (arm, treat.arm(arm)), (self.problem.rate, treat.rate)
        digests = {"branch": buffer_digests(arms[0].state), "treated": buffer_digests(arms[1].state)}
        readings = [self._reading(plan.at, arms)]
        for first, last in spans(plan):
            arms = (
                self._train(arms[0], orders[0], first, last, rates[0], tick),
                self._train(arms[1], orders[1], first, last, rates[1], tick, treat.before_step),
            )
            readings.append(self._reading(last, arms))
            if last == plan.at + plan.window:
                digests |= _of_arms("window", arms)
        digests |= _of_arms("end", arms)
        return BranchPair(seed, orders, tuple(readings), digests)

    def _train(
        self,
        arm: Arm,
        order: Order,
        first: int,
        last: int,
        rate: Callable[[int], float],
        tick: Tick,
        change: Callable[[int, State], State] | None = None,
    ) -> Arm:
        """An arm after the steps from `first` up to `last` of an order."""
        average = None if arm.average is None else replace(arm.average)
        gradients = Stepwise(self.problem, true_gradients)
        step_of = RuleTransition(self.problem.rule, rate, gradients)

        def transition(step: int, picks: Picks, state: State) -> State:
            return step_of(step, picks, state if change is None else change(step, state))

        def listener(step: int, state: State) -> None:
            if average is not None:
                average.add(state.theta[0])
            tick()

        packed = OrderBatch.pack([weighed(self.problem, order)], self.problem.device)
        batch = OrderBatch(packed.items[:, :last], packed.weights[:, :last])
        return Arm(replay(transition, arm.state.rows(1), batch, first, listener).row(0), average)

    def _reading(self, step: int, arms: tuple[Arm, Arm]) -> Reading:
        problem = self.problem
        thetas = [arm.judged for arm in arms]
        control, treated, apart = compared(problem.objective, thetas[0], thetas[1], problem.data.probe)
        losses = [finite(problem.probe_loss(theta), f"probe set after step {step}") for theta in thetas]
        return Reading(step, {"loss": losses[0], **control}, {"loss": losses[1], **treated}, apart)


@dataclass
class Treated:
    """What a plan changes in the treated arm of one seed."""

    plan: BranchPlan
    problem: Problem
    seed: int
    point: Point

    @cached_property
    def _parsed(self) -> tuple[Any, list[str]]:
        treatment, arguments = parse(self.plan.source, self.plan.treatment)
        return treatment.change, arguments

    def arm(self, arm: Arm) -> Arm:
        """The arm after the treatment of its state, or of its average."""
        change, arguments = self._parsed
        if self.plan.source in ("optimizer", "path"):
            return Arm(change(self.point, arguments), arm.average)
        if self.plan.source == "averages" and arm.average is not None and self.plan.treatment != "nothing":
            if self.plan.treatment == "reset":
                return Arm(arm.state, Average(arm.state.theta.clone(), arm.average.decay))
            return Arm(arm.state, replace(arm.average, decay=float(arguments[0])))
        return arm

    def before_step(self, step: int, state: State) -> State:
        """The state [1, D] before a step: treated again within the window, where the treatment is clamped."""
        if not self.plan.clamp or not self.plan.at < step < self.plan.at + self.plan.window:
            return state
        change, arguments = self._parsed
        alone = state.row(0)
        point = self.point._replace(state=alone, empty=self.problem.rule.init(alone.theta))
        changed: State = change(point, arguments)
        return changed.rows(1)

    def order(self, order: Order) -> Order:
        """The order of the treated arm."""
        change, arguments = self._parsed
        if self.plan.source != "order":
            return order
        draw = key_of(self.plan.seed, "order", self.seed)
        changed: Order = change(order, self.plan.at, self.plan.window, draw, arguments)
        return changed

    @cached_property
    def rate(self) -> Callable[[int], float]:
        """The learning rate of a step of the treated arm."""
        change, arguments = self._parsed
        if self.plan.source != "schedule":
            return self.problem.rate
        changed: Callable[[int], float] = change(self.problem.rate, self.plan.at, self.plan.window, arguments)
        return changed


def spans(plan: BranchPlan) -> list[tuple[int, int]]:
    """Steps between readings: the branch, a few moments about evenly spread, the end of the window, and the horizon."""
    total = plan.horizon - plan.at
    moments = {plan.at + math.ceil(total * k / READINGS) for k in range(1, READINGS + 1)} | {plan.at + plan.window}
    ends = sorted(moments)
    return list(zip([plan.at, *ends[:-1]], ends, strict=True))


def half_lives(rule: Rule) -> dict[str, float]:
    """ln ½ / ln β of the buffers m and v, in steps, of every group; nothing for a rule without decays."""
    if isinstance(rule, Grouped):
        of_groups = ((group.name, half_lives(group.rule)) for group in rule.groups)
        return {f"{group}/{name}": steps for group, found in of_groups for name, steps in found.items()}
    betas = getattr(rule, "betas", None) or (getattr(rule, "beta", 0.0),)
    names = [name for name in ("m", "v") if name in rule.buffers(rule.layout or ParameterLayout.flat(1))]
    decays = zip(names, betas if len(names) == len(betas) else betas[-1:], strict=False)  # Lion's memory has its second
    return {name: math.log(0.5) / math.log(beta) for name, beta in decays if 0 < beta < 1}


def buffer_digests(state: State) -> dict[str, str]:
    """SHA-256 over type, shape and bytes of every buffer, and of the counters."""
    named = {"theta": state.theta, **{f"memory {name}": buffer for name, buffer in sorted(state.memory.items())}}
    found = {name: hashlib.sha256(_bytes(tensor)).hexdigest() for name, tensor in named.items()}
    return found | {"counters": hashlib.sha256(repr(sorted(state.clock.items())).encode()).hexdigest()}


def _bytes(tensor: Tensor) -> bytes:
    array = tensor.detach().to("cpu", torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype).numpy()
    return f"{tensor.dtype}{tuple(tensor.shape)}".encode() + array.tobytes()


def _of_arms(moment: str, arms: tuple[Arm, Arm]) -> dict[str, dict[str, str]]:
    return {
        f"{moment} {name}": buffer_digests(arm.state) for name, arm in zip(("control", "treated"), arms, strict=True)
    }

"""A run's data trained by other update rules, all from its parameters before the window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from estimators.orders.order import Order
from estimators.replay import OrderBatch, Picks, RuleTransition, replay
from estimators.rules.signals import alike
from estimators.state import State
from fut.config.schema import RuleConfig, ScheduleConfig
from fut.errors import UsageError
from fut.protocols import OWN_RULE, RuleChoice, Tick
from fut.training.curvature import true_gradients
from fut.training.problem import Problem
from fut.training.stepwise import Stepwise
from fut.training.trainer import train_order
from fut.training.weights import weighed


@dataclass(frozen=True)
class TrainedRules:
    """`fut.protocols.OtherRules` of a run.

    Args:
        problem: what is trained.
        theta: parameters before the window [D].
        value: of the read-out, at parameters [D].
    """

    problem: Problem
    theta: Tensor
    value: Callable[[Tensor], float]

    @property
    def rate(self) -> float:
        """The schedule's rate; of recorded rates the largest."""
        schedule = self.problem.config.schedule
        return max(schedule.rates, default=schedule.rate) if schedule.kind == "recorded" else schedule.rate

    def check(self, choice: RuleChoice) -> None:
        """Bind the rule to the tensors, and try it on a step of as many items as the run's steps have."""
        if choice.rate is not None and not choice.rate > 0:
            raise UsageError(f"compare: expected a rate > 0 of `{choice.name}`, got {choice.rate}; correct it")
        rule, flat = self._problem(choice, self.rate).rule, torch.zeros_like(self.theta)
        signals = alike(flat, self.problem.config.data.per_step)
        rule.step(rule.init(self.theta), flat, 0.0, signals=signals)

    def train(self, choice: RuleChoice, rate: float, order: Order, tick: Tick) -> tuple[float, float]:
        """The read-out and the probe loss at the end."""
        problem = self._problem(choice, rate)
        end = train_order(problem, self._filled(problem, choice.fill), order, lambda step, state: tick())
        return self.value(end.theta), end.loss

    def _filled(self, problem: Problem, count: int) -> State:
        """The state of the rule after so many steps of the reference order, each of whose displacements is taken back [D]."""
        state = problem.rule.init(self.theta)
        if not count:
            return state
        gradients = Stepwise(problem, true_gradients)
        step_of = RuleTransition(problem.rule, problem.rate, gradients)

        def transition(step: int, picks: Picks, before: State) -> State:
            return step_of(step, picks, before)._replace(theta=self.theta[None])

        packed = OrderBatch.pack([weighed(problem, problem.reference)], problem.device)
        first = OrderBatch(packed.items[:, :count], packed.weights[:, :count])
        return replay(transition, state.rows(1), first).row(0)

    def _problem(self, choice: RuleChoice, rate: float) -> Problem:
        """The same problem with another rule and rate."""
        config = self.problem.config
        if choice.name == OWN_RULE:
            schedule = _scaled(config.schedule, rate / self.rate, own=True)
            return replace(self.problem, config=config.model_copy(update={"schedule": schedule}))
        given = {"options": dict(choice.options)} if choice.options else {}
        update = {
            "rule": RuleConfig(name=choice.name, **given),
            "schedule": _scaled(config.schedule, rate / self.rate, own=False),
        }
        return replace(self.problem, config=config.model_copy(update=update), _own_rule=None)


def _scaled(schedule: ScheduleConfig, factor: float, own: bool) -> ScheduleConfig:
    """The schedule with all rates times a factor; rates of single groups of tensors stay with the run's own rule alone."""
    groups = {name: [factor * rate for rate in rates] for name, rates in schedule.groups.items()} if own else {}
    rates = [factor * rate for rate in schedule.rates]
    return schedule.model_copy(update={"rate": factor * schedule.rate, "rates": rates, "groups": groups})

"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from .errors import RuleError
from .rules.base import check_choice, check_number, in_range
from .rules.rates import GroupRates

ScheduleKind = Literal["constant", "linear", "cosine", "recorded"]


@dataclass(frozen=True)
class Schedule:
    """Learning rate at every step of a run: a linear warm-up, then a constant, linear or cosine decay; or a list of rates.

    kind: form of the decay; `recorded` for the rates as listed. rate: the peak, > 0. steps: T, length of the run. warmup: W,
    steps of the ramp rate*(t+1)/W. final: the decay's end as a fraction of rate, in [0, 1]; it would be reached at step T, one
    past the last, and does not concern `constant`. rates: T rates >= 0, of `recorded` alone. groups: T rates for every group of
    tensors that has rates of its own, by the group's name; of `recorded` alone.

    Raises RuleError for an unknown kind, a number out of range, or rates that are not one for each step.
    """

    kind: ScheduleKind
    rate: float
    steps: int
    warmup: int = 0
    final: float = 0.0
    rates: tuple[float, ...] = ()
    groups: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @classmethod
    def recorded(cls, rates: Sequence[float], groups: Mapping[str, Sequence[float]] | None = None) -> Schedule:
        """The schedule of rates as they were: one for each step, and for each step of a group that has its own."""
        own = tuple((name, tuple(listed)) for name, listed in (groups or {}).items())
        return cls("recorded", max(rates, default=0.0) or 1.0, len(rates), rates=tuple(rates), groups=own)

    @classmethod
    def of_scheduler(
        cls,
        make: Callable[[torch.optim.Optimizer], Any],
        steps: int,
        rate: float,
        groups: Mapping[str, float] | None = None,
    ) -> Schedule:
        """The rates that a scheduler of torch or of transformers sets, read off an optimizer that moves nothing.

            Schedule.of_scheduler(lambda optimizer: get_scheduler("linear", optimizer, 10, 64), steps=64, rate=2e-4)

        Args:
            make: makes the scheduler of an optimizer; it is stepped once after every step.
            steps: T.
            rate: the optimizer's learning rate.
            groups: learning rates of the groups that have their own, by name; these are parameter groups of the optimizer,
                after the first, in this order.

        Raises:
            RuleError: for a scheduler whose rates depend on the losses, as another order would have other rates.
        """
        tables = [{"params": [torch.zeros(1)], "lr": r} for r in (rate, *(groups or {}).values())]
        optimizer = torch.optim.SGD(tables)
        try:
            scheduler = make(optimizer)
        except ValueError as error:  # with which torch refuses one inside of others
            if (plateau := torch.optim.lr_scheduler.ReduceLROnPlateau.__name__) not in str(error):
                raise
            raise _depends_on_losses(plateau) from error
        require_given_rates(scheduler)
        listed: list[list[float]] = []
        for _ in range(steps):
            listed.append([float(group["lr"]) for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        columns = list(zip(*listed, strict=True))
        return cls.recorded(columns[0], dict(zip(groups or {}, columns[1:], strict=True)))

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, get_args(ScheduleKind))
        for name, listed in (("rates", self.rates), *self.groups):
            self._check_listed(name, listed)
        check_number("rate", self.rate, in_range(self.rate, 0.0) and self.rate != 0, "a number > 0")
        check_number("steps", self.steps, isinstance(self.steps, int) and self.steps >= 1, "an integer >= 1")
        ramp = isinstance(self.warmup, int) and 0 <= self.warmup <= self.steps
        check_number("warmup", self.warmup, ramp, f"an integer from 0 to steps = {self.steps}")
        fraction = in_range(self.final, 0.0) and self.final <= 1
        check_number("final", self.final, fraction, "a fraction of `rate` from 0 to 1")

    def rate_at(self, step: int) -> float:
        """Learning rate of step 0 .. steps-1; RuleError outside."""
        if not 0 <= step < self.steps:
            raise RuleError(
                f"expected a step from 0 to {self.steps - 1}, got {step}; "
                "make the schedule's `steps` as long as the run"
            )
        if self.kind == "recorded":
            base = self.rates[step]
            return GroupRates(base, {name: listed[step] for name, listed in self.groups}) if self.groups else base
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        return self.rate * self._decay((step - self.warmup) / (self.steps - self.warmup))

    def _check_listed(self, name: str, listed: tuple[float, ...]) -> None:
        if self.kind != "recorded":
            if listed:
                raise RuleError(
                    f"`{name}`: expected no list of rates with kind {self.kind}, got one; set kind = recorded"
                )
            return
        if len(listed) != self.steps:
            raise RuleError(
                f"`{name}`: expected a rate for each of {self.steps} steps, got {len(listed)}; give one for each"
            )
        for step, rate in enumerate(listed):
            check_number(f"{name}[{step}]", rate, in_range(rate, 0.0), "a rate >= 0")

    def _decay(self, progress: float) -> float:
        if self.kind == "constant":
            return 1.0
        shape = 1.0 - progress if self.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.final + (1.0 - self.final) * shape


def require_given_rates(scheduler: object) -> None:
    """RuleError for a scheduler that sets rates by what training gives, which another order would change; also for one inside
    of others."""
    for inner in (*getattr(scheduler, "_schedulers", ()), getattr(scheduler, "scheduler", None)):
        if inner is not None:
            require_given_rates(inner)
    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise _depends_on_losses(type(scheduler).__name__)


def _depends_on_losses(name: str) -> RuleError:
    return RuleError(
        f"schedule: expected rates that are known before training, got {name}, whose rates depend on the losses: another order "
        "of the data would have had other rates; take a schedule of the step alone"
    )

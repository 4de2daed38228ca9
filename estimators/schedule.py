"""Learning-rate schedules: pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from .errors import RuleError
from .rules.base import check_choice, check_number, in_range

ScheduleKind = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class Schedule:
    """Learning rate at every step of a run: a linear warm-up, then a constant, linear or cosine decay.

    kind: form of the decay. rate: the peak, > 0. steps: T, length of the run. warmup: W, steps of the ramp
    rate*(t+1)/W. final: the decay's end as a fraction of rate, in [0, 1]; it would be reached at step T, one past the
    last, and does not concern `constant`.

    Raises RuleError for an unknown kind or a number out of range.
    """

    kind: ScheduleKind
    rate: float
    steps: int
    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, get_args(ScheduleKind))
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
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        return self.rate * self._decay((step - self.warmup) / (self.steps - self.warmup))

    def _decay(self, progress: float) -> float:
        if self.kind == "constant":
            return 1.0
        shape = 1.0 - progress if self.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.final + (1.0 - self.final) * shape

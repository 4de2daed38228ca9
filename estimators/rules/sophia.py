"""Sophia (Liu et al. 2024): momentum over a running diagonal of curvature, clipped by coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..state import State
from .base import check_number, in_range
from .kinds import SignalRule
from .moments import checked_pair
from .signals import SignalName, Signals, mean_over_items


@dataclass(frozen=True, kw_only=True)
class Sophia(SignalRule):
    """m' = b1 m + (1-b1) g; every `period` steps, from the first, h' = b2 h + (1-b2) c, c the mean curvature of the items;
    theta' = theta - rate clip(m' / max(gamma h', eps), -1, 1).

    The curvature comes with the step as a signal: for each item an estimated diagonal of its Hessian, from a probe keyed by the
    item, so that it goes where the item goes in another order. Its derivative is 0 where a coordinate is clipped. Tested by
    `pytorch_optimizer.SophiaH`, given the same curvature.

    betas: decays per step of m, per refresh of h. gamma: > 0. eps: > 0. period: steps from one refresh of h to the next, >= 1.

    Raises RuleError for constants out of range.
    """

    betas: tuple[float, float] = (0.96, 0.99)
    gamma: float = 0.01
    eps: float = 1e-12
    period: int = 10

    name: ClassVar[str] = "sophia"
    signals: ClassVar[frozenset[SignalName]] = frozenset({"curvature"})

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "betas", checked_pair("betas", self.betas))
        for field, value in (("gamma", self.gamma), ("eps", self.eps)):
            check_number(field, value, in_range(value, 0.0) and value != 0, "a number > 0")
        whole = isinstance(self.period, int) and in_range(self.period, 1)
        check_number("period", self.period, whole, "a whole number >= 1")

    def needs(self, clock: dict[str, float]) -> frozenset[SignalName]:
        """The signals at the steps that refresh h, and else none."""
        return self.signals if clock["step"] % self.period == 0 else frozenset()

    def init(self, theta: Tensor) -> State:
        return State(theta, {"m": torch.zeros_like(theta), "h": torch.zeros_like(theta)}, {"step": 0.0})

    def update_with(
        self, state: State, gradient: Tensor, rate: float, signals: Signals
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        (b1, b2), h = self.betas, state.memory["h"]
        m = b1 * state.memory["m"] + (1.0 - b1) * gradient
        if signals.curvature is not None and self.needs(state.clock):
            h = b2 * h + (1.0 - b2) * mean_over_items(signals.curvature)
        ratio = m / (self.gamma * h).clamp(min=self.eps)
        return -rate * ratio.clamp(-1.0, 1.0), {"m": m, "h": h}, {"step": state.clock["step"] + 1.0}

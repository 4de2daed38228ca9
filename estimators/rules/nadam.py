"""NAdam (Dozat 2016): Adam with Nesterov momentum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..state import State
from .base import Decay, check_number, in_range
from .moments import Moments, next_power


@dataclass(frozen=True, kw_only=True)
class NAdam(Moments):
    """Adam whose step looks ahead, as `torch.optim.NAdam`, by which it is tested; its decay is coupled by default.

    mu_t = b1 (1 - 0.96^(t momentum_decay) / 2), P_t their running product;
    theta' = theta - rate ((1 - mu_t)/(1 - P_t) g + mu_{t+1}/(1 - P_{t+1}) m') / (sqrt(v'/c2) + eps).

    momentum_decay: >= 0, how fast mu_t comes up to b1.
    """

    momentum_decay: float = 4e-3
    decay: Decay = "coupled"

    name: ClassVar[str] = "nadam"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("momentum_decay", self.momentum_decay, in_range(self.momentum_decay, 0.0), "a number >= 0")

    def init(self, theta: Tensor) -> State:
        return super().init(theta)._replace(clock={"step": 0.0, "p2": 1.0, "mu_product": 1.0})

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        memory, step = self._moments(state, gradient), state.clock["step"] + 1.0
        mu, ahead = self.momentum_at(step), self.momentum_at(step + 1.0)
        product, p2 = state.clock["mu_product"] * mu, next_power(state.clock["p2"], self.betas[1])
        denominator = self._denominator(memory["v"] / (1.0 - p2))
        fresh = (rate * (1.0 - mu) / (1.0 - product)) * gradient
        kept = (rate * ahead / (1.0 - product * ahead)) * memory["m"]
        return -(fresh + kept) / denominator, memory, {"step": step, "p2": p2, "mu_product": product}

    def momentum_at(self, step: float) -> float:
        """mu_t of a step, counted from 1."""
        return self.betas[0] * (1.0 - 0.5 * math.pow(0.96, step * self.momentum_decay))

"""Stochastic gradient descent without memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..state import State
from .base import Decay, Rule


@dataclass(frozen=True, kw_only=True)
class SGD(Rule):
    """theta' = theta - rate*g; `torch.optim.SGD` (whose decay is coupled)."""

    decay: Decay = "coupled"

    name: ClassVar[str] = "sgd"

    def init(self, theta: Tensor) -> State:
        return State(theta, {}, {"step": 0.0})

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        return -rate * gradient, {}, {"step": state.clock["step"] + 1.0}

    def linear_momentum(self, state: State, rate: float) -> tuple[float, float]:
        return 0.0, rate

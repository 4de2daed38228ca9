"""Gradient descent with linear memory: heavy ball, exponential moving average, Nesterov."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..errors import RuleError
from ..state import State
from .base import Decay, Rule, check_choice, check_number, in_range

MomentumKind = Literal["heavy_ball", "ema", "nesterov"]


@dataclass(frozen=True, kw_only=True)
class Momentum(Rule):
    """Momentum with memory m [..., D].

    kind: `heavy_ball` m' = beta*m + g, theta' = theta - rate*m' (Polyak 1964, as `torch.optim.SGD`);
        `ema` m' = beta*m + (1-beta)*g, theta' = theta - rate*m' (heavy ball at rate*(1-beta));
        `nesterov` m' as heavy ball, theta' = theta - rate*(g + beta*m') (as `torch.optim.SGD(nesterov=True)`).
    beta: decay of the memory per step, 0 <= beta < 1.

    Raises RuleError for an unknown kind or a beta out of range.
    """

    kind: MomentumKind = "heavy_ball"
    beta: float = 0.9
    decay: Decay = "coupled"

    name: ClassVar[str] = "momentum"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("kind", self.kind, get_args(MomentumKind))
        check_number("beta", self.beta, in_range(self.beta, 0.0, 1.0), "a number with 0 <= beta < 1")

    def init(self, theta: Tensor) -> State:
        return State(theta, {"m": torch.zeros_like(theta)}, {"step": 0.0})

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        fresh = (1.0 - self.beta) * gradient if self.kind == "ema" else gradient
        m = self.beta * state.memory["m"] + fresh
        direction = gradient + self.beta * m if self.kind == "nesterov" else m
        return -rate * direction, {"m": m}, {"step": state.clock["step"] + 1.0}

    def linear_momentum(self, state: State, rate: float) -> tuple[float, float]:
        """beta and rate; RuleError for `nesterov`, where a gradient moves theta through the momentum and also past it."""
        if self.kind == "nesterov":
            raise RuleError(
                "Nesterov momentum has no single momentum rate: expected kind heavy_ball or ema, got nesterov, whose "
                "fresh gradient moves the parameters partly past the momentum; use `carry`, which splits the two"
            )
        return self.beta, rate

    def carry(self, state: State, rate: float, carried: Tensor, swapped: Tensor) -> tuple[Tensor, Tensor]:
        """As the base class; for `nesterov` the direct term is split off and e carries the rest.

        A fresh difference x of -g gives swapped = rate*(1+beta)*x; e' = beta*e + x, displacement rate*(x + beta*e').
        """
        if self.kind != "nesterov" or not rate > 0:
            return super().carry(state, rate, carried, swapped)
        fresh = swapped / (rate * (1.0 + self.beta))
        carried = self.beta * carried + fresh
        return carried, rate * (fresh + self.beta * carried)

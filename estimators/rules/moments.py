"""Running means of the gradient and of its square, as Adam keeps them."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import RuleError
from ..state import State
from .base import Rule, check_number, in_range
from .roots import root

TINY = 1e-290
"""Of products of decays, below which their powers round to fewer digits; nothing that is made of them changes any more."""


def checked_pair(field: str, values: object) -> tuple[float, float]:
    """Two decays per step as a tuple, which hashes, where TOML gives a list; RuleError unless 0 <= each < 1."""
    if not isinstance(values, list | tuple) or len(values) != 2:
        raise RuleError(f"`{field}`: expected a pair of numbers, got {values!r}; write for example (0.9, 0.999)")
    for i, beta in enumerate(values):
        check_number(f"{field}[{i}]", beta, in_range(beta, 0.0, 1.0), "a number with 0 <= beta < 1")
    return values[0], values[1]


def next_power(product: float, beta: float) -> float:
    """product * beta, rounded once where the product is a power of beta but for rounding: beta^n as torch has it."""
    if beta <= 0.0 or product < TINY:
        return product * beta
    count = round(math.log(product) / math.log(beta))
    power = beta**count
    alike = abs(power - product) <= (count + 1) * sys.float_info.epsilon * product
    return beta ** float(count + 1) if alike else product * beta


@dataclass(frozen=True, kw_only=True)
class Moments(Rule):
    """m' = b1*m + (1-b1)*g; v' = b2*v + (1-b2)*g^2 [..., D]; clock step, p1, p2 (running products of the betas).

    betas: decays of m and v per step, 0 <= beta < 1. eps: >= 0, added to roots of v; at eps = 0 the sum is taken as 1 where
    it vanishes, so that coordinates without a gradient so far stay where they are.

    Raises RuleError for betas or eps out of range.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "betas", checked_pair("betas", self.betas))
        check_number("eps", self.eps, in_range(self.eps, 0.0), "a number >= 0")

    def init(self, theta: Tensor) -> State:
        memory = {"m": torch.zeros_like(theta), "v": torch.zeros_like(theta)}
        return State(theta, memory, {"step": 0.0, "p1": 1.0, "p2": 1.0})

    def _moments(self, state: State, gradient: Tensor) -> dict[str, Tensor]:
        """By torch's operations, which round as its own optimizers do."""
        b1, b2 = self.betas
        m = torch.lerp(state.memory["m"], gradient, 1.0 - b1)
        v = torch.addcmul(b2 * state.memory["v"], gradient, gradient, value=1.0 - b2)
        return {"m": m, "v": v}

    def _tick(self, clock: dict[str, float]) -> dict[str, float]:
        b1, b2 = self.betas
        return {"step": clock["step"] + 1.0, "p1": next_power(clock["p1"], b1), "p2": next_power(clock["p2"], b2)}

    def _denominator(self, square: Tensor, correction: float = 1.0) -> Tensor:
        """sqrt(square) / correction + eps, with the derivative 0 where the root vanishes."""
        r = root(square) / correction
        return torch.where(r > 0, r, torch.ones_like(r)) if self.eps == 0 else r + self.eps

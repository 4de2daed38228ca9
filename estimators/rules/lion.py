"""Lion (Chen et al. 2023): the sign of an interpolated momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..state import State
from .base import Rule
from .moments import checked_pair


@dataclass(frozen=True, kw_only=True)
class Lion(Rule):
    """theta' = theta - rate sign(b1 m + (1-b1) g); m' = b2 m + (1-b2) g [..., D]; tested by `pytorch_optimizer.Lion`.

    Its derivative is 0 almost everywhere, and says nothing of how it answers a gradient: estimators that linearise refuse it.

    betas: of the step's direction and of the memory, 0 <= beta < 1.

    Raises RuleError for betas out of range.
    """

    betas: tuple[float, float] = (0.9, 0.99)

    name: ClassVar[str] = "lion"
    smooth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "betas", checked_pair("betas", self.betas))

    def init(self, theta: Tensor) -> State:
        return State(theta, {"m": torch.zeros_like(theta)}, {"step": 0.0})

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        (b1, b2), m = self.betas, state.memory["m"]
        direction = b1 * m + (1.0 - b1) * gradient
        after = b2 * m + (1.0 - b2) * gradient
        return -rate * direction.sign(), {"m": after}, {"step": state.clock["step"] + 1.0}

"""RAdam (Liu et al. 2020): Adam that waits until it knows the variance of its second moment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..state import State
from .base import Decay
from .moments import Moments

LEAST_LENGTH = 5.0
"""Of the running mean of squares, above which it is used."""


@dataclass(frozen=True, kw_only=True)
class RAdam(Moments):
    """Adam with a rectified step, as `torch.optim.RAdam`, by which it is tested; its decay is coupled by default.

    rho_inf = 2/(1-b2) - 1; rho_t = rho_inf - 2 t p2/(1-p2). While rho_t <= 5: theta' = theta - rate m'/c1. Then theta' = theta
    - rate r_t (m'/c1) sqrt(c2)/(sqrt(v') + eps), r_t^2 = (rho_t-4)(rho_t-2) rho_inf / ((rho_inf-4)(rho_inf-2) rho_t).
    """

    decay: Decay = "coupled"

    name: ClassVar[str] = "radam"

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        memory, clock = self._moments(state, gradient), self._tick(state.clock)
        direction = memory["m"] / (1.0 - clock["p1"])
        length = 2.0 / (1.0 - self.betas[1]) - 1.0
        rho = length - 2.0 * clock["step"] * clock["p2"] / (1.0 - clock["p2"])
        if rho <= LEAST_LENGTH:
            return -rate * direction, memory, clock
        rectified = math.sqrt((rho - 4.0) * (rho - 2.0) * length / ((length - 4.0) * (length - 2.0) * rho))
        scale = rate * rectified * math.sqrt(1.0 - clock["p2"])
        return -scale * (direction / self._denominator(memory["v"])), memory, clock

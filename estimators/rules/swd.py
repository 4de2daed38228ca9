"""AdamW with scheduled weight decay (Xie et al. 2023, arXiv:2011.11152)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..parameters import Coupling
from ..state import State
from .base import Decay
from .kinds import DecayingRule
from .moments import Moments
from .roots import root
from .rows import by_row


@dataclass(frozen=True, kw_only=True)
class ScheduledDecayAdamW(DecayingRule, Moments):
    """AdamW that decays by rate weight_decay theta / (sqrt(mean of v'/c2 over all parameters) + eps), as gradients shrink more.

    Where that mean is 0 nothing decays. One number couples all coordinates. Tested by `pytorch_optimizer.AdamS`, with its decay.
    """

    decay: Decay = "decoupled"

    name: ClassVar[str] = "adamw_swd"
    coupling: ClassVar[Coupling] = "global"
    reads_theta: ClassVar[bool] = True

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        memory, clock = self._moments(state, gradient), self._tick(state.clock)
        square = memory["v"] / (1.0 - clock["p2"])
        delta = (-rate / (1.0 - clock["p1"])) * (memory["m"] / self._denominator(square))
        if self.weight_decay and self.decay == "decoupled":
            self._fitting(gradient.shape[-1])
            size = by_row(lambda row: (root(row.mean(0, keepdim=True)),), square)[0]
            alive = size > 0
            shrink = torch.where(alive, 1.0 / torch.where(alive, size + self.eps, 1.0), 0.0)
            delta = delta - (rate * self.weight_decay) * (shrink * state.theta)
        return delta, memory, clock

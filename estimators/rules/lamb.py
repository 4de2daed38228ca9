"""LAMB (You et al. 2020): Adam with a trust ratio for every tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..parameters import Coupling
from ..state import State
from .base import check_number, in_range
from .kinds import DecayingRule
from .moments import Moments
from .roots import norm
from .rows import by_row, joined, tensors


@dataclass(frozen=True, kw_only=True)
class LAMB(DecayingRule, Moments):
    """u = (m'/c1)/(sqrt(v'/c2) + eps) + weight_decay theta; theta' = theta - rate (|theta|/|u|) u, tensor by tensor.

    The ratio is 1 where one of the norms is 0. Decay (decoupled) is part of u, as published; coupled decay stands in the
    gradient. Tested by a transcription of the published algorithm in float64, and by `pytorch_optimizer.Lamb` without its
    corrections.

    bias_correction: divide m and v by c1 and c2, as the publication's algorithm does; some implementations do not.
    largest: bound on the norm of theta in the ratio; None for none.

    Raises RuleError for constants out of range.
    """

    eps: float = 1e-6
    bias_correction: bool = True
    largest: float | None = None

    name: ClassVar[str] = "lamb"
    coupling: ClassVar[Coupling] = "matrix"
    reads_theta: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.largest is not None:
            positive = in_range(self.largest, 0.0) and self.largest != 0
            check_number("largest", self.largest, positive, "a number > 0, or None for no bound")

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        memory, clock = self._moments(state, gradient), self._tick(state.clock)
        c1, c2 = (1.0 - clock["p1"], 1.0 - clock["p2"]) if self.bias_correction else (1.0, 1.0)
        direction = (memory["m"] / c1) / self._denominator(memory["v"] / c2)
        if self.weight_decay and self.decay == "decoupled":
            direction = direction + self.weight_decay * state.theta
        return -rate * by_row(self._trusted, state.theta, direction)[0], memory, clock

    def _trusted(self, theta: Tensor, direction: Tensor) -> tuple[Tensor]:
        """One run's direction [D], each tensor of it scaled."""
        pairs = zip(tensors(self.parameters, theta), tensors(self.parameters, direction), strict=True)
        return (joined([self._ratio(norm(own), norm(u)) * u for own, u in pairs], theta),)

    def _ratio(self, own: Tensor, moved: Tensor) -> Tensor:
        defined = (own > 0) & (moved > 0)
        numerator = own if self.largest is None else own.clamp(max=self.largest)
        return torch.where(
            defined, numerator / torch.where(defined, moved, torch.ones_like(moved)), torch.ones_like(own)
        )

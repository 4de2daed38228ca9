"""Sophia whose step is corrected for the noise of the items it is made of (bias-corrected Sophia)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..state import State
from .corrected_adam import corrected_inverse
from .cross_fitting import CrossFitted, Fold
from .signals import SignalName, Signals, mean_over_items, stacked, variance_of_mean
from .sophia import Sophia


@dataclass(frozen=True, kw_only=True)
class CorrectedSophia(CrossFitted, Sophia):
    """Sophia with m of some items over the curvature of others, and the inverse less the bias that noise gives it.

    The method is known here from a summary alone; this form of it is ours. p = gamma max(h', 0) + eps; theta' = theta - rate
    clip(m' I, -1, 1), I = 1/p - Var(p)/p^3, not below 0. At a refresh of h, numerator and curvature are of different items (a
    mean over folds), and Var is that of the mean of p_j, each from one item's curvature. Between refreshes h is of earlier
    steps: m' is of all items, and Var that of the last refresh, kept in memory `spread`. Tested by a transcription in float64.
    """

    name: ClassVar[str] = "sophia_corrected"
    signals: ClassVar[frozenset[SignalName]] = frozenset({"curvature", "micro_batches"})

    def init(self, theta: Tensor) -> State:
        return State(theta, {name: torch.zeros_like(theta) for name in ("m", "h", "spread")}, {"step": 0.0})

    def update_with(
        self, state: State, gradient: Tensor, rate: float, signals: Signals
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        (b1, b2), clock = self.betas, {"step": state.clock["step"] + 1.0}
        m, h, spread = b1 * state.memory["m"] + (1.0 - b1) * gradient, state.memory["h"], state.memory["spread"]
        items, curvature = signals.micro_batches, signals.curvature
        if items is None or curvature is None or not self.needs(state.clock):
            return -rate * self._step(m, self._scale(h), spread), {"m": m, "h": h, "spread": spread}, clock
        parts = [self._folded(state, items, curvature, fold) for fold in self._folds(items)]
        direction = mean_over_items(stacked(parts))
        after = b2 * h + (1.0 - b2) * mean_over_items(curvature)
        spread = self._noise(h, curvature)
        return -rate * direction, {"m": m, "h": after, "spread": spread}, clock

    def _folded(self, state: State, items: Tensor, curvature: Tensor, fold: Fold) -> Tensor:
        """The step of one fold [..., D]."""
        (b1, b2), old = self.betas, state.memory["h"]
        m = b1 * state.memory["m"] + (1.0 - b1) * mean_over_items(items, fold.numerator)
        h = b2 * old + (1.0 - b2) * mean_over_items(curvature, fold.preconditioner)
        return self._step(m, self._scale(h), self._noise(old, curvature[..., fold.preconditioner, :]))

    def _noise(self, old: Tensor, curvature: Tensor) -> Tensor:
        """The variance of the mean of p_j; 0 where it is not corrected for."""
        if not self.correct_variance:
            return torch.zeros_like(old)
        b2 = self.betas[1]
        return variance_of_mean(self._scale(b2 * old.unsqueeze(-2) + (1.0 - b2) * curvature))

    def _scale(self, h: Tensor) -> Tensor:
        return self.gamma * h.clamp(min=0.0) + self.eps

    def _step(self, m: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
        return (m * corrected_inverse(scale, noise)).clamp(-1.0, 1.0)

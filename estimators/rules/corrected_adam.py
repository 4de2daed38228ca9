"""AdamW whose step is corrected for the noise of the items it is made of (bias-corrected AdamW)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..state import State
from .base import Decay, check_choice
from .cross_fitting import CrossFitted, Fold
from .kinds import SignalRule
from .moments import Moments
from .roots import root
from .signals import SignalName, Signals, mean_over_items, stacked, variance_of_mean

Correction = Literal["root", "square"]


@dataclass(frozen=True, kw_only=True)
class CorrectedAdamW(CrossFitted, SignalRule, Moments):
    """AdamW with m of some items over the root of v of others, and the inverse of that root less the bias that noise gives it.

    The method is known here from a summary alone; this form of it is ours, derived and tested as such. With items g_j of one
    step, a fold (A, B) of them and D = 1/(sqrt(v_B/c2) + eps), the direction is the mean over folds of (m_A/c1) I_B, where
    m_A = b1 m + (1-b1) mean_A g, v_B = b2 v + (1-b2) (mean_B g)^2, and, E f(x) being f + f''/2 Var x to second order:

    - `root`: I = D - Var(p) D^3, p_j = sqrt((b2 v + (1-b2) g_j^2)/c2), which is f(p) = 1/(p + eps);
    - `square`: I = D - b^2 Var(s) (D^3/(4u) + D^2/(8 u^1.5)), s_j = g_j^2, u = v_B/c2, b = (1-b2)/c2, which is
      f(u) = 1/(sqrt(u) + eps).

    Var is that of the mean over B. I is not let below 0. Both constants are tested by automatic differentiation, the rule by a
    transcription in float64. m and v go on from the mean of all items and its square, as AdamW's do: with `cross_fit` none and
    no variance the rule is AdamW.

    correction: `root` or `square`. Other constants: of `Adam` and `CrossFitted`.
    """

    decay: Decay = "decoupled"
    correction: Correction = "root"

    name: ClassVar[str] = "adamw_corrected"
    signals: ClassVar[frozenset[SignalName]] = frozenset({"micro_batches"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("correction", self.correction, get_args(Correction))

    def update_with(
        self, state: State, gradient: Tensor, rate: float, signals: Signals
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        memory, clock = self._moments(state, gradient), self._tick(state.clock)
        items = signals.micro_batches
        if items is None:  # which `step` has refused
            return self.update(state, gradient, rate)
        rate = -(rate / (1.0 - clock["p1"]))
        parts = [self._move(state, gradient, items, fold, clock, rate) for fold in self._folds(items)]
        return mean_over_items(stacked(parts)), memory, clock

    def _move(
        self, state: State, gradient: Tensor, items: Tensor, fold: Fold, clock: dict[str, float], rate: float
    ) -> Tensor:
        """The direction of one fold times a rate [..., D]."""
        (b1, b2), c2 = self.betas, 1.0 - clock["p2"]
        whole = self.cross_fit == "none"  # where the mean of all items is the gradient, bit for bit
        ours, theirs = (gradient if whole else mean_over_items(items, chosen) for chosen in fold)
        m = torch.lerp(state.memory["m"], ours, 1.0 - b1) * rate
        old = b2 * state.memory["v"]
        v = torch.addcmul(old, theirs, theirs, value=1.0 - b2)
        denominator = self._denominator(v, c2**0.5)
        if not self.correct_variance:
            return m / denominator
        chosen = items[..., fold.preconditioner, :]
        if self.correction == "root":
            noise = variance_of_mean(root((old.unsqueeze(-2) + (1.0 - b2) * (chosen * chosen)) / c2))
            return m * corrected_inverse(denominator, noise)
        noise = ((1.0 - b2) / c2) ** 2 * variance_of_mean(chosen * chosen)
        return m * corrected_inverse_of_root(v / c2, denominator, noise)


def corrected_inverse(value: Tensor, variance: Tensor) -> Tensor:
    """1/p less the bias that noise in p gives it, half of 2/p^3 times the variance; not below 0."""
    return (1.0 / value - variance / (value * value * value)).clamp(min=0.0)


def corrected_inverse_of_root(square: Tensor, denominator: Tensor, variance: Tensor) -> Tensor:
    """D = 1/(sqrt(u) + eps) less the bias that noise in u gives it; not below 0, and D where u = 0.

    D' = -D^2/(2 sqrt u), so that D''/2 = D^3/(4u) + D^2/(8 u^1.5).
    """
    alive = square > 0
    u = torch.where(alive, square, torch.ones_like(square))
    inverse = 1.0 / denominator
    bend = inverse**3 / (4.0 * u) + inverse**2 / (8.0 * u * u.sqrt())
    return torch.where(alive, inverse - variance * bend, inverse).clamp(min=0.0)

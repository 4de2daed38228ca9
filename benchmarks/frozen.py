"""A linear update to compare with the true rule: Adam whose second moment is the trajectory's, whatever the order.

Used by `ablations.py`; the parameters' response to a gradient is then linear in it, with a preconditioner fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from estimators.replay import Gradients, Picks
from estimators.rules.adam import Adam
from estimators.rules.clipping import clip_gradient
from estimators.state import State


@dataclass(frozen=True)
class FrozenSecondMoment:
    """One step of n runs of Adam or AdamW: m from the runs' own gradients, v from `second`.

    second: (step) -> v [k] after the step. Coupled decay and eps = 0 are left out. gradients: as in `RuleTransition`.
    """

    rule: Adam
    rate: Callable[[int], float]
    gradients: Gradients
    second: Callable[[int], Tensor]

    def __post_init__(self) -> None:
        if self.rule.eps == 0 or (self.rule.weight_decay and self.rule.decay == "coupled"):
            raise ValueError(
                f"frozen second moment: expected eps > 0 and decoupled decay, got eps={self.rule.eps}, "
                f"decay={self.rule.decay}; change rule.options"
            )

    def __call__(self, step: int, picks: Picks, state: State) -> State:
        rate, (b1, b2) = self.rate(step), self.rule.betas
        gradient = clip_gradient(self.rule.clip, *self.gradients(step, picks, state.theta))
        clock = {"step": state.clock["step"] + 1, "p1": state.clock["p1"] * b1, "p2": state.clock["p2"] * b2}
        m, v = b1 * state.memory["m"] + (1 - b1) * gradient, self.second(step)
        moved = (-rate / (1 - clock["p1"])) * (m / (torch.sqrt(v / (1 - clock["p2"])) + self.rule.eps))
        theta = state.theta + (moved - rate * self.rule.weight_decay * state.theta)
        return State(theta, {"m": m, "v": v.expand_as(m)}, clock)

"""The update-rule interface: pure functions over a lifted state.

A rule maps (state, gradient, rate) to the next state; nothing is hidden on `self`, which holds only constants. The
trainer trains with the very function that the estimators replay.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from .errors import RuleError
from .state import State

Decay = Literal["decoupled", "coupled"]


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """Constants shared by every rule.

    weight_decay: coefficient (1/step per unit rate for decoupled decay, added to the gradient for coupled decay).
    decay: `decoupled` shrinks theta by rate*weight_decay; `coupled` adds weight_decay*theta to the gradient (L2).
    clip: bound on the global norm of the gradient, before decay, as `torch.nn.utils.clip_grad_norm_`; None for none.
    """

    weight_decay: float = 0.0
    decay: Decay = "decoupled"
    clip: float | None = None

    name: ClassVar[str]
    smooth: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True  # commutes with sampling coordinates, given the gradient's norm

    @abstractmethod
    def init(self, theta: Tensor) -> State:
        """The lifted state before the first step: theta [..., D] and empty memory."""

    @abstractmethod
    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        """Displacement of theta (without decoupled decay), new memory and new clock, for a clipped gradient."""

    def step(self, state: State, gradient: Tensor, rate: float, norm: Tensor | None = None) -> tuple[State, Tensor]:
        """One step: the next state and the displacement theta' - theta [..., D].

        gradient: [..., D], the mean gradient of the step's items. rate: learning rate of the step.
        norm: [...], global norm of the gradient where `gradient` holds only some coordinates of it; computed if None.
        """
        gradient = self.clipped(gradient, norm)
        if self.weight_decay and self.decay == "coupled":
            gradient = gradient + self.weight_decay * state.theta
        delta, memory, clock = self.update(state, gradient, rate)
        if self.weight_decay and self.decay == "decoupled":
            delta = delta - (rate * self.weight_decay) * state.theta
        return State(state.theta + delta, memory, clock), delta

    def clipped(self, gradient: Tensor, norm: Tensor | None = None) -> Tensor:
        """The gradient scaled by min(1, clip / (norm + 1e-6)), row by row."""
        if self.clip is None:
            return gradient
        norm = global_norm(gradient) if norm is None else norm
        return gradient * (self.clip / (norm + 1e-6)).clamp(max=1.0).unsqueeze(-1)

    def tangent(self, state: State, gradient: Tensor, rate: float, dstate: State, dgradient: Tensor) -> State:
        """Directional derivative of `step`'s state along (dstate, dgradient); the clock does not vary.

        Here by `torch.func.jvp`; rules with square roots override it with a form that is finite where they vanish.
        """
        names = list(state.memory)

        def next_state(theta: Tensor, buffers: tuple[Tensor, ...], g: Tensor) -> tuple[Tensor, ...]:
            z = self.step(State(theta, dict(zip(names, buffers, strict=True)), state.clock), g, rate)[0]
            return (z.theta, *(z.memory[k] for k in names))

        primals = (state.theta, tuple(state.memory[k] for k in names), gradient)
        tangents = (dstate.theta, tuple(dstate.memory[k] for k in names), dgradient)
        _, (dtheta, *dbuffers) = torch.func.jvp(next_state, primals, tangents)
        return State(dtheta, dict(zip(names, dbuffers, strict=True)), state.clock)

    def momentum(self) -> float:
        """Decay per step of the rule's linear memory of the gradient; 0 without memory."""
        raise RuleError(
            f"the rule `{self.name}` states no linear momentum: expected a rule with `momentum()` for replayed moments; "
            "use moments='reference', or the `replay` estimator, which needs no such property"
        )


def global_norm(gradient: Tensor) -> Tensor:
    """Euclidean norm along the last axis, row by row: [..., D] -> [...].

    Each row is reduced by itself, so that a row's norm has the same bits alone and in a stack.
    """
    rows = gradient.reshape(-1, gradient.shape[-1])
    return torch.stack([torch.linalg.vector_norm(row) for row in rows]).reshape(gradient.shape[:-1])

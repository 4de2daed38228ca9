"""Rules of tests that couple coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from estimators.contract import LAYOUTS
from estimators.parameters import Coupling
from estimators.rules.base import Rule
from estimators.state import State


def orthogonalised(matrix: Tensor) -> Tensor:
    """Three Newton-Schulz steps towards the nearest matrix with singular values of 1, from a matrix [m, n]."""
    x: Tensor = matrix / (torch.linalg.matrix_norm(matrix) + 1e-3)
    for _ in range(3):
        x = 1.5 * x - 0.5 * x @ x.mT @ x
    return x


@dataclass(frozen=True, kw_only=True)
class Orthogonal(Rule):
    """Momentum, orthogonalised for tensors of two dimensions and as it is for others: a small Muon."""

    beta: float = 0.8

    name: ClassVar[str] = "orthogonal"
    coupling: ClassVar[Coupling] = "matrix"

    def init(self, theta: Tensor) -> State:
        return State(theta, {"m": torch.zeros_like(theta)}, {"step": 0.0})

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        m = self.beta * state.memory["m"] + gradient
        rows = [
            self._direction(row) for row in m.reshape(-1, m.shape[-1])
        ]  # one by one, for the same bits in any stack
        return -rate * torch.stack(rows).reshape(m.shape), {"m": m}, {"step": state.clock["step"] + 1.0}

    def _direction(self, row: Tensor) -> Tensor:
        parts = self.parameters.split(row)
        return self.parameters.join([orthogonalised(part) if part.ndim == 2 else part for part in parts])


@dataclass(frozen=True, kw_only=True)
class Lying(Orthogonal):
    """The same, which says that coordinates are updated by themselves."""

    name: ClassVar[str] = "lying"
    coupling: ClassVar[Coupling] = "coordinate"


@dataclass(frozen=True, kw_only=True)
class Trusting(Rule):
    """A gradient scaled by the norm of its tensor's parameters, and by a running mean of its own squared norm: memory of one
    number a tensor."""

    name: ClassVar[str] = "trusting"
    coupling: ClassVar[Coupling] = "matrix"
    reads_theta: ClassVar[bool] = True

    def init(self, theta: Tensor) -> State:
        return State(theta, {"v": theta.new_zeros(*theta.shape[:-1], len(self.parameters.names))}, {"step": 0.0})

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        moved, squares = [], []
        old = state.memory["v"].unbind(-1)
        pairs = zip(self.parameters.split(gradient), self.parameters.split(state.theta), old, strict=True)
        for (g, theta, v), shape in zip(pairs, self.parameters.shapes, strict=True):
            own = tuple(range(-len(shape), 0))
            squares.append(0.9 * v + 0.1 * g.square().sum(own))
            scale = (1e-6 + theta.square().sum(own)).sqrt() / (1e-4 + squares[-1]).sqrt()
            moved.append(g * scale.reshape(*scale.shape, *(1 for _ in shape)))
        clock = {"step": state.clock["step"] + 1.0}
        return -rate * self.parameters.join(moved), {"v": torch.stack(squares, dim=-1)}, clock


MATRICES = LAYOUTS["matrices"]

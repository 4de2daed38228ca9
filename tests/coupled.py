"""Rules of tests that couple coordinates, and what is checked of every rule's coupling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from estimators.parameters import Coupling, ParameterLayout
from estimators.rules.base import Rule
from estimators.rules.clipping import global_norm
from estimators.state import State

RATES = (0.1, 0.05, 0.2)
TOLERANCE = 1e-12


def orthogonalised(matrix: Tensor) -> Tensor:
    """Three Newton-Schulz steps towards the nearest matrix with singular values of 1, from a matrix [m, n]."""
    x = matrix / (torch.linalg.matrix_norm(matrix) + 1e-3)
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


FLAT = ParameterLayout.flat(57)
MATRICES = ParameterLayout(("a.weight", "a.bias", "b.weight"), ((4, 5), (5,), (8, 4)))
GROUPED = ParameterLayout(MATRICES.names, MATRICES.shapes, ("decayed", "plain", "decayed"))
LAYOUTS = {"flat": FLAT, "matrices": MATRICES, "groups": GROUPED}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(size: int) -> list[Tensor]:
    """Gradients [2, D] of two runs, step by step."""
    return [normal(2, size, seed=step) for step in range(len(RATES))]


def trained(rule: Rule, start: Tensor, given: Sequence[Tensor], norms: Sequence[Tensor]) -> State:
    """Where a rule ends that is fed with given gradients of given global norms."""
    state = rule.init(start)
    for rate, gradient, norm in zip(RATES, given, norms, strict=True):
        state = rule.step(state, gradient, rate, norm)[0]
    return state


def differing(found: State, expected: State, coordinates: slice | Tensor) -> float:
    """The largest difference from the expected state on some coordinates, of memory that is by coordinate too."""
    size = expected.theta.shape[-1]
    pairs = [(found.theta, expected.theta)]
    pairs += [(found.memory[k], b) for k, b in expected.memory.items() if b.shape[-1] == size]
    return max((mine - whole[..., coordinates]).abs().max().item() for mine, whole in pairs)


def cut_error(rule: Rule, layout: ParameterLayout) -> float:
    """What training blocks apart changes, along the declared coupling; blocks of several widths, and a sample of blocks."""
    whole, given = rule.on(layout), gradients(layout.size)
    start, norms = normal(2, layout.size, seed=9), [global_norm(g) for g in gradients(layout.size)]
    expected, worst = trained(whole, start, given, norms), 0.0
    smallest = whole.blocks(layout.size, 1)
    parts: list[slice | Tensor] = [block for width in (1, 7, 30) for block in whole.blocks(layout.size, width)]
    parts.append(torch.cat([torch.arange(layout.size)[block] for block in smallest[::2]]))
    for part in parts:
        found = trained(whole.restrict(part), start[:, part], [g[:, part] for g in given], norms)
        worst = max(worst, differing(found, expected, part))
    return worst


def derivative_error(rule: Rule, layout: ParameterLayout) -> float:
    """The same of `tangent` and `pullback`, for rules whose memory is by coordinate."""
    whole, given = rule.on(layout), gradients(layout.size)
    state = trained(whole, normal(2, layout.size, seed=9), given, [global_norm(g) for g in given])
    gradient, along = given[0], given[1]
    direction = State(normal(2, layout.size, seed=20), {k: b.abs() for k, b in state.memory.items()}, state.clock)
    norm = global_norm(gradient)
    tangent = whole.tangent(state, gradient, 0.1, direction, along, norm, (gradient * along).sum(-1) / norm)
    pulled, sensitivity = whole.pullback(state, gradient, 0.1, direction)
    worst = 0.0
    for part in whole.blocks(layout.size, 7):
        own, g, d = whole.restrict(part), gradient[:, part], along[:, part]
        here, there = state.restrict(part), direction.restrict(part)
        dnorm = (gradient * along).sum(-1) / norm
        worst = max(worst, differing(own.tangent(here, g, 0.1, there, d, norm, dnorm), tangent, part))
        if rule.clip is None:  # whose product with a vector needs all coordinates
            back, found = own.pullback(here, g, 0.1, there)
            worst = max(worst, differing(back, pulled, part), (found - sensitivity[:, part]).abs().max().item())
    return worst


def permuted(layout: ParameterLayout, coupling: Coupling) -> tuple[ParameterLayout, Tensor]:
    """The tensors in another order, or layers, with coordinates in another order too where these are free; and where each
    coordinate of the new vector stood."""
    units = {"coordinate": layout.slices, "matrix": layout.slices}.get(coupling, tuple(layout.blocks(coupling)))
    tensors = [[i for i, s in enumerate(layout.slices) if u.start <= s.start < u.stop] for u in reversed(units)]
    order = [i for unit in tensors for i in unit]
    places = [torch.arange(layout.size)[layout.slices[i]] for i in order]
    if coupling == "coordinate":
        places = [p[torch.randperm(len(p), generator=torch.Generator().manual_seed(3))] for p in places]
    names, shapes = (tuple(field[i] for i in order) for field in (layout.names, layout.shapes))
    groups = tuple(layout.groups[i] for i in order) if layout.groups else ()
    return ParameterLayout(names, shapes, groups), torch.cat(places)


def permutation_error(rule: Rule, layout: ParameterLayout) -> float:
    """What permuting along the declared coupling changes."""
    start, given = normal(2, layout.size, seed=9), gradients(layout.size)
    norms = [global_norm(g) for g in given]
    moved, places = permuted(layout, rule.coupling)
    expected = trained(rule.on(layout), start, given, norms)
    found = trained(rule.on(moved), start[:, places], [g[:, places] for g in given], norms)
    return differing(found, expected, places)

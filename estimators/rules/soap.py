"""SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo's factors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..parameters import Coupling
from ..state import State
from .base import check_number, in_range
from .factors import applied, factored, numbers, outer, square
from .moments import Moments
from .rows import by_row, cut, joined, tensors


@dataclass(frozen=True, kw_only=True)
class SOAP(Moments):
    """Adam on gradients turned into a basis that is kept for `period` steps, and turned back.

    The first step moves nothing: it takes factors (1-b) g g^T and their eigenvectors. A step turns g and m' by the bases, keeps
    v of the turned gradient, and moves by rate (sqrt(c2)/c1) m'/(sqrt(v') + eps) turned back; then factors take the gradient
    in. Every `period` steps the bases take one step of power iteration and a QR decomposition, sorted by eigenvalue, and v is
    sorted with them. Memory `m`, `v` [D], `factors`, `bases`. Vectors, and dimensions above `largest`, have no basis.

    A basis jumps at a refresh, and that of a null space is whatever the eigenvalue routine gives: the rule counts as not
    smooth. Tested by `pytorch_optimizer.SOAP` up to its first refresh, which it makes in float32, and by a transcription in
    float64 across refreshes. Decay is that of the parameters before the step (there: after it).

    factor_beta: decay of the factors per step; None for the second of `betas`. period: >= 1. largest: >= 1.

    Raises RuleError for constants out of range.
    """

    betas: tuple[float, float] = (0.95, 0.95)
    factor_beta: float | None = None
    period: int = 10
    largest: int = 1024

    name: ClassVar[str] = "soap"
    coupling: ClassVar[Coupling] = "matrix"
    smooth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, value in (("period", self.period), ("largest", self.largest)):
            check_number(field, value, isinstance(value, int) and in_range(value, 1), "a whole number >= 1")
        if self.factor_beta is not None:
            allowed = in_range(self.factor_beta, 0.0, 1.0)
            check_number("factor_beta", self.factor_beta, allowed, "a number with 0 <= beta < 1, or None")

    def init(self, theta: Tensor) -> State:
        count = (*theta.shape[:-1], sum(self._numbers()))
        memory = {"m": torch.zeros_like(theta), "v": torch.zeros_like(theta)}
        memory |= {"factors": theta.new_zeros(count), "bases": theta.new_zeros(count)}
        return State(theta, memory, {"step": 0.0, "p1": 1.0, "p2": 1.0})

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        names, steps = ("m", "v", "factors", "bases"), state.clock["step"]
        clock = self._tick(state.clock) if steps else state.clock | {"step": 1.0}
        scale = rate * math.sqrt(1.0 - clock["p2"]) / (1.0 - clock["p1"]) if steps else 0.0

        def one(own: Tensor, *memory: Tensor) -> list[Tensor]:
            held = dict(zip(names, memory, strict=True))
            return self._moved(own, held, scale, int(steps)) if steps else self._begun(own, held)

        delta, *memory = by_row(one, gradient, *(state.memory[name] for name in names))
        return delta, dict(zip(names, memory, strict=True)), clock

    def _begun(self, gradient: Tensor, memory: dict[str, Tensor]) -> list[Tensor]:
        """The first step of one run: factors and bases, no displacement."""
        kept = self._gathered(gradient, memory["factors"])
        bases = [torch.linalg.eigh(factor)[1].flip(1) for factor in kept]
        return [torch.zeros_like(gradient), memory["m"], memory["v"], joined(kept, gradient), joined(bases, gradient)]

    def _moved(self, gradient: Tensor, memory: dict[str, Tensor], scale: float, steps: int) -> list[Tensor]:
        """Displacement and memory of one run; steps: taken with a displacement, this one included."""
        (b1, b2), counts = self.betas, self._numbers()
        bases = [square(basis) for basis in cut(memory["bases"], counts)]
        m = b1 * memory["m"] + (1.0 - b1) * gradient
        turned = self._turned(gradient, [basis.mT for basis in bases])
        v = b2 * memory["v"] + (1.0 - b2) * (turned * turned)
        step = self._turned(m, [basis.mT for basis in bases]) / self._denominator(v)
        delta = -scale * self._turned(step, bases)
        kept = self._gathered(gradient, memory["factors"])
        if steps % self.period == 0:
            v, bases = self._refreshed(v, kept, bases)
        return [delta, m, v, joined(kept, gradient), joined(bases, gradient)]

    def _refreshed(self, v: Tensor, factors: list[Tensor], bases: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """v, sorted as the bases are, and the bases after one step of power iteration."""
        parts, turned = tensors(self.parameters, v), []
        for (place, axis), factor, basis in zip(self._axes(), factors, bases, strict=True):
            product = factor @ basis
            ranks = torch.argsort((basis * product).sum(0), descending=True)
            parts[place] = parts[place].index_select(axis, ranks)
            turned.append(torch.linalg.qr(product.index_select(1, ranks))[0])
        return joined(parts, v), turned

    def _gathered(self, gradient: Tensor, factors: Tensor) -> list[Tensor]:
        beta = self.betas[1] if self.factor_beta is None else self.factor_beta
        parts, old = tensors(self.parameters, gradient), cut(factors, self._numbers())
        axes = zip(self._axes(), old, strict=True)
        return [beta * square(factor) + (1.0 - beta) * outer(parts[place], axis) for (place, axis), factor in axes]

    def _turned(self, vector: Tensor, matrices: list[Tensor]) -> Tensor:
        parts = tensors(self.parameters, vector)
        for (place, axis), matrix in zip(self._axes(), matrices, strict=True):
            parts[place] = applied(parts[place], matrix, axis)
        return joined(parts, vector)

    def _axes(self) -> list[tuple[int, int]]:
        shapes = enumerate(self.parameters.shapes)
        return [(place, axis) for place, shape in shapes for axis in factored(shape, self.largest, vectors=False)]

    def _numbers(self) -> list[int]:
        return numbers(self.parameters.shapes, self.largest, vectors=False)

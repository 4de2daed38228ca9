"""Adafactor (Shazeer & Stern 2018): second moments of matrices by their rows and columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import RuleError
from ..parameters import Coupling
from ..state import State
from .base import Rule, check_number, in_range
from .roots import norm
from .rows import by_row, cut, joined, tensors


@dataclass(frozen=True, kw_only=True)
class Adafactor(Rule):
    """Adafactor as `torch.optim.Adafactor`, by which it is tested: the rate is a bound on the relative step.

    Memory: `row` and `col`, running means of squares over the last dimension and the one before it, of tensors with two or
    more dimensions; `v` of the others. With w = step^beta2_decay: row' = (1-w) row + w mean(g^2), and so on.
    V = row' col' / max(mean row', eps1); U = g / max(sqrt(V), eps1); theta' = theta - a U / max(1, rms(U)/clipping),
    a = max(eps2, rms(theta)) min(rate, 1/sqrt(step)).

    beta2_decay: < 0. eps1: > 0, or None for the precision of the parameters' type. eps2: >= 0. clipping: > 0, d of the
    publication.

    Raises RuleError for constants out of range.
    """

    beta2_decay: float = -0.8
    eps1: float | None = None
    eps2: float = 1e-3
    clipping: float = 1.0

    name: ClassVar[str] = "adafactor"
    coupling: ClassVar[Coupling] = "matrix"
    reads_theta: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta2_decay", self.beta2_decay, in_range(self.beta2_decay, -math.inf, 0.0), "a number < 0")
        check_number("eps2", self.eps2, in_range(self.eps2, 0.0), "a number >= 0")
        check_number("clipping", self.clipping, in_range(self.clipping, 0.0) and self.clipping != 0, "a number > 0")
        if self.eps1 is not None:
            check_number("eps1", self.eps1, in_range(self.eps1, 0.0) and self.eps1 != 0, "a number > 0, or None")

    def init(self, theta: Tensor) -> State:
        lead = theta.shape[:-1]
        memory = {name: theta.new_zeros(*lead, sum(sizes)) for name, sizes in self._sizes().items()}
        return State(theta, memory, {"step": 0.0})

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        step = state.clock["step"] + 1.0
        weight, relative = step**self.beta2_decay, min(rate, 1.0 / math.sqrt(step))

        def one(*row: Tensor) -> list[Tensor]:
            return self._one(row, weight, relative)

        old = [state.memory[name] for name in ("row", "col", "v")]
        delta, row, col, v = by_row(one, gradient, state.theta, *old)
        return delta, {"row": row, "col": col, "v": v}, {"step": step}

    def _one(self, given: tuple[Tensor, ...], weight: float, relative: float) -> list[Tensor]:
        """Displacement and memory of one run."""
        gradient, theta, *memory = given
        sizes = self._sizes()
        rows, cols, plain = (iter(cut(b, sizes[k])) for b, k in zip(memory, ("row", "col", "v"), strict=True))
        moved: list[Tensor] = []
        kept: tuple[list[Tensor], ...] = ([], [], [])
        for g, own in zip(tensors(self.parameters, gradient), tensors(self.parameters, theta), strict=True):
            square = g * g
            if g.ndim > 1:
                row = _lerp(next(rows).reshape(g.shape[:-1]), square.mean(-1), weight)
                col = _lerp(next(cols).reshape(*g.shape[:-2], g.shape[-1]), square.mean(-2), weight)
                average = row.mean(-1, keepdim=True).clamp(min=self._floor(g))
                variance = row.unsqueeze(-1) * col.unsqueeze(-2) / average.unsqueeze(-1)
                kept[0].append(row)
                kept[1].append(col)
            else:
                variance = _lerp(next(plain).reshape(g.shape), square, weight)
                kept[2].append(variance)
            moved.append(self._moved(g, own, variance, relative))
        return [joined(moved, theta), *(joined(parts, theta) for parts in kept)]

    def _moved(self, gradient: Tensor, theta: Tensor, variance: Tensor, relative: float) -> Tensor:
        """Displacement of one tensor."""
        direction = gradient * variance.clamp(min=self._floor(gradient) ** 2).rsqrt()
        scale = relative * (norm(theta) / math.sqrt(max(theta.numel(), 1))).clamp(min=self.eps2)
        size = norm(direction) / (math.sqrt(max(theta.numel(), 1)) * self.clipping)
        return -scale / size.clamp(min=1.0) * direction

    def _floor(self, like: Tensor) -> float:
        return torch.finfo(like.dtype).eps if self.eps1 is None else self.eps1

    def _sizes(self) -> dict[str, list[int]]:
        """Numbers in the buffers of every tensor that has them."""
        if self.layout is None:
            raise RuleError(f"the rule `{self.name}`: expected a layout of the parameters; bind one: rule.on(layout)")
        shapes = self.layout.shapes
        wide = [s for s in shapes if len(s) > 1]
        return {
            "row": [math.prod(s[:-1]) for s in wide],
            "col": [math.prod(s[:-2]) * s[-1] for s in wide],
            "v": [math.prod(s) for s in shapes if len(s) <= 1],
        }


def _lerp(old: Tensor, new: Tensor, weight: float) -> Tensor:
    return (1.0 - weight) * old + weight * new

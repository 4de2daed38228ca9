"""Shampoo (Gupta, Koren & Singer 2018): a preconditioner for every dimension of a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..parameters import Coupling
from ..state import State
from .base import Rule, check_choice, check_number, in_range
from .factors import applied, eye_like, factored, numbers, outer, square
from .moments import checked_pair
from .roots import inverse_root
from .rows import by_row, cut, joined, tensors

Statistics = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class Shampoo(Rule):
    """theta' = theta - rate L^(-1/4) M R^(-1/4) for a matrix; with k dimensions each factor has the power -1/(2k).

    L' = b2 L + (1-b2) g g^T, R' = b2 R + (1-b2) g^T g, divided by c2 = 1 - p2', plus eps I; or their sums over all steps plus
    eps I, as published. M = m'/c1, m' = b1 m + (1-b1) g. Memory `m` [D], `factors` (all factors one after another). Roots are
    taken at every step. Their derivative is that of Daleckii and Krein, finite where eigenvalues meet.

    Tested by `pytorch_optimizer.Shampoo` (sums, no momentum), and by a transcription in float64 (means, momentum).

    betas: decays per step of m and of the factors. statistics: `mean` or `sum` of outer products. eps: > 0.
    largest: a dimension above it has no factor, as that of a vocabulary.

    Raises RuleError for constants out of range.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    statistics: Statistics = "mean"
    eps: float = 1e-6
    largest: int = 1024

    name: ClassVar[str] = "shampoo"
    coupling: ClassVar[Coupling] = "matrix"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "betas", checked_pair("betas", self.betas))
        check_choice("statistics", self.statistics, get_args(Statistics))
        check_number("eps", self.eps, in_range(self.eps, 0.0) and self.eps != 0, "a number > 0")
        whole = isinstance(self.largest, int) and in_range(self.largest, 1)
        check_number("largest", self.largest, whole, "a whole number >= 1")

    def init(self, theta: Tensor) -> State:
        factors = theta.new_zeros(*theta.shape[:-1], sum(self._numbers()))
        return State(theta, {"m": torch.zeros_like(theta), "factors": factors}, {"step": 0.0, "p1": 1.0, "p2": 1.0})

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        b1, clock = self.betas[0], self._tick(state.clock)
        m = b1 * state.memory["m"] + (1.0 - b1) * gradient
        share = (1.0 - clock["p2"]) if self.statistics == "mean" else 1.0

        def one(own: Tensor, numerator: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
            kept = self._gathered(own, factors)
            return self._preconditioned(numerator, [factor / share for factor in kept]), joined(kept, own)

        direction, factors = by_row(one, gradient, m, state.memory["factors"])
        return (-rate / (1.0 - clock["p1"])) * direction, {"m": m, "factors": factors}, clock

    def _tick(self, clock: dict[str, float]) -> dict[str, float]:
        b1, b2 = self.betas
        return {"step": clock["step"] + 1.0, "p1": clock["p1"] * b1, "p2": clock["p2"] * b2}

    def _numbers(self) -> list[int]:
        return numbers(self.parameters.shapes, self.largest)

    def _axes(self) -> Iterator[tuple[int, int, int]]:
        """Tensor, axis, and the order of the root, of every factor."""
        for place, shape in enumerate(self.parameters.shapes):
            yield from ((place, axis, 2 * len(shape)) for axis in factored(shape, self.largest))

    def _gathered(self, gradient: Tensor, factors: Tensor) -> list[Tensor]:
        """The factors [d, d] of one run after its gradient [D]."""
        parts, old = tensors(self.parameters, gradient), cut(factors, self._numbers())
        keep, add = (self.betas[1], 1.0 - self.betas[1]) if self.statistics == "mean" else (1.0, 1.0)
        axes = zip(self._axes(), old, strict=True)
        return [keep * square(factor) + add * outer(parts[place], axis) for (place, axis, _), factor in axes]

    def _preconditioned(self, numerator: Tensor, factors: list[Tensor]) -> Tensor:
        """One run's numerator [D], each tensor times the roots of its factors."""
        parts = tensors(self.parameters, numerator)
        for (place, axis, order), factor in zip(self._axes(), factors, strict=True):
            root = inverse_root(factor + self.eps * eye_like(factor), order)
            parts[place] = applied(parts[place], root, axis)
        return joined(parts, numerator)

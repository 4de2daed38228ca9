"""Muon (Jordan et al. 2024): momentum of matrices, orthogonalised by a Newton-Schulz iteration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from ..errors import RuleError
from ..parameters import Coupling
from ..state import State
from .base import check_choice, check_number, in_range
from .kinds import MatrixRule
from .roots import norm
from .rows import by_row, joined, tensors

MuonVariant = Literal["torch", "keller_jordan"]
MuonScale = Literal["original", "match_rms_adamw", "none"]
MuonPrecision = Literal["parameters", "bfloat16"]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


@dataclass(frozen=True, kw_only=True)
class Muon(MatrixRule):
    """m' = beta m + (1-beta) g; B = beta m' + (1-beta) g (or m'); theta' = theta - rate s NS(B), matrix by matrix.

    NS iterates X' = a X + (b A + c A A) X with A = X X^T from X = B/|B|. It is a polynomial, and smooth, but gains up to
    a^iterations (485) on tiny singular values.

    Only matrices are updated: a layout with other tensors is refused by name. Tested by `torch.optim.Muon`, as it is and run in
    float64, and the variant `keller_jordan` by a transcription of its published code in float64.

    beta: decay of m per step. nesterov: whether B looks ahead.
    variant: how a vanishing norm is treated: `torch` divides by max(|B|, eps), `keller_jordan` by |B| + eps.
    scale: s of a matrix [rows, columns]: `original` sqrt(max(1, rows/columns)), `match_rms_adamw` 0.2 sqrt(max(rows, columns)),
    `none` 1.
    precision: type of NS: that of the `parameters`, or `bfloat16` as in torch and the published code. Derivatives then pass
    through the rounding as if there were none.
    coefficients: (a, b, c). iterations: >= 1. eps: > 0.

    Raises RuleError for constants out of range.
    """

    beta: float = 0.95
    nesterov: bool = True
    variant: MuonVariant = "torch"
    scale: MuonScale = "original"
    precision: MuonPrecision = "parameters"
    coefficients: tuple[float, float, float] = COEFFICIENTS
    iterations: int = 5
    eps: float = 1e-7

    name: ClassVar[str] = "muon"
    coupling: ClassVar[Coupling] = "matrix"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("beta", self.beta, in_range(self.beta, 0.0, 1.0), "a number with 0 <= beta < 1")
        check_choice("variant", self.variant, get_args(MuonVariant))
        check_choice("scale", self.scale, get_args(MuonScale))
        check_choice("precision", self.precision, get_args(MuonPrecision))
        check_number("eps", self.eps, in_range(self.eps, 0.0) and self.eps != 0, "a number > 0")
        whole = isinstance(self.iterations, int) and in_range(self.iterations, 1)
        check_number("iterations", self.iterations, whole, "a whole number >= 1")
        if not isinstance(self.coefficients, list | tuple) or len(self.coefficients) != 3:
            raise RuleError(f"`coefficients`: expected three numbers, got {self.coefficients!r}; write {COEFFICIENTS}")
        for i, value in enumerate(self.coefficients):
            check_number(f"coefficients[{i}]", value, in_range(value, -math.inf), "a number")
        object.__setattr__(self, "coefficients", tuple(self.coefficients))

    def init(self, theta: Tensor) -> State:
        return State(theta, {"m": torch.zeros_like(theta)}, {"step": 0.0})

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        m = self.beta * state.memory["m"] + (1.0 - self.beta) * gradient
        ahead = self.beta * m + (1.0 - self.beta) * gradient if self.nesterov else m
        return -rate * by_row(self._direction, ahead)[0], {"m": m}, {"step": state.clock["step"] + 1.0}

    def _direction(self, row: Tensor) -> tuple[Tensor]:
        """One run's direction [D]."""
        return (joined([self._scale(part) * self._orthogonal(part) for part in tensors(self.parameters, row)], row),)

    def _orthogonal(self, matrix: Tensor) -> Tensor:
        wide, low = matrix.shape[0] <= matrix.shape[1], self.precision == "bfloat16"
        x = matrix.bfloat16() if low else matrix
        size = torch.linalg.vector_norm(x) if low else norm(x)
        floor = size.clamp(min=self.eps) if self.variant == "torch" else size + self.eps
        x = (x if wide else x.mT) / floor
        a, b, c = self.coefficients
        for _ in range(self.iterations):
            gram = x @ x.mT
            if low:  # rounded where torch rounds
                x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
            else:
                x = a * x + (b * gram + c * (gram @ gram)) @ x
        x = x.to(matrix.dtype)
        return x if wide else x.mT

    def _scale(self, matrix: Tensor) -> float:
        rows, columns = matrix.shape
        if self.scale == "original":
            return math.sqrt(max(1.0, rows / max(columns, 1)))
        return 0.2 * math.sqrt(max(rows, columns)) if self.scale == "match_rms_adamw" else 1.0

"""Shampoo whose step is corrected for the noise of the items it is made of (bias-corrected Shampoo)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..state import State
from .cross_fitting import CrossFitted
from .factors import applied, eye_like, outer
from .kinds import SignalRule
from .roots import corrected_inverse_root
from .rows import by_row, joined, tensors
from .shampoo import Shampoo
from .signals import SignalName, Signals, mean_over_items, stacked


@dataclass(frozen=True, kw_only=True)
class CorrectedShampoo(CrossFitted, SignalRule, Shampoo):
    """Shampoo with m of some items between the factors of others, and roots less the bias that noise gives them.

    The method is known here from a summary alone; this form of it is ours. An eigenvalue x of a factor of the items B (eps I
    included) gives x^(-1/q) - (1/q)(1/q + 1)/2 x^(-1/q - 2) Var(x), not below 0: 5/32 x^(-9/4) Var for a matrix. Var is
    `eigenvalue_noise`, of the outer products of B's items. Directions are averaged over folds; memory goes on from the mean of
    all items. Tested by a transcription in float64. With `cross_fit` none and no variance the rule is Shampoo.
    """

    name: ClassVar[str] = "shampoo_corrected"
    signals: ClassVar[frozenset[SignalName]] = frozenset({"micro_batches"})

    def update_with(
        self, state: State, gradient: Tensor, rate: float, signals: Signals
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        (b1, _), clock, items = self.betas, self._tick(state.clock), signals.micro_batches
        if items is None:  # which `step` has refused
            return self.update(state, gradient, rate)
        share = (1.0 - clock["p2"]) if self.statistics == "mean" else 1.0
        m = b1 * state.memory["m"] + (1.0 - b1) * gradient

        def one(stack: Tensor, own: Tensor, old: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
            parts = []
            for fold in self._folds(stack):
                numerator = b1 * old + (1.0 - b1) * mean_over_items(stack, fold.numerator)
                parts.append(self._corrected(numerator, stack[fold.preconditioner], factors, share))
            return mean_over_items(stacked(parts)), joined(self._gathered(own, factors), own)

        memory = (state.memory["m"], state.memory["factors"])
        direction, factors = by_row(one, items, gradient, *memory, trailing=(2,))
        return (-rate / (1.0 - clock["p1"])) * direction, {"m": m, "factors": factors}, clock

    def _corrected(self, numerator: Tensor, items: Tensor, factors: Tensor, share: float) -> Tensor:
        """One run's numerator [D] between the corrected roots of what items [K, D] make of the factors."""
        kept = self._gathered(mean_over_items(items), factors)
        add = (1.0 - self.betas[1] if self.statistics == "mean" else 1.0) / share
        parts, own = tensors(self.parameters, numerator), [tensors(self.parameters, item) for item in items]
        for (place, axis, order), factor in zip(self._axes(), kept, strict=True):
            values, vectors = torch.linalg.eigh(factor / share + self.eps * eye_like(factor))
            noise = torch.zeros_like(values)
            if self.correct_variance:
                noise = eigenvalue_noise(values, vectors, [add * outer(item[place], axis) for item in own])
            root = (vectors * corrected_inverse_root(values, noise, order)) @ vectors.mT
            parts[place] = applied(parts[place], root, axis)
        return joined(parts, numerator)


def eigenvalue_noise(values: Tensor, vectors: Tensor, items: list[Tensor]) -> Tensor:
    """The variance of the eigenvalues [d] of a matrix that noise in the mean of several matrices gives.

    Of an eigenvalue that stands alone it is that of the mean of v^T A_j v. Where several are equal any basis will do, and it is
    the mean of the eigenvalues of E (P dA P)^2 over them, P their projector, which no choice of a basis changes.

    Args:
        values: ascending [d]. vectors: eigenvectors, as columns [d, d]. items: at least two matrices A_j [d, d].
    """
    count, near = len(items), values[-1].abs() * torch.finfo(values.dtype).eps ** 0.5
    steps = (values.diff() > near).cumsum(0)  # of whole numbers: of others CUDA has no deterministic kernel
    place = torch.cat([steps.new_zeros(1), steps])
    alike = (place[:, None] == place[None, :]).to(values)
    mean = sum(items[1:], items[0]) / count
    squares = [(vectors.mT @ (item - mean) @ vectors).square() * alike for item in items]
    rows = sum(squares[1:], squares[0]).sum(1) / (count * (count - 1))
    return (alike @ rows) / alike.sum(1)

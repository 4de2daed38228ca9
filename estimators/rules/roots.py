"""Roots with derivatives that stay finite: of numbers where they vanish, of matrices where eigenvalues meet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def root(x: Tensor) -> Tensor:
    """sqrt(x) for x >= 0, whose derivative is taken as 0 where x = 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, torch.ones_like(x)).sqrt(), torch.zeros_like(x))


def norm(x: Tensor) -> Tensor:
    """The Euclidean norm of one tensor, whose derivative is taken as 0 at zero."""
    return root((x * x).sum())


def inverse_root(matrix: Tensor, order: int) -> Tensor:
    """A^(-1/order) of a positive definite matrix [d, d], by its eigenvalues; its symmetric part is taken.

    The derivative is that of Daleckii and Krein, with divided differences without a difference, so that it is finite where
    eigenvalues are equal or close. That of `torch.linalg.eigh` is not.
    """
    found: Tensor = _InverseRoot.apply((matrix + matrix.mT) / 2, order)  # type: ignore[no-untyped-call]
    return found


def divided_differences(values: Tensor, order: int) -> Tensor:
    """(f(a) - f(b)) / (a - b) for f(a) = a^(-1/order) and all pairs of positive numbers [d]: [d, d]; f'(a) where a = b.

    With x = a^(1/order), y = b^(1/order) it is -1 / (x y (x^(order-1) + x^(order-2) y + ... + y^(order-1))).
    """
    x = values.pow(1.0 / order)
    a, b = x[:, None], x[None, :]
    total = sum((a.pow(order - 1 - k) * b.pow(k) for k in range(1, order)), a.pow(order - 1).expand(len(x), len(x)))
    return -1.0 / (a * b * total)


class _InverseRoot(torch.autograd.Function):
    """A^(-1/order), with a symmetric Jacobian: forward and backward derivative are the same map."""

    @staticmethod
    def forward(matrix: Tensor, order: int) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        found: Tensor = (vectors * values.pow(-1.0 / order)) @ vectors.mT
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.order = inputs[1]

    @staticmethod
    def backward(ctx: Any, *sensitivities: Tensor) -> tuple[Tensor, None]:
        return _along(ctx.saved_tensors[0], ctx.order, sensitivities[0]), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _along(ctx.saved_tensors[0], ctx.order, tangents[0])


def _along(matrix: Tensor, order: int, direction: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    inner = vectors.mT @ direction @ vectors
    found: Tensor = vectors @ (divided_differences(values, order) * inner) @ vectors.mT
    return found


def corrected_inverse_root(value: Tensor, variance: Tensor, order: int) -> Tensor:
    """x^(-1/order) less the bias that noise of a given variance in x gives it: half the second derivative times the variance.

    f(x) = x^(-1/q) has f''(x)/2 = (1/q)(1/q + 1)/2 x^(-1/q - 2): 1 for a plain inverse (q = 1), 3/8 for an inverse square root,
    5/32 for q = 4. The result is not let below 0.
    """
    power = 1.0 / order
    bias = (power * (power + 1.0) / 2.0) * value.pow(-power - 2.0) * variance
    return (value.pow(-power) - bias).clamp(min=0.0)

"""Clipping of a gradient by its global norm, as `torch.nn.utils.clip_grad_norm_`, and its derivative."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..shapes import Float

NORM_FLOOR = 1e-6
"""Added to the norm by torch."""


def global_norm(gradient: Float[Tensor, "*n D"], tensors: Sequence[slice] = ()) -> Float[Tensor, "*n"]:
    """Euclidean norm along the last axis, row by row: [..., D] -> [...].

    Each row is reduced by itself and contiguous, so that a row's norm has the same bits alone and in a stack.

    Args:
        gradient: [..., D].
        tensors: where its tensors stand. With them it is the norm of their norms, which is how torch rounds it.

    Returns:
        The norms [...].
    """
    norm = torch.linalg.vector_norm
    rows = [row.contiguous() for row in gradient.reshape(-1, gradient.shape[-1])]
    norms = [norm(torch.stack([norm(row[place]) for place in tensors])) if tensors else norm(row) for row in rows]
    return torch.stack(norms).reshape(gradient.shape[:-1])


def clip_gradient(
    clip: float | None, gradient: Float[Tensor, "*n D"], norm: Float[Tensor, "*n"] | None = None
) -> Float[Tensor, "*n D"]:
    """The gradient scaled by min(1, clip / (norm + 1e-6)), row by row.

    Args:
        clip: bound on the global norm; None for no clipping.
        gradient: [..., D], or some of its coordinates.
        norm: [...], the global norm; computed from the coordinates given if None.

    Returns:
        The clipped gradient [..., D].
    """
    return gradient if clip is None else gradient * clip_scale(clip, gradient, norm).unsqueeze(-1)


def clip_scale(
    clip: float, gradient: Float[Tensor, "*n D"], norm: Float[Tensor, "*n"] | None = None
) -> Float[Tensor, "*n"]:
    """What `clip_gradient` scales by, min(1, clip / (norm + 1e-6)), row by row: [..., D] -> [...]."""
    norm = global_norm(gradient) if norm is None else norm
    return (clip / (norm + NORM_FLOOR)).clamp(max=1.0)


def clip_tangent(clip: float | None, gradient: Tensor, dgradient: Tensor) -> Tensor:
    """Directional derivative of `clip_gradient` at `gradient` along `dgradient`, both [..., D].

    Finite at a zero gradient. The Jacobian is symmetric, so that this is the vector-Jacobian product too.

    Args:
        clip: bound on the global norm; None for no clipping.
        gradient: [..., D], all of its coordinates.
        dgradient: [..., D], the direction.

    Returns:
        The derivative [..., D].
    """
    if clip is None:
        return dgradient
    norm = global_norm(gradient)
    dnorm = (gradient * dgradient).sum(-1) / torch.where(norm > 0, norm, torch.ones_like(norm))
    factor = clip / (norm + NORM_FLOOR)
    shrink = factor * dnorm / (norm + NORM_FLOOR)
    scaled = factor.unsqueeze(-1) * dgradient - shrink.unsqueeze(-1) * gradient
    return torch.where((factor < 1).unsqueeze(-1), scaled, dgradient)

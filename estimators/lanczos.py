"""Lanczos with full reorthogonalisation: the leading eigenpairs of a symmetric operator known by its products alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .shapes import Float

Product = Callable[[Tensor], Tensor]
"""(u [D]) -> A u [D], for a symmetric A."""


class RitzPairs(NamedTuple):
    """Rayleigh-Ritz pairs of a Krylov space: values [r], descending, float64; vectors [r, D], orthonormal rows, zero
    (with the value 0) where the operator's range was exhausted before r of them."""

    values: Float[Tensor, " r"]
    vectors: Float[Tensor, "r D"]


def lanczos(product: Product, draw: Callable[[int], Tensor], rank: int) -> RitzPairs:
    """All `rank` Ritz pairs of the Krylov space of `rank` products (Golub & Van Loan 2013, section 10.3).

    draw: (number) -> a vector [D] to start from, number 0 first, and one more whenever the space turns out invariant: so
    equal eigenvalues are all found. Draws must not leave the space that matters; where they add nothing, zeros are left.
    Every vector is made orthogonal to all before it twice, without which copies of converged pairs appear.
    """
    start = draw(0)
    basis = torch.zeros(min(rank, len(start)), len(start), dtype=start.dtype, device=start.device)
    inner = torch.zeros(len(basis), len(basis), dtype=torch.float64)
    draws, fresh, count = 1, start, 0
    while count < len(basis):
        length = fresh.norm()
        if not length > 0:
            break
        basis[count] = fresh / length
        image = product(basis[count])
        inner[count, count] = float(image @ basis[count])
        count += 1
        fresh = _orthogonal(image, basis[:count])
        if fresh.norm() <= _tolerance(basis) * image.norm():
            fresh = _restart(draw(draws), basis[:count])
            draws += 1
        elif count < len(basis):
            inner[count, count - 1] = inner[count - 1, count] = float(fresh.norm())
    return _ritz(inner[:count, :count], basis)


def _tolerance(basis: Tensor) -> float:
    """Relative size of what is left of a product in an invariant space: rounding."""
    return 64 * torch.finfo(basis.dtype).eps


def _orthogonal(vector: Float[Tensor, " D"], basis: Float[Tensor, "r D"]) -> Float[Tensor, " D"]:
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    return vector


def _restart(drawn: Float[Tensor, " D"], basis: Float[Tensor, "r D"]) -> Float[Tensor, " D"]:
    """What a new vector adds to the basis; zeros where that is rounding."""
    fresh = _orthogonal(drawn, basis)
    return torch.zeros_like(fresh) if fresh.norm() <= _tolerance(basis) * drawn.norm() else fresh


def _ritz(inner: Float[Tensor, "count count"], basis: Float[Tensor, "r D"]) -> RitzPairs:
    values, rotation = torch.linalg.eigh(inner)
    padded, count = torch.zeros(len(basis), dtype=torch.float64), len(values)
    padded[:count] = values.flip(0)
    vectors = basis.clone()
    vectors[:count] = rotation.flip(1).T.to(basis) @ basis[:count]
    return RitzPairs(padded, vectors)


def seeded_draw(size: int, seed: int) -> Callable[[int], Tensor]:
    """Standard normal vectors [size], float64, by number: made on the CPU, the same for every device."""

    def draw(number: int) -> Float[Tensor, " D"]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        return torch.randn(size, dtype=torch.float64, generator=generator)

    return draw

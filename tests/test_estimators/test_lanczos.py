"""Lanczos against dense eigenvalues: complete, repeated, deficient, and truncated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from estimators.lanczos import lanczos, seeded_draw

D = 24


def symmetric(values: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    Q = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64, generator=draw))[0]
    return Q @ torch.diag(values) @ Q.T


@pytest.mark.parametrize(
    "values",
    [
        torch.linspace(-3, 40, D, dtype=torch.float64),
        torch.tensor([5.0] * 4 + [2.0] * 10 + [-1.0] * 10, dtype=torch.float64),
        torch.tensor([7.0, 3.0] + [0.0] * (D - 2), dtype=torch.float64),
    ],
    ids=["distinct", "repeated", "deficient"],
)
def test_at_full_rank_it_is_the_dense_eigendecomposition(values: Tensor) -> None:
    A = symmetric(values)
    found, vectors = lanczos(lambda u: A @ u, seeded_draw(D, 0), D)
    torch.testing.assert_close(found, torch.linalg.eigh(A)[0].flip(0), atol=1e-10, rtol=0)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(D, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(vectors.T @ torch.diag(found) @ vectors, A, atol=1e-9, rtol=0)


def test_a_few_products_find_the_leading_pairs() -> None:
    values = torch.cat([torch.tensor([100.0, 60.0, 30.0], dtype=torch.float64), torch.linspace(0, 1, 97).double()])
    A = symmetric(values)
    found, vectors = lanczos(lambda u: A @ u, seeded_draw(100, 0), 12)
    assert found.shape == (12,)
    assert vectors.shape == (12, 100)
    dense = torch.linalg.eigh(A)
    torch.testing.assert_close(found[:3], dense[0].flip(0)[:3], rtol=1e-8, atol=0)
    torch.testing.assert_close((vectors[:3] @ dense[1].flip(1)[:, :3]).abs(), torch.eye(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(12).double(), atol=1e-12, rtol=0)


def test_in_single_precision_vectors_are_single_and_values_double() -> None:
    A = symmetric(torch.linspace(1, 9, D, dtype=torch.float64)).float()
    found, vectors = lanczos(lambda u: A @ u, lambda n: seeded_draw(D, 0)(n).float(), D)
    assert (found.dtype, vectors.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(vectors @ A @ vectors.T, torch.diag(found).float(), atol=1e-4, rtol=0)


def test_a_rank_beyond_the_dimension_is_the_dimension() -> None:
    A = symmetric(torch.arange(5.0, dtype=torch.float64))
    assert lanczos(lambda u: A @ u, seeded_draw(5, 0), 9).values.shape == (5,)


def test_coordinates_that_no_draw_reaches_are_left_zero() -> None:
    A = symmetric(torch.linspace(1, 9, D, dtype=torch.float64))
    live = torch.arange(D) % 3 > 0
    made = seeded_draw(D, 0)
    found, vectors = lanczos(lambda u: live * (A @ u), lambda n: made(n) * live, D)
    inner = torch.linalg.eigh(A[live][:, live])[0].flip(0)
    torch.testing.assert_close(found[: len(inner)], inner, atol=1e-10, rtol=0)
    assert (found[len(inner) :] == 0).all()
    assert (vectors[len(inner) :] == 0).all()
    assert (vectors[:, ~live] == 0).all()


def test_the_same_seed_gives_the_same_bits_and_another_gives_others() -> None:
    draw = seeded_draw(50, 1)
    assert torch.equal(draw(2), seeded_draw(50, 1)(2))
    assert not torch.equal(draw(2), seeded_draw(50, 2)(2))
    assert not torch.equal(draw(2), draw(3))

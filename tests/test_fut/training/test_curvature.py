"""Estimated diagonals of Hessians: unbiased, and of their key alone."""

from __future__ import annotations

import torch

from estimators.contract import normal
from fut.training.curvature import probed_diagonal


def test_it_is_the_diagonal_on_average_and_that_of_a_diagonal_matrix_at_once() -> None:
    matrix = normal(6, 6, seed=1)
    matrix = matrix + matrix.mT
    theta = normal(6, seed=2)
    found = torch.stack([probed_diagonal(lambda u: matrix @ u, theta, 0, item) for item in range(20_000)])
    spread = found.std(0) / 20_000**0.5
    assert ((found.mean(0) - matrix.diagonal()).abs() < 4 * spread).all()
    plain = torch.diag(matrix.diagonal())
    assert torch.equal(probed_diagonal(lambda u: plain @ u, theta, 0, 1), matrix.diagonal())


def test_the_signs_are_of_the_key() -> None:
    matrix, theta = normal(6, 6, seed=1), normal(6, seed=2)
    one, again, other = (probed_diagonal(lambda u: matrix @ u, theta, 3, key) for key in (4, 4, 5))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)

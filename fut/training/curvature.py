"""Estimated diagonals of Hessians, for rules that need the curvature of a step's items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from estimators.replay import ItemGradient, TrueGradients
from fut.models.autodiff import hessian_vector
from fut.training.problem import Problem

WARMUP = 1 << 32
"""Keeps the signs of warm-up items apart from those of the window's."""


def probed_diagonal(product: Callable[[Tensor], Tensor], theta: Tensor, *key: int) -> Tensor:
    """An unbiased estimate of the diagonal of a Hessian H [D]: u * (H u), with random signs u (Hutchinson 1989).

    Args:
        product: u -> H u, both [D].
        theta: parameters [D], whose type and device the signs take.
        key: of the signs. With the item in it, an item has the same signs wherever it stands in an order.
    """
    signs = np.random.default_rng([*key, 41]).integers(0, 2, len(theta), dtype=np.int8) * 2 - 1
    direction = torch.from_numpy(signs).to(theta)
    return direction * product(direction)


def item_curvature(problem: Problem) -> ItemGradient:
    """(theta [D], item) -> estimated diagonal [D] of the Hessian of the item's loss, with random signs of the item."""

    def estimate(theta: Tensor, item: int) -> Tensor:
        return probed_diagonal(lambda u: problem.product(theta, item, u), theta, problem.config.data.seed, item)

    return estimate


def true_gradients(problem: Problem) -> TrueGradients:
    """Gradients at the runs' own parameters, and curvature for rules that need it."""
    return TrueGradients(problem.gradient, problem.mean_gradient, item_curvature(problem))


def warmup_curvature(problem: Problem) -> ItemGradient:
    """The same of the items of the warm-up, whose signs are others."""

    def estimate(theta: Tensor, item: int) -> Tensor:
        def product(u: Tensor) -> Tensor:
            return hessian_vector(problem.objective, theta, problem.data.warmup[item], u)

        return probed_diagonal(product, theta, problem.config.data.seed, WARMUP, item)

    return estimate

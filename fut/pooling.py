"""Curvature of a batch drawn from all items: one such product stands for the mean of many items' own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from . import derivatives
from .config import AdjointConfig
from .errors import UsageError
from .models import Item
from .problem import Problem


def pooled_products(
    problem: Problem, config: AdjointConfig, step: int, theta: Tensor, directions: Tensor, relative: float = 3e-4
) -> Tensor:
    """Hessian-vector products [r, D] along r directions [r, D] of a step's pooled batch: two gradients each.

    relative: step of the central differences, as in `derivatives.hessian_vector_difference`.
    """
    batch, objective = pooled_batch(problem, config, step), problem.objective
    if config.products == "exact":
        return torch.stack([derivatives.hessian_vector(objective, theta, batch, u) for u in directions])
    return torch.stack(
        [derivatives.hessian_vector_difference(objective, theta, batch, u, relative) for u in directions]
    )


def pooled_batch(problem: Problem, config: AdjointConfig, step: int) -> Item:
    """A batch as large as what `pool` steps consume, its samples drawn from all items without replacement."""
    items, draw = problem.data.items, np.random.default_rng([config.seed, 11, step])
    sizes = {tuple(t.shape[1:] for t in item) for item in items}
    if len(sizes) > 1:
        raise UsageError(
            f"adjoint.curvature: expected items of one shape to pool samples from, got {len(sizes)} shapes; use `items`"
        )
    return drawn_samples(items, config.pool * problem.config.data.per_step * len(items[0][0]), draw)


def drawn_samples(items: Sequence[Item], size: int, draw: np.random.Generator) -> Item:
    """An item of `size` samples drawn from all items, all of them where they are fewer, in the order of the items."""
    total = sum(len(item[0]) for item in items)
    chosen = np.sort(draw.choice(total, min(total, size), replace=False))
    owners = np.repeat(np.arange(len(items)), [len(item[0]) for item in items])
    within = np.concatenate([np.arange(len(item[0])) for item in items])
    rows = [tuple(t[within[s]] for t in items[owners[s]]) for s in chosen]
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))

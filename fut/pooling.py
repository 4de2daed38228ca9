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

FEWER = 2
"""How many times smaller than a step's the batch is on which functionals' products are taken."""


def pooled_products(
    problem: Problem,
    config: AdjointConfig,
    step: int,
    theta: Tensor,
    directions: Tensor,
    fine: int,
    relative: float = 3e-4,
) -> Tensor:
    """Hessian-vector products [r + m, D] of a step's pooled batch along directions [r + m, D].

    The first `fine` of them, usually those of the read-outs, by central differences on a batch of `pool` steps' size, two
    gradients of it each, or exactly. The others, usually functionals, which need less, by one-sided differences on half a
    step's: a gradient each, and one more. relative: step of the central differences, as in
    `derivatives.hessian_vector_difference`.
    """
    batch, objective = pooled_batch(problem, config, step), problem.objective

    def product(direction: Tensor) -> Tensor:
        if config.products == "exact":
            return derivatives.hessian_vector(objective, theta, batch, direction)
        return derivatives.hessian_vector_difference(objective, theta, batch, direction, relative)

    found = [product(u) for u in directions[:fine]]
    if len(directions) > fine:
        small = drawn_samples(problem.data.items, small_size(problem), np.random.default_rng([config.seed, 17, step]))
        found += derivatives.hessian_vectors_one_sided(objective, theta, small, directions[fine:])
    return torch.stack(found)


def small_size(problem: Problem) -> int:
    """Samples of the batch on which functionals' products are taken."""
    return max(1, problem.config.data.per_step * len(problem.data.items[0][0]) // FEWER)


def pooled_batch(problem: Problem, config: AdjointConfig, step: int) -> Item:
    """A batch as large as what `pool` steps consume, its samples drawn from all items without replacement."""
    return mixed_batch(problem, config.pool, [config.seed, 11, step], "use `items`", "adjoint.curvature")


def mixed_batch(problem: Problem, pool: int, key: Sequence[int], advice: str, field: str) -> Item:
    """A batch as large as what `pool` steps consume, its samples drawn from all items by a generator seeded with `key`."""
    items, draw = problem.data.items, np.random.default_rng(list(key))
    sizes = {tuple(t.shape[1:] for t in item) for item in items}
    if len(sizes) > 1:
        raise UsageError(
            f"{field}: expected items of one shape to pool samples from, got {len(sizes)} shapes; {advice}"
        )
    return drawn_samples(items, pool * problem.config.data.per_step * len(items[0][0]), draw)


def drawn_samples(items: Sequence[Item], size: int, draw: np.random.Generator) -> Item:
    """An item of `size` samples drawn from all items, all of them where they are fewer, in the order of the items."""
    total = sum(len(item[0]) for item in items)
    chosen = np.sort(draw.choice(total, min(total, size), replace=False))
    owners = np.repeat(np.arange(len(items)), [len(item[0]) for item in items])
    within = np.concatenate([np.arange(len(item[0])) for item in items])
    rows = [tuple(t[within[s]] for t in items[owners[s]]) for s in chosen]
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))

"""Curvature of a batch drawn from all items: one such product stands for the mean of many items' own.

Directions change little from step to step, and so do displacements: what counts is the mean of many steps' batches. They are
balanced: over consecutive batches every sample of the items occurs once, in a random order, before any occurs again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fut.errors import UsageError
from fut.methods.adjoint.config import AdjointConfig
from fut.models import autodiff as derivatives
from fut.models.objective import Item, full_precision
from fut.models.products import DIFFERENCE
from fut.training.problem import Problem

FINE, FUNCTIONAL = 11, 17
"""Kinds of batches, drawn apart: of read-outs' products, and of functionals'."""
LONGER = 3.0
"""How many times longer another step is, by which a difference is judged where there is no exact product."""
NOISE = 0.25
"""Relative error of a product by differences above which estimates that rest on such products are warned of."""
COMPARED, OUTLYING, LEAST = 3, 8.0, 0.5
"""From how many places on their products are compared; from how many times the median on, in norm, one is far larger; and the
share of the mean injection below which its own replaces it."""
FEWER = 2
"""How many times smaller than a step's the batch is on which functionals' products are taken."""


Answer = Callable[[Tensor], Tensor]
"""The gradient of a part of a batch [D] -> its own injections [r + m, D], in place of the mean ones."""


def pooled_products(
    problem: Problem,
    config: AdjointConfig,
    step: int,
    places: Tensor,
    directions: Tensor,
    fine: int,
    relative: float | None = None,
    answer: Answer | None = None,
) -> Tensor:
    """Hessian-vector products [r + m, D] of a step's pooled batch along directions [r + m, D], the mean over places [p, D].

    The batch is divided among the places. The first `fine` products, usually those of the read-outs, by central differences
    on a batch of `pool` steps' size, two gradients of it each, or exactly. The others, usually functionals, which need less,
    by one-sided differences on half a step's: a gradient each, and one more. relative: step of the central differences, as
    in `derivatives.hessian_vector_difference`, None for its own. answer: by which products that are far larger than the other
    places' are judged, and replaced by the part's own: see `_own_injections`. What is far larger even so is left out: no
    displacement stays where such curvature holds.
    """
    products = partial(_products, problem, config, step, places, fine, relative)
    found = [products(place, directions) for place in range(len(places))]
    if answer is not None and len(places) >= COMPARED:
        norms = torch.stack([one.norm(dim=1) for one in found])
        most = OUTLYING * norms.median(0).values
        for place, far in enumerate(norms > most):
            if far.any():
                parts = _parts(problem, config, (step, place, len(places)), len(directions), fine)
                own, replaced = _own_injections(problem, places[place], parts, directions, answer, far)
                if replaced.any():
                    better = products(place, own)
                    better = torch.where((better.norm(dim=1) <= most)[:, None], better, 0.0)
                    found[place] = torch.where(replaced[:, None], better, found[place])
    total = torch.zeros_like(directions)
    for one in found:
        total += one
    return total / len(places)


def _products(
    problem: Problem,
    config: AdjointConfig,
    step: int,
    places: Tensor,
    fine: int,
    relative: float | None,
    place: int,
    directions: Tensor,
) -> Tensor:
    """The products [r + m, D] of one place's parts."""
    objective, theta, found = problem.objective, places[place], list[Tensor]()
    for rows, batch in _parts(problem, config, (step, place, len(places)), len(directions), fine):
        if not directions[rows].any():  # of a read-out that is taken earlier, or of none that is replaced
            found += list(torch.zeros_like(directions[rows]))
        elif rows.start >= fine:
            found += derivatives.hessian_vectors_one_sided(objective, theta, batch, directions[rows])
        elif config.products == "exact":
            zero = torch.zeros_like(theta)  # of a read-out that is taken earlier
            exact = (
                derivatives.hessian_vector(objective, theta, batch, u) if u.any() else zero for u in directions[rows]
            )
            found += exact
        else:
            product = derivatives.hessian_vector_difference
            found += [product(objective, theta, batch, u, relative) for u in directions[rows]]
    return torch.stack(found)


def _parts(
    problem: Problem, config: AdjointConfig, at: tuple[int, int, int], directions: int, fine: int
) -> list[tuple[slice, Item]]:
    """A place's part of the first `fine` products' batch, and of the others', each with the directions that it is for."""
    found = [(slice(0, fine), pooled_batch(problem, config, *at))] if fine else []
    if directions > fine:
        small = _batch(problem, config, FUNCTIONAL, at, small_size(problem, at[2]))
        found.append((slice(fine, directions), small))
    return found


def _own_injections(
    problem: Problem,
    theta: Tensor,
    parts: Sequence[tuple[slice, Item]],
    directions: Tensor,
    answer: Answer,
    far: Tensor,
) -> tuple[Tensor, Tensor]:
    """A part's own injections [r + m, D] at one place, where its product is far larger than the other places' and they are much
    smaller than the mean ones, else 0; and which these are [r + m].

    H lambda, of the means, stands for the mean of H_i lambda_i. That fails where an item has a steep gradient, and large
    curvature with it: clipping and second moments let it answer the less, the steeper it is.
    """
    found, replaced = torch.zeros_like(directions), torch.zeros_like(far)
    for rows, batch in parts:
        if far[rows].any():
            gradient = derivatives.gradient(problem.objective, theta, batch)
            own, touched = answer(gradient)[rows] * (gradient != 0), directions[rows] * (gradient != 0)
            replaced[rows] = far[rows] & (own.norm(dim=1) < LEAST * touched.norm(dim=1))
            found[rows] = torch.where(replaced[rows][:, None], own, 0.0)
    return found, replaced


def product_error(problem: Problem, theta: Tensor, batch: Item, direction: Tensor) -> float:
    """|difference - exact| / |exact| of one Hessian-vector product [D] on a batch; NaN where the product vanishes.

    Of a model that has no exact products the difference is compared with one over a step `LONGER` times as long, from which
    rounding differs and curvature hardly does.
    """
    objective = problem.objective
    exact = derivatives.hessian_vector(objective, theta, batch, direction)
    if objective.exact_form == DIFFERENCE:
        step = LONGER * derivatives.difference_step(len(theta))
        exact = derivatives.hessian_vector_difference(objective, theta, batch, direction, step)
    found = derivatives.hessian_vector_difference(objective, theta, batch, direction)
    return _relative(found, exact)


def autocast_error(problem: Problem, theta: Tensor, batch: Item, direction: Tensor) -> float:
    """|under autocast - in full precision| / |in full precision| of one exact Hessian-vector product [D] on a batch."""
    coarse = derivatives.hessian_vector(problem.objective, theta, batch, direction)
    with full_precision(problem.objective):
        return _relative(coarse, derivatives.hessian_vector(problem.objective, theta, batch, direction))


def _relative(found: Tensor, exact: Tensor) -> float:
    scale = exact.norm().item()
    return (found - exact).norm().item() / scale if scale else math.nan


def noise_caution(error: float | None, setting: str, redo: str) -> str:
    """What is said against estimates whose products by differences are noise; empty where they are not.

    Args:
        error: `product_error`; None or NaN where it is not known.
        setting: what asks for exact products, as a configuration has it.
        redo: what has to be removed and made anew.
    """
    if error is None or not error > NOISE:
        return ""
    return (
        f"its curvature is mostly rounding: a Hessian-vector product by differences is {100 * error:.0f} % off an exact one "
        f"(limit {100 * NOISE:.0f} %), so that estimates may be worse than none; set {setting}, or compute the loss in "
        f"float32 and leave autocast to the setting model.autocast, and make {redo} anew"
    )


def _batch(problem: Problem, config: AdjointConfig, kind: int, at: tuple[int, int, int], size: int) -> Item:
    """`size` samples, all where they are fewer, for one place of a step. at: the step, which of how many places."""
    (step, place, count), items = at, problem.samples.pooled
    if config.draw == "balanced":
        size = min(size, sum(len(item[0]) for item in items))
        return balanced_samples(items, (step * count + place) * size, size, [config.seed, kind])
    key = [config.seed, kind, step] + ([place] if count > 1 else [])
    return drawn_samples(items, size, np.random.default_rng(key))


def pooled_size(problem: Problem, config: AdjointConfig, places: int = 1) -> int:
    """Samples of each place's part of a step's pooled batch, one at least."""
    return max(1, round(config.pool * _per_step(problem) / places))


def small_size(problem: Problem, places: int = 1) -> int:
    """Samples of each place's part of the batch on which functionals' products are taken, one at least."""
    return max(1, _per_step(problem) // (FEWER * places))


def _per_step(problem: Problem) -> int:
    return problem.config.data.per_step * rows(problem)


def rows(problem: Problem) -> int:
    """Samples of an item, one at least."""
    return max(1, len(problem.data.items[0][0]))


def pooled_batch(problem: Problem, config: AdjointConfig, step: int, place: int = 0, count: int = 1) -> Item:
    """One of `count` places' part of a batch as large as what `pool` steps consume, its samples drawn from all items."""
    require_samples(problem, 'set adjoint.curvature = "items"', "adjoint.curvature")
    return _batch(problem, config, FINE, (step, place, count), pooled_size(problem, config, count))


def require_samples(problem: Problem, advice: str, field: str) -> None:
    """UsageError where samples of several items cannot stand in one batch."""
    if not (found := problem.samples.items):
        raise UsageError(
            f"{field}: expected items whose first dimension is samples, to pool them, but {found.reason}; {advice}"
        )


def _shapes(items: Sequence[Item]) -> set[tuple[torch.Size, ...]]:
    return {tuple(t.shape[1:] for t in item) for item in items}


def drawn_samples(items: Sequence[Item], size: int, draw: np.random.Generator) -> Item:
    """An item of `size` samples drawn from all items, all of them where they are fewer, in the order of the items."""
    total = sum(len(item[0]) for item in items)
    return _gathered(items, draw.choice(total, min(total, size), replace=False))


def balanced_samples(items: Sequence[Item], first: int, size: int, key: Sequence[int]) -> Item:
    """Samples `first` to `first + size` of an endless sequence in which every run of all samples is a random permutation of them,
    the n-th by a generator seeded with `key` and n."""
    total, numbers, at = sum(len(item[0]) for item in items), list[int](), first
    while len(numbers) < size:
        n, place = divmod(at, total)
        permuted = np.random.default_rng([*key, n]).permutation(total)[place : place + size - len(numbers)]
        numbers += permuted.tolist()
        at += len(permuted)
    return _gathered(items, np.array(numbers))


def _gathered(items: Sequence[Item], numbers: np.ndarray) -> Item:
    """The samples of these numbers, counted through all items, in the order of the items."""
    ordered = np.sort(numbers)
    owners = np.repeat(np.arange(len(items)), [len(item[0]) for item in items])
    within = np.concatenate([np.arange(len(item[0])) for item in items])
    rows = [tuple(t[within[s]] for t in items[owners[s]]) for s in ordered]
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))

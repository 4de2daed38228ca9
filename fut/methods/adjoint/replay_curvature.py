"""Low-rank curvature for the adjoint's replay: the few directions in which the rule feels it most.

A replay without curvature overshoots along them, and the rule's nonlinearity is then taken in the wrong place; to first order
the sweep mends that, to second order it does not. A few leading Ritz pairs of mean curvature, in the rule's own metric and taken
where an ensemble's runs stand, keep the replay near the truth there. What they do to first order the sweep has already: it is
taken off again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from estimators.adjoint import AnchoredGradients
from estimators.lanczos import RitzPairs
from estimators.lowrank import BentGradients, Curvature, low_rank, sensitivity
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.curvature_batches import pooled_products

KRYLOV = 4
"""Products for every Ritz pair that is kept: the leading ones of a larger space are nearer to the truth."""
CLAMP = 0.99
"""Quantile above which the metric's weights are clamped."""
SEEDS = 1 << 31
"""Seeds of the vectors that Lanczos starts from."""


def missing_low_rank(expansion: Expansion) -> list[int]:
    """The curvature anchors whose Ritz pairs are missing."""
    return [index for index in range(len(expansion.spec.curvatures)) if not expansion.ritz.has(index)]


def run_low_rank(expansion: Expansion, indices: Sequence[int]) -> Iterator[None]:
    """Write the Ritz pairs of curvature anchors."""
    for index in indices:
        pairs = _pairs(expansion, expansion.spec.curvatures[index])
        arrays = {"eigenvalue": pairs.values.cpu().numpy(), "lowrank": pairs.vectors.cpu().numpy()}
        expansion.ritz.write(index, arrays, {}, replace=True)
        yield


def products(spec: AdjointSpec) -> int:
    """Hessian-vector products of one curvature anchor."""
    return min(KRYLOV * spec.rank, spec.problem.objective.size)


def curvature_of(expansion: Expansion) -> Curvature:
    """The replay's curvature on all coordinates; from scratch, one anchor at a time in memory."""

    def pairs(index: int) -> RitzPairs:
        values, rows = (torch.from_numpy(expansion.ritz.read_array(index, name)) for name in ("eigenvalue", "lowrank"))
        return RitzPairs(values, rows.to(expansion.problem.device))

    return Curvature(expansion.spec.curvatures, lru_cache(maxsize=1)(pairs))


def _pairs(expansion: Expansion, step: int) -> RitzPairs:
    """The leading Ritz pairs at a step: values [r] >= 0, rows [r, D]."""
    problem, config, state = expansion.problem, expansion.spec.config, expansion.trajectory.state(step)
    places = expansion.trajectory.places(step)

    def product(direction: Tensor) -> Tensor:
        return pooled_products(problem, config, step, places, direction[None], fine=1)[0]

    weight = sensitivity(problem.rule, state, CLAMP)
    found = low_rank(product, weight, products(expansion.spec), config.seed % SEEDS)
    return RitzPairs(found.values[: expansion.spec.rank].clamp(min=0.0), found.vectors[: expansion.spec.rank])


def curved_gradients(
    expansion: Expansion,
    inner: AnchoredGradients,
    tables: Mapping[str, Tensor],
    centre: Callable[[int], Tensor],
    scarce: Tensor,
) -> BentGradients:
    """Gradients of the replay on the coordinates of the tables `lowrank` [n, r, k], with curvature in them. scarce: [A, k]."""
    answers, values, rows = tables["answer"], tables["eigenvalue"][:, 0], tables["lowrank"]
    weight = torch.as_tensor(inner.weight).to(rows)
    curvature = Curvature(expansion.spec.curvatures, lambda index: RitzPairs(values[index], rows[index]), weight)
    return BentGradients(
        inner, centre, curvature, lambda anchor: scarce[anchor], lambda step: (answers[step] != 0).any(0)
    )

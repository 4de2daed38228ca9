"""The step of the sweep's central differences, checked once per expansion against an exact product."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.curvature_batches import alike, drawn_samples, small_size
from fut.models import autodiff as derivatives
from storage import MissingError

SAMPLE_KEY = 23


def difference_error(expansion: Expansion, theta: Tensor, direction: Tensor) -> float:
    """|difference - exact| / |exact| of one Hessian-vector product [D], on half a step's samples or, where the items differ in
    shape, on one item.

    NaN where the sweep takes exact products, where the product vanishes, or where the model has no forward derivative.
    """
    if expansion.spec.config.products == "exact":
        return math.nan
    problem, items = expansion.problem, expansion.problem.data.items
    draw = np.random.default_rng([expansion.spec.config.seed, SAMPLE_KEY])
    batch = drawn_samples(items, small_size(problem), draw) if alike(items) else items[0]
    try:
        exact = derivatives.hessian_vector(problem.objective, theta, batch, direction)
    except (RuntimeError, NotImplementedError):
        return math.nan
    found = derivatives.hessian_vector_difference(problem.objective, theta, batch, direction)
    scale = exact.norm().item()
    return (found - exact).norm().item() / scale if scale else math.nan


def kept_error(expansion: Expansion) -> float | None:
    """What `difference_error` found when the expansion was made; None where it found nothing, or was not asked."""
    try:
        found = float(expansion.sampled.read_array(0, "difference_error")[0])
    except MissingError:
        return None
    return found if math.isfinite(found) else None


def check_cost(spec: AdjointSpec) -> int:
    """Gradients that the check is counted as: two products of two each."""
    if spec.config.products == "exact":
        return 0
    items = spec.problem.data.items
    return round(4 * small_size(spec.problem) / len(items[0][0])) if alike(items) else 4

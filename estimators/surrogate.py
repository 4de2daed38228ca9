"""A learner of orders from retrained orders alone: the honest surrogate that an estimate has to beat.

Kernel ridge regression (the mean of a Gaussian process; Rasmussen & Williams 2006, sections 2.2 and 5.4.2) on the placements of
items. Two orders are alike where like items stand at near steps:

    k(P, P') = sum over steps s, s' of K_step[s, s'] K_item[P(s), P'(s')],

with K_step falling off with the learning rate that is spent between the steps. With a mean function, as an estimate, it learns
what is left of that. Simulators that are fitted to training runs are of this kind (Guu et al. 2023, arXiv 2303.08114).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .orders.order import Order

Floats = NDArray[np.float64]
LENGTHS = (0.02, 0.1, 0.3, 1.0)
"""Shares of the window's learning rate after which likeness of steps falls to 1/e, of which the best is taken."""
SIGNALS = tuple(10.0 ** np.arange(-3, 3.5, 0.5))
"""Variances of what is learnt by those of noise, of which the best is taken."""
FLAT = 1e4
"""Variance of the constant, by that of the noise."""


def placement_kernels(
    orders: Sequence[Order], rates: Sequence[float], similarities: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Kernels of n orders [n, n], by name: for each similarity of items and each length.

    Args:
        orders: of equal length T.
        rates: learning rates [T].
        similarities: positive semidefinite matrices [items, items] by name.
    """
    rate = np.asarray(rates, dtype=float)
    spent = (np.cumsum(rate) - rate / 2) / rate.sum() if rate.sum() > 0 else np.arange(len(rate)) / len(rate)
    count = len(next(iter(similarities.values())))
    placed = np.zeros((len(orders), len(rate), count))
    for number, order in enumerate(orders):
        for step, entries in enumerate(order.entries):
            total = sum(weight for _, weight in entries) or 1.0
            for item, weight in entries:
                placed[number, step, item] += weight / total
    placed -= placed.mean(0)
    kernels = {}
    for length in LENGTHS:
        near = np.exp(-np.abs(spent[:, None] - spent) / length)
        for name, likeness in similarities.items():
            smooth = np.einsum("st,nti->nsi", near, placed) @ likeness
            kernel = np.einsum("nsi,msi->nm", placed, smooth, optimize=True)
            scale = np.trace(kernel) / len(orders)
            kernels[f"{name}, {length:g}"] = kernel / scale if scale > 0 else kernel
    return kernels


@dataclass(frozen=True)
class Learnt:
    """What is learnt from m of n orders.

    Args:
        values: of all n orders [n], a constant and the mean function included.
        kernel, signal: which were taken, for the least error of each of the m as learnt from the others.
    """

    values: Floats
    kernel: str
    signal: float


def learn(
    kernels: Mapping[str, Floats], truths: Sequence[float], known: Sequence[int], mean: Floats | None = None
) -> Learnt:
    """Kernel ridge regression with the kernel and the noise of least leave-one-out error.

    Args:
        kernels: of n orders [n, n], by name.
        truths: of the orders that are known [m].
        known: their places among the n, at least 3.
        mean: what the truths are expected to be, up to a constant [n]; None for nothing.
    """
    at = np.asarray(known)
    base = np.zeros(len(next(iter(kernels.values())))) if mean is None else np.asarray(mean, dtype=float)
    left = np.asarray(truths, dtype=float) - base[at]
    scale = float(left.std()) or 1.0
    least, best = np.inf, Learnt(base, "", 0.0)
    for name, kernel in kernels.items():
        for signal in SIGNALS:
            inverse = np.linalg.inv(signal * kernel[np.ix_(at, at)] + np.eye(len(at)) + FLAT)
            dual = inverse @ (left / scale)
            errors = dual / np.diag(inverse) * scale
            error = float((errors**2).mean())
            if error < least:
                values = base + scale * (signal * kernel[:, at] @ dual + FLAT * dual.sum())
                least, best = error, Learnt(values, name, float(signal))
    return best

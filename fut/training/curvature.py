"""Estimated diagonals of Hessians, for rules that need the curvature of a step's items."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


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

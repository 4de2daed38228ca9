"""The spread of a read-out over uniformly random orders that were trained, with its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fut.display.numbers import jsonable_fields

LEVEL = 0.9


@dataclass(frozen=True)
class OrderEffect:
    """n >= 2 random orders against the reference order, in the read-out's unit.

    mean, sd: of the values, sd with n - 1 in the denominator. sd_interval: its 90 % interval for normal values. offset:
    mean minus the reference order's value. better: share of the orders whose value is below the reference order's.
    lowest, highest: of the n values.
    """

    count: int
    reference: float
    mean: float
    sd: float
    sd_interval: tuple[float, float]
    offset: float
    better: float
    lowest: float
    highest: float

    def as_dict(self) -> dict[str, Any]:
        return jsonable_fields(asdict(self))


def order_effect(values: ArrayLike, reference: float, level: float = LEVEL) -> OrderEffect:
    """The spread of the values of n random orders; ValueError for fewer than two, or for any that is not finite."""
    from scipy.stats import chi2

    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise ValueError(f"order effect: expected a list of n >= 2 finite values, got {array.shape}")
    count, mean, sd = len(array), float(array.mean()), float(array.std(ddof=1))
    low, high = (sd * float(np.sqrt((count - 1) / chi2.ppf(q, count - 1))) for q in ((1 + level) / 2, (1 - level) / 2))
    return OrderEffect(
        count,
        reference,
        mean,
        sd,
        (low, high),
        mean - reference,
        float((array < reference).mean()),
        float(array.min()),
        float(array.max()),
    )

"""How much does the order matter? The spread of retrained losses over uniformly random orders."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from estimators.orders.order import random_orders
from fut.display.numbers import jsonable_fields
from fut.errors import UsageError
from fut.studies.base import Study, StudyContext

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


@dataclass(frozen=True)
class OrderNoiseRequest:
    """How much the order matters.

    Args:
        orders: random orders to retrain, at least 2.
        seed: of the draw.

    Raises:
        UsageError: for fewer than 2 orders.
    """

    orders: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.orders < 2:
            raise UsageError(
                f"order noise: expected at least 2 orders, got {self.orders}; a spread needs more, 16 is a good number"
            )


def ask(request: OrderNoiseRequest, context: StudyContext) -> OrderEffect:
    """Retrain independent uniformly random orders; their values are kept beside the answer."""
    truths = context.truths
    orders = random_orders(context.reference, request.orders, request.seed)
    with context.progress("retraining", request.orders * len(context.reference)) as tick:
        values = [truths.train(order, tick) for order in orders]
    effect = order_effect(values, truths.reference)
    about = asdict(request) | {"readout": truths.readout}
    context.archive.keep(ORDER_NOISE.name, about, effect, **about, unit=truths.unit, values=values)
    return effect


ORDER_NOISE = Study("order_noise", "the spread of the read-out over random orders", OrderNoiseRequest, ask)
"""The study, for the registry."""

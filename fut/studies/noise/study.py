"""`noise`: how much of the difference between two runs is only the order of their data?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from estimators.orders.order import Order, random_orders
from fut.errors import UsageError
from fut.estimation.order_noise import LocalNoise
from fut.studies.base import Study, StudyContext
from fut.studies.noise.spread import OrderEffect, order_effect


@dataclass(frozen=True)
class NoiseRequest:
    """How much the order matters, measured by retraining and estimated without.

    Args:
        orders: random orders to retrain, at least 2.
        seed: of the draw.
        window: steps at the end of the run, over which orders differ; 0 for all.
        bracket: whether Hessian-vector products are taken too, of what is left of the order without memory.
        readout: what it is about, where a run is asked.

    Raises:
        UsageError: for fewer than 2 orders, or a window below 0 or of one step.
    """

    orders: int = 16
    seed: int = 0
    window: int = 0
    bracket: bool = False
    readout: str = "probe"

    def __post_init__(self) -> None:
        if self.orders < 2:
            raise UsageError(
                f"noise: expected at least 2 orders, got {self.orders}; a spread needs more, 16 is a good number"
            )
        if self.window < 0 or self.window == 1:
            raise UsageError(
                f"noise: expected a window of at least 2 steps, or 0 for all, got {self.window}; correct it"
            )


@dataclass(frozen=True)
class Estimated:
    """A spread over random orders by one way of estimating it, beside the retrained one.

    Args:
        sd: over random orders, in the read-out's unit.
        interval: 90 % interval of `sd` where it is a sample's, for normal values; None for a closed form, which has none.
        ratio: its spread by the retrained one's, over the same orders where it answers single orders.
        spearman: rank correlation with the retrained values, order by order; None where it answers no single order. That two
            spreads agree does not say that orders do.
        trace: sum of the variances of all parameters; None where it is not known.
    """

    sd: float
    interval: tuple[float, float] | None = None
    ratio: float | None = None
    spearman: float | None = None
    trace: float | None = None


@dataclass(frozen=True)
class OrderNoise:
    """The noise of the order of a run.

    Args:
        readout: its name.
        unit: of all values.
        window: steps over which orders differ.
        spread: of the retrained orders.
        estimates: by `closed form`, `replay` and `positions`, as far as they could be had.
        local: what they are made of; None without a run.
        values: of the retrained orders.
    """

    readout: str
    unit: str
    window: int
    spread: OrderEffect
    estimates: dict[str, Estimated]
    local: LocalNoise | None
    values: list[float]

    @property
    def difference(self) -> float:
        """Standard deviation of the difference of two runs in random orders, sqrt(2) times that of one, in the unit."""
        return math.sqrt(2) * self.spread.sd

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "unit": self.unit,
            "steps": self.window,
            "difference_sd": self.difference,
            **self.spread.as_dict(),
            "estimates": {name: asdict(found) for name, found in self.estimates.items()},
            "local": None if self.local is None else self.local.as_dict(),
            "values": self.values,
        }


def ask(request: NoiseRequest, context: StudyContext) -> OrderNoise:
    """Retrain independent random orders, and estimate their spread without; the answer is kept with their values."""
    window, truths = _window(request, context), context.truths
    orders = ending_orders(context.reference, window, request.orders, request.seed)
    with context.progress("retraining", request.orders * len(context.reference)) as tick:
        values = [truths.train(order, tick) for order in orders]
    spread = order_effect(values, truths.reference)
    local = None if context.local is None else context.local(window, orders, request.bracket)
    estimates = {} if local is None else _estimates(local, spread, values)
    found = OrderNoise(truths.readout, truths.unit, window, spread, estimates, local, values)
    about = asdict(request) | {"readout": truths.readout}
    context.archive.keep(NOISE.name, about, found, **about)
    return found


def ending_orders(reference: Order, window: int, count: int, seed: int) -> list[Order]:
    """Random orders that differ from the reference order over its last steps alone; order i depends on (seed, i) alone.

    Args:
        reference: the order of the reference run.
        window: how many steps, the whole order at most.
        count: of orders.
        seed: of the draw; for the whole order these are the orders of that seed elsewhere.
    """
    entries = reference.entries
    first = len(entries) - window
    if not first:
        return random_orders(reference, count, seed)
    drawn = random_orders(Order.of_entries(entries[first:]), count, seed)
    return [Order.of_entries([*entries[:first], *order.entries]) for order in drawn]


def _window(request: NoiseRequest, context: StudyContext) -> int:
    steps = len(context.reference)
    if steps < 2:
        raise UsageError(f"noise: expected a run of at least 2 steps, got {steps}; one batch has one order")
    if request.window > steps:
        raise UsageError(
            f"noise: expected a window of at most {steps} steps, got {request.window}; the run has no more"
        )
    return request.window or steps


def _estimates(local: LocalNoise, spread: OrderEffect, values: Sequence[float]) -> dict[str, Estimated]:
    """Every estimate that could be had, beside the retrained spread."""

    def ratio(sd: float) -> float | None:
        return sd / spread.sd if spread.sd else None

    found = {}
    if local.closed_sd is not None and local.closed_values is not None:
        own, agreed = order_effect(local.closed_values, spread.reference), _agreement(local.closed_values, values)
        found["closed form"] = Estimated(local.closed_sd, None, ratio(own.sd), agreed, local.closed_trace)
    if local.replay_values is not None:
        own, agreed = order_effect(local.replay_values, spread.reference), _agreement(local.replay_values, values)
        found["replay"] = Estimated(own.sd, own.sd_interval, ratio(own.sd), agreed, local.replay_trace)
    if local.position_sd is not None:
        found["positions"] = Estimated(local.position_sd, None, ratio(local.position_sd))
    return found


def _agreement(estimated: Sequence[float] | None, values: Sequence[float]) -> float | None:
    """Rank correlation; None for fewer than three orders, or where all are alike."""
    if estimated is None or len(values) < 3 or np.ptp(estimated) == 0 or np.ptp(values) == 0:
        return None
    return float(spearmanr(estimated, values).statistic)


NOISE = Study(
    "noise",
    "the spread of the read-out over random orders, retrained and estimated",
    NoiseRequest,
    ask,
    aliases=("order_noise",),
)
"""The study, for the registry."""

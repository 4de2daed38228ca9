"""`noise`: how much of the difference between two runs is only the order of their data?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from estimators.orders.order import Order, random_orders
from fut.divergence import divergence_note, require_trained, trained_apart
from fut.errors import UsageError
from fut.estimation.order_noise import LocalNoise
from fut.questions.question import READOUT_HELP, Request, option
from fut.readouts.readout import PROBE
from fut.studies.base import Study, StudyContext
from fut.studies.noise import render
from fut.studies.noise.result import Estimated, OrderNoise
from fut.studies.noise.spread import OrderEffect, order_effect


@dataclass(frozen=True)
class NoiseRequest(Request[OrderNoise]):
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

    orders: int = option(16, help="random orders to retrain")
    seed: int = option(0, help="seed of the orders")
    window: int = option(0, help="steps at the end of the run, over which orders differ; 0 for all")
    bracket: bool = option(False, help="take Hessian-vector products too, of what is left without memory")
    readout: str = option(PROBE, help=READOUT_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.orders < 2:
            raise UsageError(
                f"noise: expected at least 2 orders, got {self.orders}; a spread needs more, 16 is a good number"
            )
        if self.window < 0 or self.window == 1:
            raise UsageError(
                f"noise: expected a window of at least 2 steps, or 0 for all, got {self.window}; correct it"
            )


def ask(request: NoiseRequest, context: StudyContext) -> OrderNoise:
    """Retrain independent random orders, and estimate their spread without; the answer is kept with their values."""
    window, truths = _window(request, context), context.truths
    orders = ending_orders(context.reference, window, request.orders, request.seed)
    with context.progress("retraining", request.orders * len(context.reference)) as tick:
        truths.ahead(orders, tick)
        trained, diverged = trained_apart(orders, lambda order: truths.train(order, tick))
    require_trained("noise", len(trained), diverged)
    orders = [order for order in orders if order in trained]
    values = [trained[order] for order in orders]
    note = divergence_note(len(orders), diverged) if diverged else ""
    spread = order_effect(values, truths.reference)
    local = None if context.local is None else context.local(window, orders, request.bracket)
    estimates = {} if local is None else _estimates(local, spread, values)
    found = OrderNoise(truths.readout, truths.unit, window, spread, estimates, local, values, note)
    about = request.as_dict() | {"readout": truths.readout}
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
    from scipy.stats import spearmanr

    if estimated is None or len(values) < 3 or np.ptp(estimated) == 0 or np.ptp(values) == 0:
        return None

    return float(spearmanr(estimated, values).statistic)


def _costs(request: NoiseRequest, context: StudyContext) -> Sequence[str]:
    steps, count = len(context.reference), request.orders
    return [f"retraining at most {count} orders of {steps} steps, {count * context.consumed} gradients"]


NOISE = Study(
    "noise",
    "How much of the difference between two runs is only the order: its spread, retrained and estimated without.",
    NoiseRequest,
    ask,
    aliases=("order_noise",),
    text=render.text,
    costs=_costs,
    draw=render.draw,
    picture=lambda answer, request: "answers/noise.png",
    picture_help="PNG of weights by position and of the spreads; default: answers/noise.png in the run",
    command=False,
    retrains=True,
)
"""The study, for the registry."""

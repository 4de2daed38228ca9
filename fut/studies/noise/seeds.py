"""`noise seeds`: how many runs does a comparison need, if each is in a random order?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from scipy.special import ndtri

from estimators.noise.seed_budget import SeedBudget, seed_budget
from fut.display.format import amount
from fut.errors import UsageError
from fut.studies.base import StudyContext
from fut.studies.noise.spread import LEVEL, order_effect
from fut.studies.noise.study import ending_orders

LEAST = 4
"""Orders from which a correlation with an interval is taken."""
SEEDS = "seeds"
"""The kind under which a budget is kept in a run."""
LEAST_CHANCE = 1e-3
"""Probabilities below it rest on the tail of a law that nobody has checked."""


@dataclass(frozen=True)
class SeedsRequest:
    """How many runs a comparison needs.

    Args:
        delta: the difference that is to be found, in the read-out's unit.
        paired: whether the arms share their orders too.
        sd: standard deviation over orders, where it is known; None to measure it on a run.
        rho: correlation of the arms over shared orders, where it is known; None to measure it on two runs.
        orders: random orders to retrain where something is measured, at least 4.
        seed: of the draw.
        power: that is asked.

    Raises:
        UsageError: for numbers out of range.
    """

    delta: float
    paired: bool = False
    sd: float | None = None
    rho: float | None = None
    orders: int = 16
    seed: int = 0
    power: float = 0.8

    def __post_init__(self) -> None:
        bounds = {
            "--delta": (self.delta, math.isfinite(self.delta) and self.delta != 0, "a difference other than 0"),
            "--sd": (self.sd, self.sd is None or 0 < self.sd < math.inf, "a standard deviation > 0"),
            "--rho": (self.rho, self.rho is None or -1 <= self.rho <= 1, "a correlation from -1 to 1"),
            "--orders": (self.orders, self.orders >= LEAST, f"at least {LEAST} orders"),
            "--power": (self.power, 0 < self.power < 1, "a probability between 0 and 1"),
        }
        for name, (value, fits, expected) in bounds.items():
            if not fits:
                raise UsageError(f"noise seeds: {name}: expected {expected}, got {value}; correct it")


@dataclass(frozen=True)
class Seeds:
    """A seed budget, and what it rests on.

    Args:
        delta: the difference that is to be found [unit].
        unit: of the read-out.
        sd: of one run over orders [unit].
        sd_interval: 90 % interval of it; None for a given one.
        orders: that it was measured on; 0 for a given one.
        alone: the budget of two arms in orders of their own.
        alone_range: its runs at both ends of the interval of `sd`.
        paired: the budget of arms that share their orders; None where it was not asked for.
        rho: correlation of the arms over shared orders.
        rho_interval: 90 % interval of it; None for a given one.
        paired_range: runs of the paired budget at both ends of the interval of `rho`.
        power: that was asked.
    """

    delta: float
    unit: str
    sd: float
    sd_interval: tuple[float, float] | None
    orders: int
    alone: SeedBudget
    alone_range: tuple[int | None, int | None] | None
    paired: SeedBudget | None
    rho: float | None
    rho_interval: tuple[float, float] | None
    paired_range: tuple[int | None, int | None] | None
    power: float

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Seeds:
        """From `as_dict`."""
        budgets = {name: content[name] and SeedBudget(**content[name]) for name in ("alone", "paired")}
        return cls(**{f.name: content[f.name] for f in fields(cls)} | budgets)


def ask(request: SeedsRequest, run: StudyContext | None = None, against: StudyContext | None = None) -> Seeds:
    """The budget; orders are retrained where the noise, or the correlation, is to be measured. Of a run, it is kept there.

    Args:
        request: what is asked.
        run: of which the noise is measured; None where `sd` is given.
        against: the other arm, of which the correlation is measured; None where `rho` is given.

    Raises:
        UsageError: where something is neither given nor can be measured, or the runs do not have the same orders.
    """
    _require_sources(request, run, against)
    values = [] if request.sd is not None or run is None else _values(request, run)
    sd, sd_interval = _noise(request, values)
    alone = seed_budget(request.delta, sd, power=request.power)
    around = None if sd_interval is None else _range(request, [(end, 0.0) for end in sd_interval], False)
    rho, rho_interval, paired, paired_range = None, None, None, None
    if request.paired:
        rho, rho_interval = _correlation(request, run, against, values)
        paired = seed_budget(request.delta, sd, rho, paired=True, power=request.power)
        ends = None if rho_interval is None else [(sd, end) for end in reversed(rho_interval)]
        paired_range = None if ends is None else _range(request, ends, True)
    unit = "" if run is None else run.truths.unit
    budgets = alone, around, paired, rho, rho_interval, paired_range
    found = Seeds(request.delta, unit, sd, sd_interval, len(values), *budgets, request.power)
    if run is not None:
        run.archive.keep(SEEDS, asdict(request) | {"readout": run.truths.readout}, found)
    return found


def _noise(request: SeedsRequest, values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    if request.sd is not None:
        return request.sd, None
    spread = order_effect(values, 0.0)
    if not spread.sd:
        raise UsageError("noise seeds: expected orders that differ, got one value for all of them; one run is enough")
    return spread.sd, spread.sd_interval


def _require_sources(request: SeedsRequest, run: StudyContext | None, against: StudyContext | None) -> None:
    """UsageError, before anything is trained, where a number is neither given nor can be measured."""
    if request.sd is None and run is None:
        raise UsageError("noise seeds: expected a run to measure the noise on, or --sd, got neither; give one of them")
    if not request.paired or request.rho is not None:
        return
    if run is None or against is None:
        raise UsageError(
            "noise seeds: expected --rho, or two runs to measure it on, for a paired comparison, got neither; give the run and "
            "--against RUN, trained on the same items with what is compared changed"
        )
    if run.reference != against.reference:
        raise UsageError(
            f"noise seeds: expected two runs of the same steps and items, got {len(run.reference)} and "
            f"{len(against.reference)} steps; train the second on the first one's data"
        )


def _values(request: SeedsRequest, run: StudyContext) -> list[float]:
    orders = ending_orders(run.reference, len(run.reference), request.orders, request.seed)
    with run.progress("retraining", request.orders * len(run.reference)) as tick:
        return [run.truths.train(order, tick) for order in orders]


def _correlation(
    request: SeedsRequest, run: StudyContext | None, against: StudyContext | None, values: Sequence[float]
) -> tuple[float, tuple[float, float] | None]:
    """Given, or measured on the same orders of both runs; its interval by Fisher's transformation."""
    if request.rho is not None or run is None or against is None:
        return request.rho or 0.0, None
    values = values or _values(request, run)
    rho = float(np.corrcoef(values, _values(request, against))[0, 1])
    if not math.isfinite(rho):
        raise UsageError(
            "noise seeds: expected orders that differ in both runs, got one value for all; one run is enough"
        )
    half = float(ndtri(0.5 + LEVEL / 2)) / math.sqrt(len(values) - 3)
    centre = math.atanh(max(-1 + 1e-15, min(1 - 1e-15, rho)))
    return rho, (math.tanh(centre - half), math.tanh(centre + half))


def _range(request: SeedsRequest, ends: Sequence[tuple[float, float]], paired: bool) -> tuple[int | None, int | None]:
    low, high = (seed_budget(request.delta, sd, rho, paired, request.power).runs for sd, rho in ends)
    return low, high


def text(found: Seeds) -> str:
    """For people: what the order does to a difference, then the runs that are needed."""
    unit, gap = found.unit, abs(found.delta)
    between = math.sqrt(2) * found.sd
    lines = [
        f"Two runs that differ in nothing but a random order differ by {amount(between, unit, '.2g')} (standard deviation; "
        f"one in ten by more than {amount(1.645 * between, unit, '.2g')}).",
    ]
    runs, span = _runs(found.alone), _span(found.alone_range)
    said = f"A gap of {amount(gap, unit, 'g')} needs {runs} a side{span}"
    if found.paired is not None:
        said += f", or {_runs(found.paired, bare=True)} paired by order{_span(found.paired_range)}"
    lines.append(f"{said}, to be found with probability {found.power:g} at the 5 % level.")
    flips = f"One run a side has the wrong sign with probability {_chance(found.alone.flip)}"
    lines.append(
        flips + ("." if found.paired is None else f"; one pair in a shared order, {_chance(found.paired.flip)}.")
    )
    source = f"measured on {found.orders} retrained orders" if found.orders else "as given"
    interval = "" if found.sd_interval is None else f", 90 % interval {_between(found.sd_interval, '.2g')}"
    lines.append(f"Standard deviation over orders: {amount(found.sd, unit, '.2g')} ({source}{interval}).")
    if found.rho is not None:
        interval = (
            " as given" if found.rho_interval is None else f", 90 % interval {_between(found.rho_interval, '.3f')}"
        )
        lines.append(f"Correlation of the two sides over shared orders: {found.rho:.3f}{interval}.")
    lines.append("Other sources of noise, such as another start, add to this and are not in it.")
    return "\n".join(lines)


def _chance(value: float) -> str:
    return f"{value:.2g}" if value >= LEAST_CHANCE else f"below {LEAST_CHANCE:g}"


def _runs(budget: SeedBudget, bare: bool = False) -> str:
    if budget.runs is None:
        return "more than 100,000" + ("" if bare else " runs")
    return f"{budget.runs}" if bare else f"{budget.runs} runs"


def _span(ends: tuple[int | None, int | None] | None) -> str:
    if ends is None or ends[0] == ends[1]:
        return ""
    low, high = (f"{end}" if end is not None else "more than 100,000" for end in ends)
    return f" ({low} to {high})"


def _between(ends: tuple[float, float], form: str) -> str:
    return f"{ends[0]:{form}} to {ends[1]:{form}}"

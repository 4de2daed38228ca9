"""The noise of the order: its measured spread beside closed forms, weights of steps, and how many runs a comparison needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from estimators.noise.seed_budget import SeedBudget, seed_budget
from fut.display.format import amount, number
from fut.display.scale import minus, power_of_ten
from fut.report.charts.curves import Curve, curve
from fut.report.charts.logarithmic import Frame, Line, lines
from fut.report.charts.spreads import Spread, spreads
from fut.report.charts.svg import Chart
from fut.report.entries import Missing, command
from fut.report.section import RunRecord, Section, answered
from fut.studies.noise.render import NAMES, warnings
from fut.studies.noise.result import OrderNoise
from fut.studies.noise.seeds import Seeds
from fut.studies.noise.slopes import Slopes

QUESTION, ORDERS = "How much of a difference is only the order?", "--orders 16"
GAPS = (3.0, 2.5, 2.0, 1.5, 1.25, 1.0, 0.75, 0.5)
"""Differences of which the number of runs is drawn, in standard deviations of one run over orders."""
TABLED = (2.0, 1.0, 0.5)
RHO = 0.9
"""A correlation of two sides over shared orders, for an example of what pairing saves."""


@dataclass(frozen=True)
class NoiseShown:
    """One answer.

    Args:
        answer: as it was kept.
        window: steps over which its orders differ, in words.
        pair: standard deviation of the difference of two runs, with its interval, in words.
        ten: what one pair in ten differs by more than.
        spreads: measured beside estimated ones.
        header: of the table of the same.
        rows: its rows.
        weights: what a chart is of, and weights of steps by it; one for each group of tensors.
        error_bar: of the closed form, in words; empty for none.
        budget: runs by the gap that they find; None where orders do not differ.
        needs: rows of the same as a table.
        warnings: of estimates that are not to be trusted.
        notes: what could not be had.
    """

    answer: OrderNoise
    window: str
    pair: str
    ten: str
    spreads: Chart
    header: list[str]
    rows: list[list[str]]
    weights: list[tuple[str, Chart]]
    error_bar: str
    budget: Chart | None
    needs: list[list[str]]
    warnings: list[str]
    notes: list[str]


@dataclass(frozen=True)
class AllNoise:
    """All answers, those of most orders first, budgets that were asked for as table rows, and exponents with their charts."""

    answers: list[NoiseShown]
    asked: list[list[str]]
    slopes: list[tuple[str, Chart]]


def gather(record: RunRecord) -> AllNoise | Missing:
    """The answers, and every seed budget that was asked for."""
    found = record.read("noise", lambda content: shown(OrderNoise.from_dict(content)))
    asked = record.read("seeds", lambda content: _asked(Seeds.from_dict(content)))
    slopes = record.read("slopes", lambda content: _slopes(Slopes.from_dict(content)))
    if not found and not slopes:
        return Missing("the noise of the order has not been measured", command(record.run.path, "noise", ORDERS))
    return AllNoise(sorted(found, key=lambda one: -one.answer.spread.count), asked, slopes)


def shown(answer: OrderNoise) -> NoiseShown:
    """What the page shows of an answer."""
    unit, local = answer.unit, answer.local
    low, high = (math.sqrt(2) * end for end in answer.spread.sd_interval)
    ends = f"{amount(low, '', '.2g')} to {amount(high, '', '.2g')}"
    return NoiseShown(
        answer,
        "all steps" if local is None or not local.first else f"the last {answer.window} steps",
        f"{amount(answer.difference, unit, '.2g')} (standard deviation, 90 % interval {ends})",
        amount(1.645 * answer.difference, unit, ".2g"),
        _spreads(answer),
        ["by", "sd of one run", "by the retrained", "Spearman"],
        _rows(answer),
        _weights(answer),
        _error_bar(answer),
        _budget(answer) if answer.spread.sd else None,
        [_need(gap * answer.spread.sd, answer.spread.sd, unit) for gap in TABLED] if answer.spread.sd else [],
        warnings(answer),
        [] if local is None else local.notes,
    )


def _spreads(answer: OrderNoise) -> Chart:
    known = Spread(f"retrained, {answer.spread.count} orders", answer.spread.sd, answer.spread.sd_interval, "found")
    rows = [known, *(Spread(NAMES[name], own.sd, own.interval) for name, own in answer.estimates.items())]
    return spreads(rows, answer.unit, "sd of one run over orders", "spreads over random orders, measured and estimated")


def _rows(answer: OrderNoise) -> list[list[str]]:
    rows = [["retrained", amount(answer.spread.sd, "", ".3g"), "1", "1"]]
    for name, own in answer.estimates.items():
        cells = amount(own.sd, "", ".3g"), number(own.ratio, ".2f"), number(own.spearman, ".2f")
        rows.append([NAMES[name], *map(minus, cells)])
    return rows


def _weights(answer: OrderNoise) -> list[tuple[str, Chart]]:
    local = answer.local
    if local is None:
        return []
    drawn = []
    for part in local.weights:
        steps = range(local.first, local.first + len(part.weights))
        title = f"{part.parameters:,} parameters, {100 * part.share:.0f} % of the variance"
        drawn.append((title, curve(Curve(steps, part.weights, "", "step", "weight"))))
    return drawn


def _error_bar(answer: OrderNoise) -> str:
    local = answer.local
    if local is None or local.error_bar is None:
        return ""
    low, high = (minus(amount(end, answer.unit, "+.2g")) for end in local.error_bar)
    return f"By closed form, 90 % of orders lie from {low} to {high} around their mean."


def _budget(answer: OrderNoise) -> Chart:
    """Runs a side by the gap, in orders of their own and paired at a correlation."""
    sd = answer.spread.sd

    def runs(rho: float, paired: bool) -> list[float]:
        budgets = [seed_budget(gap, 1.0, rho, paired) for gap in GAPS]
        return [math.nan if budget.runs is None else float(budget.runs) for budget in budgets]

    def said(name: str, place: float, value: float) -> str:
        gap = GAPS[int(place)]
        return f"gap {amount(gap * sd, answer.unit, '.2g')} ({gap:g} sd)\n{value:.0f} runs a side, {name}"

    ticks = [(place, f"{gap:g}") for place, gap in enumerate(GAPS) if gap in (3.0, 2.0, 1.5, 1.0, 0.75, 0.5)]
    places = range(len(GAPS))
    of = [Line("unpaired", places, runs(0.0, False)), Line("paired", places, runs(RHO, True))]
    frame = Frame("runs a side by the gap that they find", "gap [sd of one run]", "runs a side", 1.0, said, (), ticks)
    return lines(of, frame)


def _slopes(answer: Slopes) -> tuple[str, Chart]:
    """Exponents in words, and the variance by learning rate where it is far above that of rounding."""
    words = ", ".join(f"{name} {number(slope.small, '.2f')}" for name, slope in answer.slopes.items())
    of = [
        Line(
            name.replace("_clock_matched", " (clock)"),
            range(len(s.rates)),
            [v if r else math.nan for v, r in zip(s.variances, s.resolved, strict=True)],
        )
        for name, s in answer.slopes.items()
    ]
    rates = next(iter(answer.slopes.values())).rates
    ticks = [(place, power_of_ten(round(math.log10(rate)))) for place, rate in enumerate(rates) if not place % 4]

    def said(name: str, place: float, value: float) -> str:
        return f"{name}, rate {rates[int(place)]:.2g}\nvariance {value:.3g}"

    lowest = min((v for one in of for v in one.values()), default=1.0)
    frame = Frame("variance over orders by learning rate", "learning rate", "variance", lowest, said, (), ticks)
    return f"{answer.model}, {answer.steps} steps, {answer.permutations} orders: {words}", lines(of, frame)


def _need(delta: float, sd: float, unit: str) -> list[str]:
    alone, paired = seed_budget(delta, sd), seed_budget(delta, sd, RHO, paired=True)
    return [f"{amount(delta, unit, '.2g')} ({delta / sd:g} sd)", _runs(alone), _runs(paired), f"{alone.flip:.2f}"]


def _asked(found: Seeds) -> list[str]:
    paired = "–" if found.paired is None else f"{_runs(found.paired)} (ρ = {found.rho:.3f})"
    return [amount(abs(found.delta), found.unit, "g"), _runs(found.alone), paired, f"{found.alone.flip:.2g}"]


def _runs(budget: SeedBudget) -> str:
    return "more than 100,000" if budget.runs is None else str(budget.runs)


SECTION = Section(
    "noise",
    "Order noise",
    "noise.html.j2",
    gather,
    (answered(QUESTION, "noise", "noise", ORDERS),),
    heading=QUESTION,
)

"""Update rules compared, paired by order: every difference beside the noise of the order."""

from __future__ import annotations

from dataclasses import dataclass

from fut.display.format import amount, number
from fut.display.scale import labelled, minus
from fut.report.charts.paired import Pairs, pairs
from fut.report.charts.svg import Chart
from fut.report.entries import Missing, command
from fut.report.section import RunRecord, Section, answered
from fut.studies.compare.render import SAID
from fut.studies.compare.result import Compared, Difference

QUESTION, OPTIONS = "Is another update rule better?", "--rule own --rule lion --seeds 6"
MOST = 24
"""Differences that are drawn at most."""


@dataclass(frozen=True)
class RulesShown:
    """One answer.

    Args:
        answer: as it was kept.
        arms: rows of the rules: label, rate, mean and standard deviation over orders.
        header: of these.
        panels: arm and baseline, verdict, and a dot an order.
        rows: of the differences.
        columns: of these.
    """

    answer: Compared
    arms: list[list[str]]
    header: list[str]
    panels: list[tuple[str, str, Chart]]
    rows: list[list[str]]
    columns: list[str]


def gather(record: RunRecord) -> list[RulesShown] | Missing:
    """The answers, by file name."""
    found = record.read("compare", lambda content: shown(Compared.from_dict(content)))
    return found or Missing("no other update rule has been compared", command(record.run.path, "compare", OPTIONS))


def shown(answer: Compared) -> RulesShown:
    """What the page shows of an answer."""
    unit = answer.unit
    return RulesShown(
        answer,
        [_arm(arm.label, arm.rate, [v for v in arm.values if v is not None], arm.sd) for arm in answer.arms],
        ["rule", "rate", labelled("mean", unit), "sd over orders"],
        [_panel(one, unit) for one in answer.differences[:MOST]],
        [_row(one) for one in answer.differences],
        ["rule − baseline", labelled("difference", unit), "95 % interval", "order noise", "p, sign flips", "it is"],
    )


def _arm(label: str, rate: float, values: list[float], sd: float | None) -> list[str]:
    mean = minus(amount(sum(values) / len(values), "")) if values else "diverges"
    return [label, f"{rate:.2g}", mean, number(sd, ".2g")]


def _panel(one: Difference, unit: str) -> tuple[str, str, Chart]:
    of = one.effect
    drawn = pairs(Pairs(one.differences, of.mean, of.interval, unit, "Δ", "order", one.noise))
    return _named(one), SAID[one.verdict], drawn


def _row(one: Difference) -> list[str]:
    of = one.effect
    ends = "none" if of.interval is None else minus(f"{of.interval[0]:+.2g} … {of.interval[1]:+.2g}")
    noise = "–" if one.noise is None else f"± {one.noise:.2g}"
    return [_named(one), minus(f"{of.mean:+.2g}"), ends, noise, number(of.p_value, ".3f"), SAID[one.verdict]]


def _named(one: Difference) -> str:
    return f"{one.arm} − {one.against}"


SECTION = Section(
    "compare",
    "Update rules",
    "compare.html.j2",
    gather,
    (answered(QUESTION, "compare", "compare", OPTIONS),),
    heading="Is another update rule better by more than the order gives?",
)

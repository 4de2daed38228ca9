"""Answers about domains, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fut.display.format import amount, number
from fut.display.scale import minus
from fut.questions.domains.result import Difference, Domains, Entry, Placement
from fut.report.charts.curves import Curve, Row, curve, ranked
from fut.report.charts.svg import Chart
from fut.report.entries import Missing, command
from fut.report.section import RunRecord, Section, answered
from fut.report.words import bare, difference

MOST, PLACEMENTS = 12, 12
"""Domain orders drawn at most, the lowest and the highest, and placements."""


@dataclass(frozen=True)
class DomainOrders:
    """One answer.

    Args:
        answer: as it was kept.
        headline: the orders of least and of greatest value.
        orders: a chart of some of them; None for none.
        shown: orders drawn.
        placements: name, what late does against early, and drawing.
        checked: how the estimates fared, in words.
        truths: whether any of the orders shown was retrained.
    """

    answer: Domains
    headline: str
    orders: Chart | None
    shown: int
    placements: list[tuple[str, str, Chart]]
    checked: str
    truths: bool


def gather(record: RunRecord) -> list[DomainOrders] | Missing:
    """The answers, by file name."""
    shown = record.read("domains", lambda content: domain_orders(Domains.from_dict(content)))
    return shown or Missing("no order of domains has been asked about", command(record.run.path, "domains", LABELS))


def domain_orders(answer: Domains) -> DomainOrders:
    """What the page shows of an answer."""
    unit, reference = answer.unit, answer.reference_loss
    orders = sorted(answer.orders, key=lambda entry: entry.delta)
    half = MOST // 2
    kept = orders if len(orders) <= MOST else [*orders[:half], *orders[-half:]]
    rows = [_row(entry, reference) for entry in kept]
    return DomainOrders(
        answer,
        _headline(orders, unit),
        ranked(rows, unit, "orders of whole domains against the reference order") if rows else None,
        len(kept),
        [_placement(placed, reference, unit) for placed in answer.placements[:PLACEMENTS]],
        _checked(answer.checked, unit),
        any(entry.truth is not None for entry in kept),
    )


def _row(entry: Entry, reference: float) -> Row:
    ends = None if entry.interval is None else (entry.interval[0] - reference, entry.interval[1] - reference)
    truth = None if entry.truth is None else entry.truth - reference
    return Row(_arrows(entry.name), entry.delta, ends, truth)


def _arrows(name: str) -> str:
    return name.replace(">", " → ")


def _headline(orders: Sequence[Entry], unit: str) -> str:
    """The lowest and the highest of orders that are sorted."""

    def said(entry: Entry) -> str:
        known = "" if entry.truth is None else ", retrained as well"
        return f"{_arrows(entry.name)} ({difference(entry.delta, unit)} against the reference order{known})"

    if not orders:
        return "No order of the domains was asked for."
    if len(orders) == 1:
        return f"Estimated for {said(orders[0])}."
    return f"Least is estimated for {said(orders[0])}, most for {said(orders[-1])}."


def _placement(placed: Placement, reference: float, unit: str) -> tuple[str, str, Chart]:
    """Name, words and drawing of a domain or an item at several places."""
    truths = [None if entry.truth is None else entry.truth - reference for entry in placed.answers]
    intervals = [entry.interval for entry in placed.answers if entry.interval is not None]
    band = None
    if len(intervals) == len(placed.answers):
        band = [low - reference for low, _ in intervals], [high - reference for _, high in intervals]
    item = placed.kind == "item"
    label = "step" if item else "items of others before it"
    deltas = [entry.delta for entry in placed.answers]
    drawn = curve(Curve(placed.places, deltas, unit, label, "change", band, truths))
    name = f"item {placed.name.removeprefix('item ')}" if item else placed.name
    return name, _late(placed.late_minus_early, unit), drawn


def _late(late: Difference, unit: str) -> str:
    """What the last place does against the first, in words."""
    said = f"late minus early {difference(late.delta, unit)}"
    if late.interval is not None:
        said += f" (90 % interval {' … '.join(bare(end, unit) for end in late.interval)})"
    if late.truth is not None:
        said += f", retrained {difference(late.truth, unit)}"
    return said


def _checked(checked: Mapping[str, Any] | None, unit: str) -> str:
    """How the estimates fared against retraining, in words."""
    if not checked:
        return ""
    measured = checked["measures"]
    return (
        f"{checked['count']} of these orders were retrained: the estimates rank them with Spearman "
        f"{minus(number(measured['spearman'], '.3f'))} and are off by {amount(measured['mae'], unit, '.2g')} on average "
        f"(skill {minus(number(measured['skill'], '+.2f'))}, positive is better)."
    )


LABELS = "--labels loss:3"
SECTION = Section(
    "domains",
    "Which domain first?",
    "domains.html.j2",
    gather,
    (answered("Which domain first?", "domains", "domains", LABELS),),
)

"""Answers about domains, as the page shows them; read from what `fut domains` keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fut.display.format import amount, number
from fut.report.charts.curves import Row, curve, ranked
from fut.report.charts.svg import Chart, minus

MOST, PLACEMENTS = 12, 12
"""Domain orders drawn at most, the lowest and the highest, and placements."""


@dataclass(frozen=True)
class DomainOrders:
    """One answer. labels: every domain with the number of its items. headline: the order of least value.

    orders: their chart, `shown` of `count`; truths: whether any of those shown was retrained. placements: name, what late does
    against early, and drawing. checked: how the estimates fared, in words.
    """

    estimator: str
    readout: str
    labels: list[tuple[str, int]]
    headline: str
    orders: Chart | None
    shown: int
    count: int
    placements: list[tuple[str, str, Chart]]
    checked: str
    note: str
    truths: bool


def domain_orders(found: Mapping[str, Any]) -> DomainOrders:
    """From an answer's JSON; KeyError where it lacks a field."""
    unit, reference = found["unit"], found["reference_loss"]
    orders = sorted(found["orders"], key=lambda o: o["delta"])
    half = MOST // 2
    kept = orders if len(orders) <= MOST else [*orders[:half], *orders[-half:]]
    rows = [_row(o, reference) for o in kept]
    placed = [_placement(p, reference, unit) for p in found["placements"][:PLACEMENTS]]
    return DomainOrders(
        found["estimator"],
        found["readout"],
        [(label, len(items)) for label, items in found["labels"].items()],
        _headline(orders, unit) if orders else "No order of the domains was asked for.",
        ranked(rows, unit, "orders of whole domains against the reference order") if rows else None,
        len(kept),
        len(orders),
        placed,
        _checked(found.get("checked"), unit),
        str(found["note"]),
        any(o.get("truth") is not None for o in kept),
    )


def _row(order: Mapping[str, Any], reference: float) -> Row:
    interval = order["interval"]
    ends = None if interval is None else (interval[0] - reference, interval[1] - reference)
    truth = order.get("truth")
    return Row(order["name"].replace(">", " → "), order["delta"], ends, None if truth is None else truth - reference)


def _headline(orders: list[Any], unit: str) -> str:
    low, high = orders[0], orders[-1]

    def said(order: Mapping[str, Any]) -> str:
        known = "" if order.get("truth") is None else ", really retrained as well"
        change = minus(amount(order["delta"], unit, "+.5f"))
        return f"{order['name'].replace('>', ' → ')} ({change} against the reference order{known})"

    if len(orders) == 1:
        return f"Estimated for {said(low)}."
    return f"Least is estimated for {said(low)}, most for {said(high)}."


def _placement(placement: Mapping[str, Any], reference: float, unit: str) -> tuple[str, str, Chart]:
    answers, late = placement["answers"], placement["late_minus_early"]
    truths = [None if a.get("truth") is None else a["truth"] - reference for a in answers]
    intervals = [a["interval"] for a in answers]
    band = None
    if all(intervals):
        band = ([i[0] - reference for i in intervals], [i[1] - reference for i in intervals])
    item = placement["kind"] == "item"
    x_label = "step" if item else "items of others before it"
    drawn = curve(placement["places"], [a["delta"] for a in answers], unit, x_label, "change", band, truths)
    said = f"late minus early {minus(amount(late['delta'], unit, '+.5f'))}"
    if late["interval"] is not None:
        low, high = (minus(amount(v, unit, "+.5f").removesuffix(unit).rstrip()) for v in late["interval"])
        said += f" (90 % interval {low} … {high})"
    if late.get("truth") is not None:
        said += f", really {minus(amount(late['truth'], unit, '+.5f'))}"
    return f"item {placement['name'].removeprefix('item ')}" if item else placement["name"], said, drawn


def _checked(checked: Mapping[str, Any] | None, unit: str) -> str:
    if not checked:
        return ""
    measured = checked["measures"]
    return (
        f"{checked['count']} of these orders were really retrained: the estimates rank them with Spearman "
        f"{minus(number(measured['spearman'], '.3f'))} and are off by {amount(measured['mae'], unit, '.2g')} on average "
        f"(skill {minus(number(measured['skill'], '+.2f'))})."
    )

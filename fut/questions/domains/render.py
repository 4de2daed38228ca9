"""Domain orders and placements as text and pictures for people."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from fut.display.format import columns, interval, number
from fut.display.notebook import COLOURS, GREY, MARKERS, labelled
from fut.display.picture import save
from fut.estimation.ranking import best, ranked
from fut.questions.domains.result import Domains, Entry, Placement

SHOWN = 12


def domains(answer: Domains) -> str:
    """Domain orders from the best estimate to the worst, then early against late for every domain and item."""
    unit = answer.unit or "the unit of the read-out"
    sizes = ", ".join(f"{label} ({len(items)})" for label, items in answer.labels.items())
    by_value = [answer.orders[place] for place in ranked([entry.value for entry in answer.orders])]
    half = SHOWN // 2
    shown = by_value if len(by_value) <= SHOWN else [*by_value[:half], *by_value[-half:]]
    rows = [["domain order", "value", "delta", "90 % interval", "retrained"], *map(_row, shown)]
    lines = [
        f"domains and their items: {sizes}; {answer.readout} by {answer.estimator}, {unit}; reference order "
        f"{answer.reference_loss:.5f}, delta against it (negative is better)",
        "",
        columns(rows),
    ]
    if len(shown) < len(by_value):
        lines.append(f"the best {half} and the worst {half} of {len(by_value)}")
    header = ["late minus early", "delta", "90 % interval", "retrained", "best at"]
    lines += ["", columns([header, *map(_placement, answer.placements)]), "", answer.note]
    return "\n".join([*lines, *_checked(answer)])


def _row(entry: Entry) -> list[str]:
    return [
        entry.name,
        f"{entry.value:.5f}",
        f"{entry.delta:+.5f}",
        _bounds(entry.interval),
        number(entry.truth, ".5f"),
    ]


def _placement(placed: Placement) -> list[str]:
    difference = placed.late_minus_early
    at = placed.places[best([answer.value for answer in placed.answers])]
    where = f"step {at}" if placed.kind == "item" else f"after {at} others"
    return [
        placed.name,
        f"{difference.delta:+.5f}",
        _bounds(difference.interval, "+.5f"),
        number(difference.truth, "+.5f"),
        where,
    ]


def _bounds(bounds: tuple[float, float] | None, form: str = ".5f") -> str:
    return "–" if bounds is None else f"[{bounds[0]:{form}}, {bounds[1]:{form}}]"


def _checked(answer: Domains) -> list[str]:
    if answer.checked is None:
        return []
    m = answer.checked["measures"]
    return [
        f"against {answer.checked['count']} of these orders retrained: Spearman {number(m['spearman'])} "
        f"{interval(m['spearman_interval'])}, skill {number(m['skill'], '+.2f')}, coverage {number(m['coverage'], '.2f')}"
    ]


def picture(answer: Domains, path: Path) -> Path:
    """Domain orders with their intervals, and the loss by place of every domain and item; written as PNG."""
    from matplotlib.figure import Figure

    items = [p for p in answer.placements if p.kind == "item"]
    figure = Figure(
        figsize=(11.5 if items else 8.5, max(3.2, 0.24 * len(answer.orders) + 1.4)), dpi=130, layout="constrained"
    )
    axes = figure.subplots(1, 3 if items else 2, squeeze=False)[0]
    answer.draw(axes[0])
    axes[0].xaxis.label.set_size(8)
    axes[0].tick_params(labelsize=7)
    _curves(axes[1], [p for p in answer.placements if p.kind == "domain"], answer, "items of other domains before it")
    if items:
        _curves(axes[2], items, answer, "step")
    return save(figure, path)


def _against(answer: Domains, value: float | None) -> float:
    return math.nan if value is None else value - answer.reference_loss


def _curves(axis: Any, placed: list[Placement], answer: Domains, label: str) -> None:
    for k, of in enumerate(placed):
        values = [_against(answer, a.value) for a in of.answers]
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        axis.plot(of.places, values, color=colour, marker=marker, markersize=3.5, linewidth=1.2, label=of.name)
        bounds = [a.interval for a in of.answers]
        if None not in bounds:
            low, high = np.array([[_against(answer, v) for v in b] for b in bounds if b is not None]).T
            axis.fill_between(of.places, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.plot(of.places, [_against(answer, a.truth) for a in of.answers], "x", color=colour, markersize=6)
    axis.axhline(0, color=GREY, linewidth=1, linestyle="--")
    axis.set_xlabel(label, fontsize=8)
    axis.set_ylabel(labelled(f"{answer.readout} − reference", answer.unit), fontsize=8)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=6.5, frameon=False)

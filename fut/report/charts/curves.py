"""Lines, bars and ranked rows: small charts that several sections share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fut.display.format import amount
from fut.display.scale import Scale, labelled, minus
from fut.report.charts.svg import Axis, Bar, Chart, Dot, NumberLine, Shapes, Tick, Words, line, wide


@dataclass(frozen=True)
class Curve:
    """A line through values against whole numbers; what is not finite is left out.

    Args:
        xs: whole numbers.
        ys: values.
        unit: of the values.
        x_label: what xs count.
        y_label: what ys are.
        band: low and high values around the line.
        truths: true values, as rings; None where they are not known.
    """

    xs: Sequence[float]
    ys: Sequence[float]
    unit: str
    x_label: str
    y_label: str
    band: tuple[Sequence[float], Sequence[float]] | None = None
    truths: Sequence[float | None] = ()


def curve(of: Curve) -> Chart:
    """The drawing of a curve."""
    points = _finite(of.xs, of.ys)
    truths = _finite(of.xs, of.truths)
    edges = [_finite(of.xs, edge) for edge in of.band or ()]
    everything = [v for line_of in (points, truths, *edges) for _, v in line_of]
    scale = Scale.of(everything, of.unit)
    frame = Chart(f"{of.y_label} against {of.x_label}", height=220)
    y = Axis.around([scale(v) for v in everything], frame.inner[3], frame.top)
    frame = frame.with_y(y, 4, labelled(of.y_label, scale.label))
    left, _, right, _ = frame.inner
    x = Axis(min(of.xs), max(max(of.xs), min(of.xs) + 1), left, right)

    def placed(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x(a), y(scale(v))) for a, v in pairs]

    shapes: Shapes = []
    if edges:
        low, high = map(placed, edges)
        shapes.append(line([*low, *high[::-1]], "area"))
    if y.low < 0 < y.high:
        shapes.append(line([(left, y(0)), (right, y(0))], "zero"))
    shapes.append(line(placed(points), "trace"))
    for pairs, look, how, radius in ((points, "estimate", "", 2.2), (truths, "chosen", "retrained ", 3.4)):
        shapes += [
            Dot(x(a), y(scale(v)), look, f"{of.x_label} {a:g}\n{how}{_said(v, of.unit)}", radius) for a, v in pairs
        ]
    return replace(frame, x=whole(x), x_label=of.x_label, shapes=shapes)


def _finite(xs: Sequence[float], ys: Sequence[float | None]) -> list[tuple[float, float]]:
    """Pairs whose value is known."""
    return [(x, y) for x, y in zip(xs, ys, strict=False) if y is not None and math.isfinite(y)]


def whole(axis: Axis, count: int = 7) -> tuple[Tick, ...]:
    """Ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    candidates = MaxNLocator(nbins=count, integer=True, steps=[1, 2, 5, 10]).tick_values(axis.low, axis.high)
    return tuple(Tick(axis(v), minus(f"{v:.0f}")) for v in map(float, candidates) if axis.low <= v <= axis.high)


def bars(labels: Sequence[str], values: Sequence[float], unit: str, x_label: str, y_label: str) -> Chart:
    """A bar a label, from zero."""
    scale = Scale.of(values, unit)
    frame = Chart(f"{y_label} by {x_label}", height=220)
    y = Axis.around([0.0, *(scale(v) for v in values)], frame.inner[3], frame.top)
    frame = frame.with_y(y, 4, labelled(y_label, scale.label))
    left, _, right, _ = frame.inner
    wide = (right - left) / max(len(values), 1)
    shapes: Shapes = [line([(left, y(0)), (right, y(0))], "zero")]
    ticks = []
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        at, end = left + (place + 0.5) * wide, y(scale(value))
        shapes.append(Bar(at - 0.35 * wide, min(end, y(0)), 0.7 * wide, abs(end - y(0)), "bin"))
        shapes.append(Dot(at, end, "estimate", f"{x_label} {label}\n{_said(value, unit)}", 2.6))
        ticks.append(Tick(at, minus(label)))
    return replace(frame, x=tuple(ticks), x_label=x_label, shapes=shapes)


@dataclass(frozen=True)
class Row:
    """A named value against the reference order, its interval if it has one, and its truth if that is known."""

    name: str
    delta: float
    interval: tuple[float, float] | None = None
    truth: float | None = None


def ranked(rows: Sequence[Row], unit: str, about: str) -> Chart:
    """Rows in their sequence, each with its name above its value; all minus the reference order's value."""
    everything = [v for r in rows for v in (r.delta, *(r.interval or ()), *([] if r.truth is None else [r.truth]))]
    tall = 46.0
    frame = wide(about, 24 + tall * len(rows) + 54)
    x = NumberLine.around(frame, everything, unit)
    shapes = x.reference()
    for place, row in enumerate(rows):
        at = frame.top + place * tall + 36
        shapes.append(Words(frame.left, at - 15, row.name, "row"))
        if row.interval is not None:
            shapes.append(line([(x(v), at) for v in row.interval], "interval"))
        shapes.append(Dot(x(row.delta), at, "estimate", f"{row.name}\nestimated {_said(row.delta, unit)}", 4.0))
        if row.truth is not None:
            shapes.append(Dot(x(row.truth), at, "chosen", f"{row.name}\nretrained {_said(row.truth, unit)}", 4.6))
    return x.drawn(shapes)


def _said(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return "not finite"
    return minus(f"{value:+.1f} %" if unit == "%" else amount(value, unit, "+.5f"))

"""Lines, bars and ranked rows: small charts that several sections share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fut.display.format import amount
from fut.report.charts.svg import Axis, Bar, Chart, Dot, Path, Scale, Tick, Words, line, minus, upright

Shapes = list[Dot | Bar | Path | Words]


def curve(
    xs: Sequence[float],
    ys: Sequence[float],
    unit: str,
    x_label: str,
    y_label: str,
    band: tuple[Sequence[float], Sequence[float]] | None = None,
    truths: Sequence[float | None] = (),
) -> Chart:
    """A line through values against whole numbers, a band between low and high values around it, and true values as rings."""
    known = [t for t in truths if t is not None]
    everything = [*ys, *known, *(v for edge in band or () for v in edge)]
    scale = Scale.of(everything, unit)
    frame = Chart(f"{y_label} against {x_label}", height=220)
    left, top, right, bottom = frame.inner
    x, y = (
        Axis(min(xs), max(max(xs), min(xs) + 1), left, right),
        Axis.around([scale(v) for v in everything], bottom, top),
    )
    shapes: Shapes = []
    if band is not None:
        low, high = ([(x(a), y(scale(v))) for a, v in zip(xs, edge, strict=True)] for edge in band)
        shapes.append(line([*low, *high[::-1]], "area"))
    if y.low < 0 < y.high:
        shapes.append(line([(left, y(0)), (right, y(0))], "zero"))
    shapes.append(line([(x(a), y(scale(v))) for a, v in zip(xs, ys, strict=True)], "trace"))
    shapes += [
        Dot(x(a), y(scale(v)), "estimate", f"{x_label} {a:g}\n{_said(v, unit)}", 2.2)
        for a, v in zip(xs, ys, strict=True)
    ]
    shapes += [
        Dot(x(a), y(scale(t)), "chosen", f"{x_label} {a:g}\nretrained {_said(t, unit)}")
        for a, t in zip(xs, truths, strict=False)
        if t is not None
    ]
    return replace(
        frame, x=whole(x), y=y.ticks(4), x_label=x_label, y_label=f"{y_label} [{scale.label}]", shapes=tuple(shapes)
    )


def whole(axis: Axis, count: int = 7) -> tuple[Tick, ...]:
    """Ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(nbins=count, integer=True, steps=[1, 2, 5, 10]).tick_values(axis.low, axis.high)
    return tuple(Tick(axis(v), minus(f"{v:.0f}")) for v in map(float, found) if axis.low <= v <= axis.high)


def bars(labels: Sequence[str], values: Sequence[float], unit: str, x_label: str, y_label: str) -> Chart:
    """A bar a label, from zero."""
    scale = Scale.of(values, unit)
    frame = Chart(f"{y_label} by {x_label}", height=220)
    left, top, right, bottom = frame.inner
    y = Axis.around([0.0, *(scale(v) for v in values)], bottom, top)
    wide = (right - left) / max(len(values), 1)
    shapes: Shapes = [line([(left, y(0)), (right, y(0))], "zero")]
    ticks = []
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        at, end = left + (place + 0.5) * wide, y(scale(value))
        shapes.append(Bar(at - 0.35 * wide, min(end, y(0)), 0.7 * wide, abs(end - y(0)), "bin"))
        shapes.append(Dot(at, end, "estimate", f"{x_label} {label}\n{_said(value, unit)}", 2.6))
        ticks.append(Tick(at, minus(label)))
    return replace(
        frame,
        x=tuple(ticks),
        y=y.ticks(4),
        x_label=x_label,
        y_label=f"{y_label} [{scale.label}]",
        shapes=tuple(shapes),
    )


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
    scale = Scale.of(everything, unit)
    tall = 46.0
    frame = Chart(about, width=560, height=24 + tall * len(rows) + 54, left=12, right=12, top=24, bottom=54)
    left, top, right, _ = frame.inner
    x = Axis.around([0.0, *(scale(v) for v in everything)], left, right, 0.04)
    shapes: Shapes = [upright(x(0), frame, "reference"), Words(x(0), top - 9, "reference order", "mark", "middle")]
    for place, row in enumerate(rows):
        at = top + place * tall + 36
        shapes.append(Words(left, at - 15, row.name, "row"))
        if row.interval is not None:
            shapes.append(line([(x(scale(v)), at) for v in row.interval], "interval"))
        shapes.append(Dot(x(scale(row.delta)), at, "estimate", f"{row.name}\nestimated {_said(row.delta, unit)}", 4.0))
        if row.truth is not None:
            shapes.append(
                Dot(x(scale(row.truth)), at, "chosen", f"{row.name}\nretrained {_said(row.truth, unit)}", 4.6)
            )
    label = f"value after training − reference [{scale.label}]"
    return replace(frame, x=x.ticks(7), x_label=label, shapes=tuple(shapes))


def _said(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return "not finite"
    return minus(f"{value:+.1f} %" if unit == "%" else amount(value, unit, "+.5f"))

"""The page's charts, made from results: scatter of estimates, spread of orders, progress and comparison of searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fut.display.agreement import Agreement, axis_labels
from fut.display.format import amount
from fut.display.scale import Scale, minus, signed
from fut.report.charts.curves import CHANGE
from fut.report.charts.svg import Axis, Bar, Chart, Dot, Path, Words, line, upright
from fut.report.effects import Effects

DOT = 3.4
BINS = 36


def beside(value: float, reference: float, unit: str) -> str:
    """A value and, signed, what it is above the reference order's."""
    return minus(f"{amount(value, unit)} ({amount(value - reference, '', '+.5f')})")


def scatter(points: Agreement, name: str) -> Chart:
    """Estimated against retrained changes of one estimator; an estimate that is not finite is left out."""
    pairs, scale, reference = points.pairs, points.scale, points.reference
    frame = Chart(f"{name}: estimated against retrained {len(pairs)} orders")
    left, top, right, bottom = frame.inner
    x = Axis.around([0.0, *(scale(t) for t, _ in pairs)], left, right)
    y = Axis.around([0.0, *(scale(v) for pair in pairs for v in pair)], bottom, top)
    low, high = max(x.low, y.low), min(x.high, y.high)
    shapes: list[Dot | Path | Words] = [
        line([(x(low), y(low)), (x(high), y(high))], "exact"),
        line([(left, y(0)), (right, y(0))], "baseline"),
    ]
    for true, estimated in pairs:
        said = (beside(v + reference, reference, points.unit) for v in (true, estimated))
        shapes.append(Dot(x(scale(true)), y(scale(estimated)), "estimate", "retrained {}\nestimated {}".format(*said)))
    x_label, y_label = axis_labels(scale.label)
    return replace(frame, x=x.ticks(4), y=y.ticks(5), x_label=x_label, y_label=y_label, shapes=tuple(shapes))


@dataclass(frozen=True)
class Gauge:
    """The board's own axis, on which its script marks the order that is shown.

    Args:
        chart: its drawing.
        axis: in the scale's numbers.
        scale: of the values.
    """

    chart: Chart
    axis: Axis
    scale: Scale

    @property
    def data(self) -> str:
        """low, high, start, end of the axis and the scale's factor, for the script."""
        axis = self.axis
        return f"{axis.low!r} {axis.high!r} {axis.start} {axis.end} {10.0**self.scale.exponent!r}"


def gauge(effects: Effects, extremes: Sequence[float]) -> Gauge:
    """Random orders as a histogram; wide enough for the extremes, the lowest and highest values that the board may show."""
    reference = effects.reference
    values = [v - reference for v in (*effects.estimated, *(t.value for t in effects.trained), *extremes)]
    scale = Scale.of(values, effects.unit)
    frame = Chart(
        "where the order shown stands among random orders", width=560, height=118, left=12, right=12, top=8, bottom=54
    )
    left, top, right, bottom = frame.inner
    x = Axis.around([0.0, *(scale(v) for v in values)], left, right, 0.06)
    bars = _histogram([x(scale(v - reference)) for v in effects.estimated], left, right, bottom, bottom - top)
    shapes = (*bars, upright(x(0), frame, "reference"))
    label = signed(CHANGE, effects.unit, scale.label)
    return Gauge(replace(frame, x=x.ticks(7), x_label=label, shapes=shapes), x, scale)


def spread(effects: Effects) -> Chart:
    """Values of random and of chosen orders minus the reference order's, on one line."""
    reference = effects.reference
    everything = [t.value - reference for t in effects.trained] + [v - reference for v in effects.estimated]
    scale = Scale.of(everything, effects.unit)
    rows = [
        [t for t in effects.trained if t.random],
        [t for t in effects.trained if not t.random],
    ]
    frame = Chart("spread of orders", width=560, height=260, left=12, right=12, top=24, bottom=54)
    left, top, right, bottom = frame.inner
    x = Axis.around([0.0, *(scale(v) for v in everything)], left, right, 0.04)
    shapes: list[Dot | Bar | Path | Words] = []
    low = bottom - 6
    for row, look in zip(reversed(rows), ("chosen", "random"), strict=True):
        dots, height = stacked([(x(scale(t.value - reference)), _said(t.value, effects)) for t in row], low, look)
        shapes += dots
        low -= height
    if effects.retrained is not None:
        centre, sd = effects.retrained.offset, effects.retrained.sd
        edges = [min(max(x(scale(centre + s * sd)), left), right) for s in (-1, 1)]
        shapes.insert(0, Bar(edges[0], top, edges[1] - edges[0], bottom - top, "band"))
    shapes += _histogram([x(scale(v - reference)) for v in effects.estimated], left, right, low, max(low - top, 40))
    shapes += [upright(x(0), frame, "reference"), Words(x(0), top - 8, "reference order", "mark", "middle")]
    label = signed(CHANGE, effects.unit, scale.label)
    return replace(frame, x=x.ticks(7), x_label=label, shapes=tuple(shapes))


def _said(value: float, effects: Effects) -> str:
    return f"retrained {beside(value, effects.reference, effects.unit)}"


def stacked(dots: Sequence[tuple[float, str]], base: float, look: str) -> tuple[list[Dot | Bar | Path | Words], float]:
    """Dots side by side where they would overlap, upwards from a base; and the height that they take."""
    placed: list[tuple[float, int]] = []
    shapes: list[Dot | Bar | Path | Words] = []
    for x, tip in sorted(dots):
        taken = {level for at, level in placed if abs(at - x) < 2 * DOT}
        level = next(n for n in range(len(placed) + 1) if n not in taken)
        placed.append((x, level))
        shapes.append(Dot(x, base - DOT - level * 2 * DOT, look, tip))
    levels = 1 + max((level for _, level in placed), default=-1)
    return shapes, (2 * DOT * levels + 6) if levels else 0.0


def _histogram(
    xs: Sequence[float], left: float, right: float, base: float, height: float
) -> list[Dot | Bar | Path | Words]:
    if not xs:
        return []
    counts, edges = np.histogram(xs, BINS, (left, right))
    tall = height / counts.max()
    return [
        Bar(round(a, 2), round(base - c * tall, 2), round(b - a - 1, 2), round(c * tall, 2), "bin")
        for c, a, b in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        if c
    ]

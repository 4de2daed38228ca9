"""The page's charts, made from results: scatter of estimates, spread of orders, progress and comparison of searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from fut.display.agreement import Agreement, axis_labels
from fut.display.format import amount
from fut.display.scale import minus
from fut.report.charts.svg import Axis, Bar, Chart, Dot, NumberLine, Shapes, line, upright, wide
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
    x_label, y_label = axis_labels(scale.label)
    y = Axis.around([0.0, *(scale(v) for pair in pairs for v in pair)], frame.inner[3], frame.top)
    frame = frame.with_y(y, 5, y_label)
    left, _, right, _ = frame.inner
    x = Axis.around([0.0, *(scale(t) for t, _ in pairs)], left, right)
    low, high = max(x.low, y.low), min(x.high, y.high)
    shapes: Shapes = [
        line([(x(low), y(low)), (x(high), y(high))], "exact"),
        line([(left, y(0)), (right, y(0))], "baseline"),
    ]
    for true, estimated in pairs:
        said = (beside(v + reference, reference, points.unit) for v in (true, estimated))
        shapes.append(Dot(x(scale(true)), y(scale(estimated)), "estimate", "retrained {}\nestimated {}".format(*said)))
    return replace(frame, x=x.ticks(4), x_label=x_label, shapes=shapes)


def gauge(effects: Effects, extremes: Sequence[float]) -> NumberLine:
    """The board's own axis, on which its script marks the order that is shown, with random orders as a histogram; wide enough
    for the extremes, the lowest and highest values that the board may show."""
    values = [v - effects.reference for v in (*effects.estimated, *(t.value for t in effects.trained), *extremes)]
    frame = wide("where the order shown stands among random orders", 118, top=8)
    x = NumberLine.around(frame, values, effects.unit, 0.06)
    _, top, _, bottom = frame.inner
    shapes = [*_histogram(effects, x, bottom, bottom - top), upright(x(0), frame, "reference")]
    return replace(x, frame=x.drawn(shapes))


def spread(effects: Effects) -> Chart:
    """Values of random and of chosen orders minus the reference order's, on one line."""
    reference = effects.reference
    everything = [t.value - reference for t in effects.trained] + [v - reference for v in effects.estimated]
    frame = wide("spread of orders", 260)
    x = NumberLine.around(frame, everything, effects.unit)
    left, top, right, bottom = frame.inner
    shapes: Shapes = []
    low = bottom - 6
    for random, look in ((False, "chosen"), (True, "random")):
        row = [(x(t.value - reference), _said(t.value, effects)) for t in effects.trained if t.random == random]
        dots, height = stacked(row, low, look)
        shapes += dots
        low -= height
    if effects.retrained is not None:
        mean, sd = effects.retrained.offset, effects.retrained.sd
        start, end = (min(max(x(mean + s * sd), left), right) for s in (-1, 1))
        shapes.insert(0, Bar(start, top, end - start, bottom - top, "band"))
    shapes += _histogram(effects, x, low, max(low - top, 40))
    return x.drawn([*shapes, *x.reference()])


def _said(value: float, effects: Effects) -> str:
    return f"retrained {beside(value, effects.reference, effects.unit)}"


def stacked(dots: Sequence[tuple[float, str]], base: float, look: str) -> tuple[list[Dot], float]:
    """Dots side by side where they would overlap, upwards from a base; and the height that they take."""
    placed: list[tuple[float, int]] = []
    shapes: list[Dot] = []
    for x, tip in sorted(dots):
        taken = {level for at, level in placed if abs(at - x) < 2 * DOT}
        level = next(n for n in range(len(placed) + 1) if n not in taken)
        placed.append((x, level))
        shapes.append(Dot(x, base - DOT - level * 2 * DOT, look, tip))
    levels = 1 + max((level for _, level in placed), default=-1)
    return shapes, (2 * DOT * levels + 6) if levels else 0.0


def _histogram(effects: Effects, x: NumberLine, base: float, height: float) -> Shapes:
    """Estimated orders as bars on a base, the tallest of a height; nothing where there are none."""
    if not effects.estimated:
        return []
    left, _, right, _ = x.frame.inner
    counts, edges = np.histogram([x(v - effects.reference) for v in effects.estimated], BINS, (left, right))
    tall = height / counts.max()
    return [
        Bar(round(a, 2), round(base - c * tall, 2), round(b - a - 1, 2), round(c * tall, 2), "bin")
        for c, (a, b) in zip(counts.tolist(), pairwise(edges.tolist()), strict=True)
        if c
    ]

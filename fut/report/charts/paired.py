"""Differences of pairs of trainings: a dot a pair with the mean and its interval, and their course over the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fut.display.format import amount
from fut.display.scale import Scale, labelled, minus
from fut.report.charts.curves import whole
from fut.report.charts.svg import Axis, Bar, Chart, Dot, Shapes, Tick, line


@dataclass(frozen=True)
class Pairs:
    """Differences of n pairs.

    Args:
        values: by pair.
        mean: of them.
        interval: of the mean; None where there is none.
        unit: of all.
        y_label: what a difference is.
        pair: what a pair is one of, as "seed".
        noise: half the width of a band about 0; None for no band.
        estimated: the same differences without training; empty for none.
    """

    values: Sequence[float]
    mean: float
    interval: tuple[float, float] | None
    unit: str
    y_label: str
    pair: str = "seed"
    noise: float | None = None
    estimated: Sequence[float] = ()


def pairs(of: Pairs) -> Chart:
    """A dot a pair, and at the right the mean with its interval."""
    ends = of.interval or (of.mean, of.mean)
    scale = Scale.of([*of.values, *of.estimated, *ends, of.noise or 0.0], of.unit)
    around = [] if of.noise is None else [scale(of.noise), -scale(of.noise)]
    frame = Chart(f"{of.y_label} by {of.pair}, and the mean with its interval", height=220)
    everything = [0.0, *around, *(scale(v) for v in (*of.values, *of.estimated, *ends))]
    y = Axis.around(everything, frame.inner[3], frame.top)
    frame = frame.with_y(y, 4, labelled(of.y_label, scale.label))
    left, top, right, bottom = frame.inner
    count = len(of.values)
    place = right - 22
    x = Axis(-0.5, max(count - 0.5, 0.5), left, place - 16)
    shapes: Shapes = []
    if around:
        shapes.append(Bar(left, y(around[0]), right - left, y(around[1]) - y(around[0]), "band"))
    shapes += [line([(left, y(0)), (right, y(0))], "zero"), line([(place - 16, top), (place - 16, bottom)], "zero")]
    for values, look, how in ((of.values, "estimate", ""), (of.estimated, "chosen", "estimated ")):
        shapes += [
            Dot(x(i), y(scale(v)), look, f"{of.pair} {i}\n{how}{_said(v, of.unit)}", 3.4 if count <= 32 else 2.0)
            for i, v in enumerate(values)
            if math.isfinite(v)
        ]
    if of.interval is not None:
        shapes.append(line([(place, y(scale(end))) for end in of.interval], "interval"))
    shapes.append(Dot(place, y(scale(of.mean)), "found", f"mean of {count}\n{_said(of.mean, of.unit)}", 4.4))
    gap = next(g for base in (1, 10, 100, 1000) for g in (base, 2 * base, 5 * base) if count <= 7 * g)
    numbers = (Tick(x(i), str(i)) for i in range(0, count, gap))
    return replace(frame, x=(*numbers, Tick(place, "mean")), x_label=of.pair, shapes=shapes)


@dataclass(frozen=True)
class Course:
    """Differences over the steps, a line a pair.

    Args:
        steps: at which they were taken.
        lines: differences there, by pair.
        unit: of all.
        y_label: what a difference is.
        window: first and last step of what is shaded.
    """

    steps: Sequence[int]
    lines: Sequence[Sequence[float]]
    unit: str
    y_label: str
    window: tuple[int, int]


def course(of: Course) -> Chart:
    """A thin line a pair, and their mean."""
    means = [sum(at) / len(at) for at in zip(*of.lines, strict=True)]
    scale = Scale.of([v for of_pair in of.lines for v in of_pair], of.unit)
    frame = Chart(f"{of.y_label} against steps trained", height=220)
    y = Axis.around([0.0, *(scale(v) for of_pair in of.lines for v in of_pair)], frame.inner[3], frame.top)
    frame = frame.with_y(y, 4, labelled(of.y_label, scale.label))
    left, top, right, bottom = frame.inner
    first, last = of.steps[0], max(of.steps[-1], of.steps[0] + 1)
    x = Axis(first, last, left, right - 6)
    begun, ended = x(max(of.window[0], first)), x(min(of.window[1], last))
    shapes: Shapes = [Bar(begun, top, round(ended - begun, 2), bottom - top, "band")]
    shapes.append(line([(left, y(0)), (right, y(0))], "zero"))
    shapes += [line([(x(s), y(scale(v))) for s, v in zip(of.steps, own, strict=True)], "thin") for own in of.lines]
    shapes.append(line([(x(s), y(scale(v))) for s, v in zip(of.steps, means, strict=True)], "trace"))
    for step, value in zip(of.steps, means, strict=True):
        shapes.append(
            Dot(x(step), y(scale(value)), "estimate", f"after step {step}, mean\n{_said(value, of.unit)}", 2.6)
        )
    return replace(frame, x=whole(x), x_label="steps trained", shapes=shapes)


def _said(value: float, unit: str) -> str:
    return minus(amount(value, unit, "+.5f"))

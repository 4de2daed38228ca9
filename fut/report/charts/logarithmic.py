"""Lines on a logarithmic axis, named at their right ends; and one such line with its band."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fut.display.scale import minus, power_of_ten
from fut.report.charts.curves import whole
from fut.report.charts.svg import Axis, Chart, Dot, Shapes, Tick, Words, line

LETTER, ROW = 7.9, 13.0
"""Width of a letter and height of a line of words, in units of the drawing."""
CORNER = 5.0
"""Nearer than this to the lower edge, a label on the left would meet the first one below."""
MOST = 8
"""Ticks of an axis."""
LOOKS = 8
"""Colours of lines in the style sheet, `line-0` and on."""


@dataclass(frozen=True)
class Line:
    """A named line.

    Args:
        name: at its end.
        xs: whole numbers.
        ys: values; what is not finite is left out.
        band: low and high values around it.
        beside: a second line of the same thing, dashed.
        beside_band: low and high values around that.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None
    beside: Sequence[float] = ()
    beside_band: tuple[Sequence[float], Sequence[float]] | None = None

    def values(self) -> list[float]:
        """All of them, with both bands."""
        bands = [v for band in (self.band, self.beside_band) for edge in band or () for v in edge]
        return [v for v in (*self.ys, *self.beside, *bands) if math.isfinite(v)]


@dataclass(frozen=True)
class Frame:
    """What lines are drawn in.

    Args:
        about: in words.
        x_label: of the horizontal axis.
        y_label: of the vertical one.
        floor: values below it are drawn there.
        said: (name, x, value) -> what a dot says.
        within: values that the vertical axis spans too, as of other charts beside it.
        x_ticks: places and labels of the horizontal axis; by default whole numbers.
    """

    about: str
    x_label: str
    y_label: str
    floor: float
    said: Callable[[str, float, float], str]
    within: Sequence[float] = ()
    x_ticks: Sequence[tuple[float, str]] = field(default_factory=tuple)


def lines(of: Sequence[Line], frame: Frame) -> Chart:
    """All lines in one chart, each in a colour of its own with its name at its end."""
    room = 14 + LETTER * max(len(one.name) for one in of)
    chart, x, y = _axes(
        [replace(one, band=None, beside=(), beside_band=None) for one in of],
        frame,
        Chart(frame.about, height=250, right=room),
    )
    shapes: Shapes = []
    ends = []
    for place, one in enumerate(of):
        points = _placed(one.xs, one.ys, x, y)
        shapes.append(line(points, f"line-{place % LOOKS}"))
        shapes += _dots(one, x, y, frame, f"dot-{place % LOOKS}")
        if points:
            ends.append((points[-1][1], one.name, f"name-{place % LOOKS}"))
    right = chart.inner[2]
    lowest, highest = chart.inner[3] - 2, chart.top + 4
    shapes += [Words(right + 8, at + 4, name, look) for at, name, look in spread_apart(ends, highest, lowest)]
    return replace(chart, shapes=shapes)


def banded(one: Line, frame: Frame) -> Chart:
    """One line with its band, and what stands beside it as a dashed line with a band of its own."""
    chart, x, y = _axes([one], frame, Chart(frame.about, height=200))
    shapes: Shapes = []
    for band, look in ((one.band, "area"), (one.beside_band, "area beside")):
        if band is not None:
            low, high = (_placed(one.xs, edge, x, y) for edge in band)
            shapes.append(line([*low, *high[::-1]], look))
    shapes.append(line(_placed(one.xs, one.beside, x, y), "dashed"))
    shapes.append(line(_placed(one.xs, one.ys, x, y), "trace"))
    return replace(chart, shapes=[*shapes, *_dots(one, x, y, frame, "estimate")])


def spread_apart(ends: Sequence[tuple[float, str, str]], highest: float, lowest: float) -> list[tuple[float, str, str]]:
    """Names at their lines' ends, moved up or down until none lies on another.

    Args:
        ends: place, name and look.
        highest: place of a name at most.
        lowest: and at least.
    """
    placed = sorted(ends)
    at = [max(end[0], highest + ROW * i) for i, end in enumerate(placed)]
    for i in range(1, len(at)):
        at[i] = max(at[i], at[i - 1] + ROW)
    for i in range(len(at) - 1, -1, -1):
        limit = lowest if i == len(at) - 1 else at[i + 1] - ROW
        at[i] = min(at[i], limit)
    return [(round(place, 2), name, look) for place, (_, name, look) in zip(at, placed, strict=True)]


def _axes(of: Sequence[Line], frame: Frame, chart: Chart) -> tuple[Chart, Axis, Callable[[float], float]]:
    """The chart with its axes, the horizontal one, and where a value lies."""
    everything = [max(v, frame.floor) for v in (*(v for one in of for v in one.values()), *frame.within)] or [1.0]
    axis = Axis.around([math.log10(v) for v in everything], chart.inner[3], chart.top)
    every = log_ticks(axis)
    ticks = tuple(tick for tick in every if axis.start - tick.at >= CORNER) if len(every) > 2 else every
    room = 25 + 7.5 * max((len(tick.label) for tick in ticks), default=0)
    chart = replace(chart, left=max(chart.left, room), y=ticks, y_label=frame.y_label)
    left, _, right, _ = chart.inner
    xs = [x for one in of for x in one.xs]
    x = Axis(min(xs), max(max(xs), min(xs) + 1), left + 6, right - 6)
    own = tuple(Tick(x(at), label) for at, label in frame.x_ticks)
    return replace(chart, x=own or whole(x), x_label=frame.x_label), x, lambda v: axis(math.log10(max(v, frame.floor)))


def log_ticks(axis: Axis) -> tuple[Tick, ...]:
    """Ticks of an axis of logarithms to base 10: powers of ten, with 3, or 2 and 5, times of them where these are few;
    round values where even these are."""
    first, last = math.floor(axis.low), math.ceil(axis.high)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        values = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        inside = [v for v in values if axis.low <= math.log10(v) <= axis.high]
        if len(inside) >= 3:
            wide = len(factors) == 1 and not 1e-4 < min(inside) <= max(inside) < 1e5
            labels = [power_of_ten(round(math.log10(v))) if wide else f"{v:g}" for v in inside]
            ticks = [Tick(axis(math.log10(v)), label) for v, label in zip(inside, labels, strict=True)]
            return tuple(ticks[:: math.ceil(len(ticks) / MOST)])
    linear = Axis(10.0**axis.low, 10.0**axis.high, 0.0, 1.0).ticks(4)
    return tuple(Tick(axis(math.log10(float(tick.label))), tick.label) for tick in linear)


def _placed(
    xs: Sequence[float], ys: Sequence[float], x: Axis, y: Callable[[float], float]
) -> list[tuple[float, float]]:
    return [(x(a), y(v)) for a, v in zip(xs, ys, strict=False) if math.isfinite(v)]


def _dots(one: Line, x: Axis, y: Callable[[float], float], frame: Frame, look: str) -> Shapes:
    known = [(a, v) for a, v in zip(one.xs, one.ys, strict=True) if math.isfinite(v)]
    return [Dot(x(a), y(v), look, minus(frame.said(one.name, a, v)), 2.6) for a, v in known]

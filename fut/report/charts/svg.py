"""Charts as shapes in the coordinates of a small drawing, which a template writes as SVG; colours are the style sheet's.

Drawings are at most 340 units wide, the width of a phone, so that their letters keep their size there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from fut.display.scale import Scale, minus, signed

WIDTH, HEIGHT = 340.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 50.0, 10.0, 10.0, 36.0
EDGE = 80.0
"""Nearer than this to the plot's edge, words in the middle of a place would be cut."""
CHANGE = "value − reference"
"""Label of an axis of changes; short, so that unit and sign fit on a phone."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis, at a place of the drawing."""

    at: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A point; `tip` is what it says when pointed at."""

    x: float
    y: float
    look: str
    tip: str = ""
    radius: float = 3.4


@dataclass(frozen=True)
class Bar:
    """A rectangle; x and y are its upper left corner."""

    x: float
    y: float
    width: float
    height: float
    look: str
    tip: str = ""


@dataclass(frozen=True)
class Path:
    """A line through points, as SVG writes it."""

    points: str
    look: str


@dataclass(frozen=True)
class Words:
    """Text at a place."""

    x: float
    y: float
    text: str
    look: str = ""
    anchor: str = "start"


Shapes = list[Dot | Bar | Path | Words]


@dataclass(frozen=True)
class Chart:
    """One drawing. about: in words, for those who do not see it. x, y: ticks in its coordinates; labels of both axes."""

    about: str
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = RIGHT
    top: float = TOP
    bottom: float = BOTTOM
    x: tuple[Tick, ...] = ()
    y: tuple[Tick, ...] = ()
    x_label: str = ""
    y_label: str = ""
    shapes: Sequence[Dot | Bar | Path | Words] = ()

    @property
    def inner(self) -> tuple[float, float, float, float]:
        """The plot's left, top, right and bottom edge."""
        return self.left, self.top, self.width - self.right, self.height - self.bottom

    def with_y(self, axis: Axis, count: int, label: str) -> Chart:
        """The same with a vertical axis, and with room for its ticks and its label on the left."""
        ticks = axis.ticks(count)
        room = 25 + 7.5 * max((len(tick.label) for tick in ticks), default=0)
        return replace(self, left=max(self.left, room), y=ticks, y_label=label)


@dataclass(frozen=True)
class Axis:
    """A linear map of values onto a drawing's edge, from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float, margin: float = 0.05) -> Axis:
        """Wide enough for all finite values, with a margin on both sides."""
        finite = [v for v in values if math.isfinite(v)] or [0.0]
        low, high = min(finite), max(finite)
        space = margin * (high - low) if high > low else 1.0
        return cls(low - space, high + space, start, end)

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> tuple[Tick, ...]:
        """At most about `count` round values, with as many digits as tell them apart."""
        from matplotlib.ticker import MaxNLocator

        candidates = MaxNLocator(nbins=count, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        kept = [float(v) for v in candidates if self.low <= v <= self.high]
        gap = min((b - a for a, b in pairwise(kept)), default=1.0)
        digits = next((d for d in range(18) if abs(gap - round(gap, d)) < 1e-6 * gap), 18)
        return tuple(Tick(self(v), minus(f"{v:.{digits}f}")) for v in kept)


def line(points: Sequence[tuple[float, float]], look: str) -> Path:
    """A line through points of the drawing."""
    return Path(" ".join(f"{x:g},{y:g}" for x, y in points), look)


def upright(x: float, chart: Chart, look: str) -> Path:
    """A line from the plot's lower to its upper edge."""
    _, top, _, bottom = chart.inner
    return line([(x, top), (x, bottom)], look)


@dataclass(frozen=True)
class NumberLine:
    """A wide chart of values minus the reference order's on one horizontal axis, at whose 0 the reference order is marked.

    Args:
        frame: the chart without its axis and shapes.
        axis: in the scale's numbers.
        scale: of the values.
    """

    frame: Chart
    axis: Axis
    scale: Scale

    @classmethod
    def around(cls, frame: Chart, values: Iterable[float], unit: str, margin: float = 0.04) -> NumberLine:
        """Wide enough for all values and the reference order."""
        changes = list(values)
        scale, (left, _, right, _) = Scale.of(changes, unit), frame.inner
        return cls(frame, Axis.around([0.0, *map(scale, changes)], left, right, margin), scale)

    def __call__(self, change: float) -> float:
        """The place of a value minus the reference order's."""
        return self.axis(self.scale(change))

    def reference(self) -> Shapes:
        """The reference order's line, and its name above the plot, wholly inside the chart."""
        at, (left, top, right, _) = self(0.0), self.frame.inner
        anchor = "start" if at < left + EDGE else "end" if at > right - EDGE else "middle"
        return [upright(at, self.frame, "reference"), Words(at, top - 9, "reference order", "mark", anchor)]

    def drawn(self, shapes: Shapes, label: str = "") -> Chart:
        """The chart with its axis, whose label by default says which sign is better."""
        label = label or signed(CHANGE, self.scale.unit, self.scale.label)
        return replace(self.frame, x=self.axis.ticks(7), x_label=label, shapes=shapes)


def wide(about: str, height: float, top: float = 24) -> Chart:
    """A frame as wide as the page, without a vertical axis."""
    return Chart(about, width=560, height=height, left=12, right=12, top=top, bottom=54)

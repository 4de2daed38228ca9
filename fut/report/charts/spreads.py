"""Spreads of one thing by several ways of knowing them: named dots with their intervals on an axis from zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fut.display.format import amount
from fut.display.scale import Scale, labelled, minus
from fut.report.charts.svg import Axis, Chart, Dot, Shapes, Words, line


@dataclass(frozen=True)
class Spread:
    """A standard deviation.

    Args:
        name: by whom.
        sd: not below 0.
        interval: of it; None where there is none.
        look: of its dot.
    """

    name: str
    sd: float
    interval: tuple[float, float] | None = None
    look: str = "estimate"


def spreads(of: Sequence[Spread], unit: str, label: str, about: str) -> Chart:
    """One row each, its name above its dot.

    Args:
        of: the rows.
        unit: of all.
        label: of the axis.
        about: what the chart shows, in words.
    """
    tall = 38.0
    frame = Chart(about, height=tall * len(of) + 46, left=10, right=14, top=6)
    scale = Scale.of([v for one in of for v in (one.sd, *(one.interval or ()))], unit)
    highest = max(scale(v) for one in of for v in (one.sd, *(one.interval or ()))) or 1.0
    left, _, right, _ = frame.inner
    x = Axis(0.0, 1.04 * highest, left, right)
    shapes: Shapes = []
    for place, one in enumerate(of):
        at = frame.top + place * tall + 32
        shapes.append(Words(left, at - 14, one.name, "row"))
        if one.interval is not None:
            shapes.append(line([(x(scale(end)), at) for end in one.interval], "interval"))
        shapes.append(Dot(x(scale(one.sd)), at, one.look, f"{one.name}\n{minus(amount(one.sd, unit))}", 4.2))
    return replace(frame, x=x.ticks(5), x_label=labelled(label, scale.label), shapes=shapes)

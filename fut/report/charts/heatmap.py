"""Heatmaps: a small PNG of the cells, whose values the page holds too, with axes and a key around it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fut.display.scale import Scale
from fut.report.charts.svg import Axis, Tick

CELL = 8
LIGHT = ("#06305a", "#0072b2", "#9ecbea", "#f7f7f4", "#f7c08a", "#d55e00", "#6e2c00")
DARK = ("#d3ecff", "#56b4e9", "#1d4a6d", "#191b1f", "#70440c", "#e69f00", "#ffe9bf")
"""From low over zero to high: blue and orange, which colour-blind readers tell apart; zero is the page's colour."""
MOST = 640
"""Rows or columns of cells at most."""


@dataclass(frozen=True)
class Heatmap:
    """Values [rows, columns] about zero, low ones blue; NaN is left blank.

    Args:
        key: of its elements.
        about: what it shows, in words.
        light: the picture as a data URI, on a light page.
        dark: the same on a dark one.
        shape: rows and columns.
        limit: the magnitude of the darkest colour.
        scale: of the values.
        values: base64 of float32.
        row: what a row is one of; a column is a step.
        said: what a value is.
        names: numbers of the rows.
        marks: cells that are outlined.
    """

    key: str
    about: str
    light: str
    dark: str
    shape: tuple[int, int]
    limit: float
    scale: Scale
    values: str
    row: str
    said: str
    names: tuple[int, ...]
    marks: tuple[tuple[int, int], ...] = ()

    @property
    def row_ticks(self) -> tuple[Tick, ...]:
        """Some rows by name, in shares of the edge."""
        return _ticks(self.names)

    @property
    def column_ticks(self) -> tuple[Tick, ...]:
        """Some columns by number, in shares of the edge."""
        return _ticks(range(self.shape[1]))

    @property
    def legend(self) -> tuple[Tick, ...]:
        """Ticks of the colour key, in shares of its width from 0 to 1."""
        return Axis(-self.scale(self.limit), self.scale(self.limit), 0.0, 1.0).ticks(4)


def heatmap(
    key: str,
    values: np.ndarray,
    unit: str,
    about: str,
    said: str,
    row: str = "batch",
    names: Sequence[int] = (),
    marks: Sequence[tuple[int, int]] = (),
) -> Heatmap:
    """Colours saturate at the 99th percentile of magnitudes, so that one cell does not fade all others."""
    finite = np.abs(values[np.isfinite(values)])
    limit = float(np.quantile(finite, 0.99)) if finite.size else 0.0
    limit = limit or float(finite.max(initial=0.0)) or 1.0
    light, dark = (_picture(values / limit, colours) for colours in (LIGHT, DARK))
    packed = base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")
    shape = (values.shape[0], values.shape[1])
    rows = tuple(names) or tuple(range(shape[0]))
    scale = Scale.of([limit], unit)
    return Heatmap(key, about, light, dark, shape, limit, scale, packed, row, said, rows, tuple(marks))


def key_picture(colours: Sequence[str]) -> str:
    """The colours from low to high, as a data URI."""
    return _picture(np.linspace(-1, 1, 65)[None], colours)


def _picture(shares: np.ndarray, colours: Sequence[str]) -> str:
    """Shares of the limit, -1 to 1, as a PNG of CELL pixels a cell."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.image import imsave

    tints = LinearSegmentedColormap.from_list("fut", list(colours))
    pixels = (tints(np.clip((shares + 1) / 2, 0, 1)) * 255).round().astype(np.uint8)
    pixels[~np.isfinite(shares)] = 0
    size = CELL if max(shares.shape) * CELL <= MOST else 1
    target = io.BytesIO()
    imsave(target, pixels.repeat(size, 0).repeat(size, 1), format="png", metadata={"Software": "fut"})
    return "data:image/png;base64," + base64.b64encode(target.getvalue()).decode("ascii")


def _ticks(names: Sequence[int]) -> tuple[Tick, ...]:
    """Some of the cells' names, at their cells' middles, in shares of the edge."""
    count = len(names)
    gap = next(g for base in (1, 10, 100, 1000) for g in (base, 2 * base, 5 * base) if count / g <= 9)
    return tuple(Tick((i + 0.5) / count, str(names[i])) for i in range(0, count, gap))

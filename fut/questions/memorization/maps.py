"""Maps of cells, estimated, fitted to retrained cells and compared with others: the arithmetic behind `memorization`.

Kinds are what the loss is taken on: the item itself, the groups of held-out samples most and least like it, the probe set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from estimators.orders.order import Order
from fut.data.probe_groups import Group
from fut.estimation.results import Changes
from fut.orders.editing import with_item_at
from fut.questions.memorization.cells import CellFit, Checked, Floats, check_cells, distance_scales, fit_cells
from fut.questions.retraining import LEAST
from fut.readouts.readout import PROBE

KINDS = ("own", "near", "far", "probe")
ABSENT = "absent "
"""What is said before a kind where an order without the item is meant."""


Estimate = Callable[[Sequence[Order], Sequence[str]], Changes]
"""(orders, names of read-outs) -> changes."""


@dataclass(frozen=True)
class ProbeGroups:
    """Held-out samples in groups, and how like every item is to each.

    Args:
        groups: numbers of the samples of each [G][...].
        similarity: of the items to the groups, cosines [n][G].
    """

    groups: list[list[int]]
    similarity: list[list[float]]

    @property
    def near(self) -> list[int]:
        """For every item, the group most like it, the first of equals."""
        return [int(np.argmax(row)) for row in self.similarity]

    @property
    def far(self) -> list[int]:
        """For every item, the group least like it."""
        return [int(np.argmin(row)) for row in self.similarity]

    @property
    def names(self) -> list[str]:
        """The read-outs of the groups."""
        return [Group(g, len(self.groups)).name for g in range(len(self.groups))]

    def readouts(self, item: int, row: int) -> list[str]:
        """The read-outs of a row, kind by kind."""
        return [f"item:{item}", self.names[self.near[row]], self.names[self.far[row]], PROBE]


def by_kind(values: Floats) -> dict[str, Any]:
    """Values [kinds, ...] as lists, by kind."""
    return dict(zip(KINDS, values.tolist(), strict=True))


class Maps(NamedTuple):
    """effects, variances: [kinds, n, T]; absence: [kinds, n]; group_absence: [n, G]."""

    effects: Floats
    variances: Floats
    absence: Floats
    group_absence: Floats


def estimate_maps(
    estimate: Estimate,
    reference: Order,
    items: Sequence[int],
    groups: ProbeGroups,
    showing: int = -1,
    tick: Callable[[], object] = lambda: None,
) -> Maps:
    """Every cell of the maps, row by row: T orders with the item moved and one without it. tick: called after every row."""
    rows, absent = [], []
    for row, item in enumerate(items):
        orders = [with_item_at(reference, item, step, showing) for step in range(len(reference))]
        without = reference.without([item])
        rows.append(estimate([*orders, without], groups.readouts(item, row)))
        absent.append(estimate([without], groups.names).values[0])
        tick()
    values, variances = (np.stack([np.asarray(r[k], dtype=float).T for r in rows], axis=1) for k in (0, 1))
    return Maps(values[:, :, :-1], variances[:, :, :-1], values[:, :, -1], np.stack(absent))


class Cells(NamedTuple):
    """Cells of a map, and rows of which the order without the item is meant: pairs of row and step, and rows."""

    moved: list[tuple[int, int]]
    absent: list[int]

    def orders(self, reference: Order, items: Sequence[int], showing: int) -> list[Order]:
        """The moved first, then those without."""
        moved = [with_item_at(reference, items[row], step, showing) for row, step in self.moved]
        return moved + [reference.without([items[row]]) for row in self.absent]

    @property
    def rows(self) -> list[int]:
        """The row of every order."""
        return [row for row, _ in self.moved] + self.absent


def draw_cells(
    places: Sequence[int], steps: int, count: int, absent: int, taken: Sequence[Cells], seed: Sequence[int]
) -> Cells:
    """`count` cells other than the items' own steps and `absent` rows, uniformly and without those that are taken.

    Fewer rows where there are fewer left.
    """
    draw = np.random.default_rng(list(seed))
    used = {cell for cells in taken for cell in cells.moved}, {row for cells in taken for row in cells.absent}
    free = [(r, s) for r, place in enumerate(places) for s in range(steps) if s != place and (r, s) not in used[0]]
    rows = [row for row in range(len(places)) if row not in used[1]]
    chosen = draw.choice(len(free), count, replace=False).tolist() if count else []
    without = draw.choice(len(rows), min(absent, len(rows)), replace=False).tolist() if rows else []
    return Cells(sorted(free[k] for k in chosen), sorted(rows[k] for k in without))


@dataclass(frozen=True)
class Fitted:
    """Maps after a fit to retrained cells, with half-widths of 90 % intervals where a fit allows them.

    effects, half: [kinds, n, T]; absence, absence_half: [kinds, n]. fits: by kind, and by "absent " + kind.
    """

    effects: Floats
    absence: Floats
    half: Floats | None
    absence_half: Floats | None
    fits: dict[str, CellFit]

    def check(self, items: Sequence[int], cells: Cells, truth: Floats) -> dict[str, Checked]:
        """Against retrained cells, by kind and by "absent " + kind. truth: [orders, kinds]."""
        checked = {}
        at = tuple(np.array(cells.moved).T) if cells.moved else ()
        for k, kind in enumerate(KINDS):
            if len(cells.moved) >= LEAST:
                half = None if self.half is None else self.half[k][at].tolist()
                named = [[items[row], step] for row, step in cells.moved]
                true = truth[: len(cells.moved), k].tolist()
                checked[kind] = check_cells(named, true, self.effects[k][at].tolist(), half)
            if len(cells.absent) >= LEAST:
                half = None if self.absence_half is None else self.absence_half[k, cells.absent].tolist()
                true, guess = truth[len(cells.moved) :, k].tolist(), self.absence[k, cells.absent].tolist()
                checked[ABSENT + kind] = check_cells([[items[row]] for row in cells.absent], true, guess, half)
        return checked


def fit_maps(maps: Maps, places: Sequence[int], cells: Cells | None = None, truth: Floats | None = None) -> Fitted:
    """Maps corrected by what was retrained of them (`cells`, truth [orders, kinds]); as they are without.

    Errors of a cell are held to grow with the square root of the steps between it and the item's own; those of absence to
    be alike.
    """
    scales = distance_scales(places, maps.effects.shape[-1])
    fits: dict[str, CellFit] = {}
    if cells is not None and truth is not None and cells.moved:
        at = tuple(np.array(cells.moved).T)
        for k, kind in enumerate(KINDS):
            moved = fit_cells(truth[: len(cells.moved), k], maps.effects[k][at], scales[at])
            absent = fit_cells(truth[len(cells.moved) :, k], maps.absence[k, cells.absent], np.ones(len(cells.absent)))
            fits |= {kind: moved} if moved else {}
            fits |= {ABSENT + kind: absent} if absent else {}
    effects, half = _applied(maps.effects, scales, [fits.get(kind) for kind in KINDS])
    alike = np.ones(len(places))
    absence, absence_half = _applied(maps.absence, alike, [fits.get(ABSENT + kind) for kind in KINDS])
    return Fitted(effects, absence, half, absence_half, fits)


def _applied(values: Floats, scales: Floats, fits: Sequence[CellFit | None]) -> tuple[Floats, Floats | None]:
    """Corrected values and half-widths, kind by kind; as they are, without half-widths, where a kind has no fit."""
    present = [fit for fit in fits if fit is not None]
    if len(present) < len(fits):
        return values, None
    corrected = np.stack([fit.correct(v) for fit, v in zip(present, values, strict=True)])
    return corrected, np.stack([fit.half_widths(v, scales) for fit, v in zip(present, values, strict=True)])

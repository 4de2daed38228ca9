"""Maps of cells, estimated, fitted to retrained cells and compared with others: the arithmetic behind `memorization`.

A cell is an order in which one item stands at another step.
Kinds are what the loss is taken on: the item itself, the groups of held-out samples most and least like it, the probe set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from estimators.intervals import LEVEL, conformal_quantile
from estimators.orders.order import Order
from fut.data.probe_groups import Group
from fut.estimation.accuracy import accuracy
from fut.estimation.results import Changes
from fut.orders.editing import with_item_at
from fut.questions.retraining import LEAST
from fut.readouts.readout import PROBE

Floats = NDArray[np.float64]
SLOPED = 6
"""Retrained cells from which a slope is fitted."""
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
        near, far = np.argmax(self.similarity[row]), np.argmin(self.similarity[row])
        return [f"item:{item}", self.names[near], self.names[far], PROBE]


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
    used = {cell for of in taken for cell in of.moved}, {row for of in taken for row in of.absent}
    free = [(r, s) for r, place in enumerate(places) for s in range(steps) if s != place and (r, s) not in used[0]]
    rows = [row for row in range(len(places)) if row not in used[1]]
    cells = draw.choice(len(free), count, replace=False).tolist() if count else []
    without = draw.choice(len(rows), min(absent, len(rows)), replace=False).tolist() if rows else []
    return Cells(sorted(free[k] for k in cells), sorted(rows[k] for k in without))


@dataclass(frozen=True)
class CellFit:
    """truth = slope * estimate + noise of standard deviation `sd` * scale, fitted to retrained cells, through the origin.

    An order that changes nothing (scale 0) has no error. freedom: degrees of freedom of sd; spread: sum of squares of
    estimates over scales, from which the interval widens. reach: the error, over its scale, that a new cell stays within nine
    times in ten by the errors of the retrained cells themselves, each left out of the fit (conformal prediction, Vovk 2015):
    it asks that the new cell be drawn as they were, not that errors be normal.
    """

    slope: float
    sd: float
    freedom: int
    count: int
    spread: float
    reach: float = 0.0

    def correct(self, estimates: ArrayLike) -> Floats:
        return self.slope * np.asarray(estimates, dtype=float)

    def half_widths(self, estimates: ArrayLike, scales: ArrayLike) -> Floats:
        """Half-widths of 90 % prediction intervals: Student's, exact for normal residuals of these scales, or `reach` where that
        is wider, as it is where errors have heavier tails."""
        from scipy.special import stdtrit

        guess, scale = np.asarray(estimates, dtype=float), np.asarray(scales, dtype=float)
        ratio = np.divide(guess, scale, out=np.zeros_like(guess * scale), where=scale > 0)
        leverage = ratio**2 / self.spread if self.spread > 0 and self.slope != 1 else 0.0
        widths: Floats = stdtrit(self.freedom, 0.5 + LEVEL / 2) * self.sd * scale * np.sqrt(1.0 + leverage)
        return np.maximum(widths, self.reach * scale)


def fit_cells(truth: ArrayLike, estimates: ArrayLike, scales: ArrayLike) -> CellFit | None:
    """A spread from 3 retrained cells on, and a slope from 6 on; None where there are fewer. Cells whose training or estimate
    diverged (NaN) are left out."""
    true, guess, scale = (np.asarray(a, dtype=float) for a in (truth, estimates, scales))
    finite = np.isfinite(true) & np.isfinite(guess)
    true, guess, scale = true[finite], guess[finite], scale[finite]
    if len(true) < LEAST:
        return None
    true, guess = true / scale, guess / scale
    spread = float(guess @ guess)
    sloped = len(true) >= SLOPED and spread > 0
    slope = float(guess @ true / spread) if sloped else 1.0
    freedom = len(true) - sloped
    sd = float(np.sqrt(((true - slope * guess) ** 2).sum() / freedom))
    leverages = guess**2 / spread if sloped else np.zeros(len(true))
    left_out = np.abs(true - slope * guess) / np.maximum(1 - leverages, 1e-9)
    return CellFit(slope, sd, freedom, len(true), spread, conformal_quantile(left_out))


def effect_scales(effects: ArrayLike) -> Floats:
    """sqrt(e² + mean e²) of estimated effects [n], by which errors of absence are held to grow; 1 where no effect is known.

    On the cells of `records/memorization.json` sizes of errors and of effects have a rank correlation of 0.4 to 0.7.
    """
    squares = np.asarray(effects, dtype=float) ** 2
    finite = squares[np.isfinite(squares)]
    typical = float(finite.mean()) if len(finite) else 0.0
    if not typical > 0:
        return np.ones_like(squares)
    scales: Floats = np.sqrt(np.where(np.isfinite(squares), squares, typical) + typical)
    return scales


def distance_scales(places: Sequence[int], steps: int) -> Floats:
    """sqrt(|j - place|) of every cell [n, steps]: how errors were measured to grow with the steps that an order changes."""
    apart = np.abs(np.arange(steps)[None, :] - np.asarray(places)[:, None])
    scales: Floats = np.sqrt(apart.astype(float))
    return scales


def heatmap_error(truth: ArrayLike, estimates: ArrayLike) -> float | None:
    """|E - M| / |M - mean(M)| over the cells compared, Frobenius norms; 0 exact, 1 as bad as answering the mean everywhere.

    None where all true cells are alike.
    """
    true, guess = np.asarray(truth, dtype=float), np.asarray(estimates, dtype=float)
    scale = np.linalg.norm(true - true.mean())
    return float(np.linalg.norm(guess - true) / scale) if scale > 0 else None


@dataclass(frozen=True)
class Checked:
    """Estimated against retrained changes of the loss against the reference order [nats/token], cell by cell.

    cells: [item, step], or [item] for an order without it. measures: Spearman and Pearson with 90 % bootstrap intervals,
    heatmap_error, mae, skill against the baseline "no change", coverage of the 90 % intervals (None without), bias, residual_sd.
    """

    cells: list[list[int]]
    truth: list[float]
    estimates: list[float]
    measures: dict[str, Any]


def check_cells(
    cells: Sequence[Sequence[int]],
    truth: Sequence[float],
    estimates: Sequence[float],
    half: Sequence[float] | None = None,
) -> Checked:
    """Compare the estimates of two or more cells with their truth; half: half-widths of the intervals, if there are any. Cells
    whose training diverged, of truth NaN, are left out."""
    kept = np.flatnonzero(np.isfinite(np.asarray(truth, dtype=float))).tolist()
    cells = [cells[place] for place in kept]
    truth, estimates = ([of[place] for place in kept] for of in (truth, estimates))
    half = None if half is None else [half[place] for place in kept]
    bounds = None if half is None else [(e - h, e + h) for e, h in zip(estimates, half, strict=True)]
    measures = accuracy(truth, estimates, 0.0, bounds).as_dict()
    measures = {k: v for k, v in measures.items() if k not in ("endpoint_error", "diverged")}
    measures["heatmap_error"] = heatmap_error(truth, estimates)
    return Checked([list(c) for c in cells], list(truth), list(estimates), measures)


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
            if np.isfinite(truth[: len(cells.moved), k]).sum() >= LEAST:
                half = None if self.half is None else self.half[k][at].tolist()
                named = [[items[row], step] for row, step in cells.moved]
                true = truth[: len(cells.moved), k].tolist()
                checked[kind] = check_cells(named, true, self.effects[k][at].tolist(), half)
            if np.isfinite(truth[len(cells.moved) :, k]).sum() >= LEAST:
                half = None if self.absence_half is None else self.absence_half[k, cells.absent].tolist()
                true, guess = truth[len(cells.moved) :, k].tolist(), self.absence[k, cells.absent].tolist()
                checked[ABSENT + kind] = check_cells([[items[row]] for row in cells.absent], true, guess, half)
        return checked


def fit_maps(maps: Maps, places: Sequence[int], cells: Cells, truth: Floats) -> Fitted:
    """Maps corrected by what was retrained of them, truth [orders, kinds]; as they are where nothing was.

    Errors of a cell are held to grow with the square root of the steps between it and the item's own; those of absence with the
    estimated effect (`effect_scales`).
    """
    scales, absent_scales = (
        distance_scales(places, maps.effects.shape[-1]),
        np.stack([effect_scales(of_kind) for of_kind in maps.absence]),
    )
    fits: dict[str, CellFit] = {}
    if cells.moved:
        at = tuple(np.array(cells.moved).T)
        for k, kind in enumerate(KINDS):
            moved = fit_cells(truth[: len(cells.moved), k], maps.effects[k][at], scales[at])
            of_rows = maps.absence[k, cells.absent], absent_scales[k, cells.absent]
            absent = fit_cells(truth[len(cells.moved) :, k], *of_rows)
            fits |= {kind: moved} if moved else {}
            fits |= {ABSENT + kind: absent} if absent else {}
    effects, half = _applied(maps.effects, [scales] * len(KINDS), [fits.get(kind) for kind in KINDS])
    absence, absence_half = _applied(maps.absence, absent_scales, [fits.get(ABSENT + kind) for kind in KINDS])
    return Fitted(effects, absence, half, absence_half, fits)


def _applied(
    values: Floats, scales: Sequence[Floats] | Floats, fits: Sequence[CellFit | None]
) -> tuple[Floats, Floats | None]:
    """Corrected values and half-widths, kind by kind; as they are, without half-widths, where a kind has no fit."""
    present = [fit for fit in fits if fit is not None]
    if len(present) < len(fits):
        return values, None
    corrected = np.stack([fit.correct(v) for fit, v in zip(present, values, strict=True)])
    return corrected, np.stack([fit.half_widths(v, s) for fit, v, s in zip(present, values, scales, strict=True)])

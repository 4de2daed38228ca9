"""`memorize` on a run: one sweep for every item and group of held-out text, every cell estimated, some of them retrained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fut.artifacts import directory as files
from fut.data.probe_groups import Group, item_similarity, probe_groups
from fut.errors import UsageError
from fut.methods.registry import METHODS, base_name, default_estimator, method_of, require_movable
from fut.orders.editing import place_of
from fut.questions.memorization.cells import LEAST, Floats
from fut.questions.memorization.estimates import SWEPT, estimate_of
from fut.questions.memorization.maps import (
    KINDS,
    Cells,
    Fitted,
    Maps,
    Near,
    draw_cells,
    estimate_maps,
    fit_maps,
    names_of,
)
from fut.questions.memorization.result import Memorization
from fut.questions.outliers import outlier_note
from fut.readouts.readout import PROBE, shortened
from storage import fingerprint, write_json

if TYPE_CHECKING:
    from fut.methods.context import Context


MOST, GROUPS = 64, 8
"""Items of which a map is made where none are named, and groups of held-out samples."""
CALIBRATED, VERIFIED = 41, 43
"""What seeds of both draws differ in."""
SHARE = 2
"""Retrained cells for every order without an item that is retrained with them."""
UNCALIBRATED = "no intervals: no cells have been retrained for them; `fut memorize RUN --calibrate 16` does that"
TRUTH = "no intervals: every cell has really been retrained; the figures are the truth"


@dataclass(frozen=True)
class Asked:
    """What a map is asked about. items: its rows; groups: of held-out samples; showing: which of an item's, -1 the last.

    calibrate, verify: cells to retrain for intervals, and to compare with; for every two of them an order without an item.
    estimator: `adjoint` reads all read-outs off one sweep, any other is asked read-out by read-out.
    """

    items: list[int]
    groups: int = GROUPS
    showing: int = -1
    calibrate: int = 0
    verify: int = 0
    seed: int = 0
    estimator: str = SWEPT

    @property
    def names(self) -> list[str]:
        """The read-outs to sweep: the probe loss, the groups, the items."""
        return [PROBE, *self.group_names, *(f"item:{i}" for i in self.items)]

    @property
    def group_names(self) -> list[str]:
        return [Group(g, self.groups).name for g in range(self.groups)]

    @property
    def retrained(self) -> int:
        """Orders that are retrained at most for intervals and comparison."""
        return sum(count + count // SHARE for count in (self.calibrate, self.verify))


def asked_of(run: Context, items: Sequence[int] | None, most: int = MOST, **options: Any) -> Asked:
    """A checked question. items: None for all that the reference order shows, or `most` of them, evenly spread."""
    held = sorted({i for step in run.reference.steps for i in step})
    if items is None:
        items = (
            held if len(held) <= most else [held[k] for k in np.linspace(0, len(held) - 1, most).round().astype(int)]
        )
    unknown = [i for i in items if i not in held]
    if unknown or not items or len(set(items)) < len(items):
        raise UsageError(
            f"memorize: expected different items of 0..{run.items - 1}, got {shortened(list(map(str, items))) or 'none'}; "
            "correct --items"
        )
    asked = Asked(list(items), **options | {"estimator": options.get("estimator") or default_estimator(run)})
    if base_name(asked.estimator) not in METHODS:
        raise UsageError(
            f"memorize: expected one of {', '.join(METHODS.names)}, got `{asked.estimator}`; correct --estimator"
        )
    require_movable("memorize", [asked.estimator])
    counts = (asked.calibrate, asked.verify)
    if asked.groups < 1 or any(count < 0 or 0 < count < LEAST for count in counts):
        raise UsageError(
            f"memorize: expected at least 1 group and 0 or at least {LEAST} cells to retrain, got groups={asked.groups}, "
            f"calibrate={asked.calibrate}, verify={asked.verify}; 16 is a good number to calibrate, 64 to verify"
        )
    probe_groups(run.problem.data, asked.groups)  # refuses more groups than samples
    for item in asked.items:
        place_of(run.reference, item, asked.showing)
    free = len(asked.items) * (run.steps - 1)
    if asked.calibrate + asked.verify > free:
        raise UsageError(
            f"memorize: expected at most {free} cells to retrain, all but the items' own steps, got "
            f"{asked.calibrate + asked.verify}; lower --calibrate or --verify"
        )
    return asked


def memorize_run(run: Context, asked: Asked) -> Memorization:
    """Sweep what is missing, estimate every cell, retrain what is asked for; the answer is kept in the run (`answers/`)."""
    estimate, data = estimate_of(run, asked), run.problem.data
    near = Near(probe_groups(data, asked.groups), item_similarity(data, asked.groups, asked.items), asked.group_names)
    with run.progress("maps", len(asked.items)) as tick:
        maps = estimate_maps(estimate, run.reference, asked.items, near, asked.showing, tick)
    result = _answer(run, asked, near, maps)
    path = run.path / files.ANSWERS / f"memorization-{fingerprint(vars(asked))[:12]}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(path, result.as_dict())
    return result


def _answer(run: Context, asked: Asked, near: Near, maps: Maps) -> Memorization:
    """The maps with their intervals and what verification says of them."""
    places, items = [place_of(run.reference, item, asked.showing)[0] for item in asked.items], asked.items
    fitted_on, compared = _cells(run, asked, places)
    with run.progress("retraining", (len(fitted_on.rows) + len(compared.rows)) * run.steps) as tick:
        truths = [_truth(run, asked, near, cells, tick) for cells in (fitted_on, compared)]
    fitted = fit_maps(maps, places, fitted_on, truths[0])
    references = [[_reference(run, name) for name in names_of(i, row, near)] for row, i in enumerate(items)]
    note = TRUTH if method_of(asked.estimator).capabilities.trains else _note(fitted, fitted_on) + _sampled(maps)
    return Memorization(
        asked.estimator,
        run.steps,
        items,
        places,
        {kind: [row[k] for row in references] for k, kind in enumerate(KINDS)},
        {kind: fitted.effects[k].tolist() for k, kind in enumerate(KINDS)},
        {kind: fitted.absence[k].tolist() for k, kind in enumerate(KINDS)},
        near.groups,
        near.similarity.tolist(),
        near.near,
        near.far,
        maps.group_absence.tolist(),
        note + outlier_note(run, items, asked.estimator),
        _by_kind(fitted.half),
        _by_kind(fitted.absence_half),
        {kind: float(np.sqrt(maps.variances[k]).mean()) for k, kind in enumerate(KINDS)},
        fitted.fits or None,
        fitted.check(items, compared, truths[1]),
        asked.showing,
    )


def _by_kind(values: Floats | None) -> dict[str, Any] | None:
    return None if values is None else {kind: values[k].tolist() for k, kind in enumerate(KINDS)}


def _note(fitted: Fitted, cells: Cells) -> str:
    if fitted.half is None:
        return UNCALIBRATED
    without = f" and {len(cells.absent)} orders without an item" if fitted.absence_half is not None else ""
    return f"calibrated on {len(cells.moved)} retrained cells{without}; half-widths of 90 % intervals" + (
        "" if without else f"; those of absence have none, which takes {SHARE * LEAST} cells"
    )


def _sampled(maps: Maps) -> str:
    """What is known of the error without retraining: that of the sample of coordinates."""
    sd = float(np.sqrt(maps.variances[0]).mean())
    return f"; the sampling error over coordinates alone is {sd:.2g} nats/token on the items themselves" if sd else ""


def _cells(run: Context, asked: Asked, places: Sequence[int]) -> tuple[Cells, Cells]:
    """What is retrained for intervals, and what for the comparison: nothing twice."""
    drawn: list[Cells] = []
    for count, key in ((asked.calibrate, CALIBRATED), (asked.verify, VERIFIED)):
        drawn.append(draw_cells(places, run.steps, count, count // SHARE, drawn, [asked.seed, key]))
    return drawn[0], drawn[1]


def _truth(run: Context, asked: Asked, near: Near, cells: Cells, tick: Callable[[], object]) -> Floats:
    """Really retrained changes of the loss against the reference order, [orders, kinds]."""
    found = []
    for row, order in zip(cells.rows, cells.orders(run.reference, asked.items, asked.showing), strict=True):
        trained = run.retrain(order, lambda step, state: tick())
        asked_of_it = [run.readouts.get(name) for name in names_of(asked.items[row], row, near)]
        found.append([run.readouts.truth(r, trained) - run.readouts.at_reference(r) for r in asked_of_it])
    return np.array(found).reshape(-1, len(KINDS))


def _reference(run: Context, name: str) -> float:
    return run.readouts.at_reference(run.readouts.get(name))

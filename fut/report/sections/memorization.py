"""Memorization maps, as the page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fut.display.agreement import BY_KEY, Column
from fut.display.format import amount, number
from fut.display.scale import minus
from fut.questions.memorization.maps import ABSENT, Checked
from fut.questions.memorization.result import Memorization
from fut.report.charts.curves import Curve, bars, curve
from fut.report.charts.heatmap import Heatmap, heatmap
from fut.report.charts.svg import Chart
from fut.report.entries import Missing, Tile, command
from fut.report.section import RunRecord, Section, answered
from fut.report.words import bare, with_article

KINDS = {
    "own": ("the {row} itself", "Loss on the {row}"),
    "near": ("held-out text most like it", "Loss on held-out text most like it"),
    "far": ("held-out text least like it", "Loss on held-out text least like it"),
    "probe": ("all held-out text", "Loss on the probe set"),
}
"""Of every map: whose loss it is, in a sentence and as a title; {row}: a batch, or an item where a step has several."""
SIMILARITY = "cosine similarity of the data"
"""What near and far are by (`fut.data.similarity`): tf-idf vectors of token n-grams, or mean samples of numbers."""
MARKED = 64
"""Rows up to which single cells are large enough to be marked."""


@dataclass(frozen=True)
class Remembered:
    """One answer.

    Args:
        estimator: who answered.
        rows: how many the maps have.
        one: what a row is, in words, as "a batch".
        several: the same of several, as "batches".
        helped: whose loss, and what having a row takes off it on average.
        helped_itself: the same number of the row itself.
        unit: of all losses.
        kept: what is left at the end, in words.
        maps: name and drawing.
        curves: name and drawing.
        header: of the table of estimates against retrained cells.
        checked: its rows.
        note: what the intervals rest on.
        intervals: whether the estimates have any.
    """

    estimator: str
    rows: int
    one: str
    several: str
    helped: list[tuple[str, str]]
    helped_itself: float
    unit: str
    kept: str
    maps: list[tuple[str, Heatmap]]
    curves: list[tuple[str, Chart]]
    header: list[str]
    checked: list[list[str]]
    note: str
    intervals: bool


def memorized(record: RunRecord) -> list[Remembered]:
    """All sets of maps, by file name."""
    places = iter(range(record.count("memorization")))
    return record.read(
        "memorization", lambda content: remembered(Memorization.from_dict(content), next(places), record.row)
    )


def gather(record: RunRecord) -> list[Remembered] | Missing:
    """The maps with their curves."""
    missing = Missing("no map of what is remembered has been made", command(record.run.path, "memorize"))
    return record.once(memorized) or missing


def remembered(answer: Memorization, place: int, row: str = "batch") -> Remembered:
    """What the page shows of an answer.

    Args:
        answer: as it was kept.
        place: of the answer among all, for names of elements.
        row: what a row of its maps is: an `item`, or the `batch` that an item is where every step has one.
    """
    unit, absence, one = answer.unit, answer.generalization["absence"], with_article(row)
    maps = [
        (title.format(row=row), _map(f"map-{place}-{kind}", answer, kind, row)) for kind, (_, title) in KINDS.items()
    ]
    return Remembered(
        answer.estimator,
        len(answer.items),
        one,
        "batches" if row == "batch" else f"{row}s",
        [(whose.format(row=row), minus(amount(absence[kind], unit))) for kind, (whose, _) in KINDS.items()],
        float(absence["own"]),
        unit,
        _kept(answer, one),
        maps,
        [_forgetting(answer, one), *_retention(answer, one), _generalization(answer, one)],
        *_checked(answer.checked, row, unit),
        answer.note,
        answer.maps.half_widths is not None,
    )


def _map(key: str, answer: Memorization, kind: str, row: str) -> Heatmap:
    values = np.array(answer.maps.effects[kind], dtype=float)
    marks = list(enumerate(answer.places)) if len(answer.items) <= MARKED else []
    about = f"Heatmap of the loss by the step at which each {row} of {len(values)} stands, against the reference order"
    return heatmap(key, values, answer.unit, about, "change of the loss", row, names=answer.items, marks=marks)


def _kept(answer: Memorization, one: str) -> str:
    """What is left of an early and of a late row's item, in words."""
    share, best = answer.retention["share"], answer.retention["best_step"]
    if not np.isfinite(answer.advantage).all():
        return f"What is remembered of {one} is not known: some estimates are not finite."
    if share is None:
        return f"On average nothing of {one} is remembered at the end."
    ends = {"first": (0, share[0]), "last": (len(share) - 1, share[-1])}
    left = [
        f"at the {name} step, {minus(f'{100 * s:.0f}')} % of that" for name, (step, s) in ends.items() if step != best
    ]
    said = f"{one.capitalize()} is remembered best when it stands at step {best}; {', and '.join(left)}"
    equal = answer.retention["at_equal_rate"]
    if equal is None or equal["share"] is None:
        return f"{said}."
    last = equal["share"][-1]
    at_last = f"{minus(f'{100 * last:.0f}')} %" if np.isfinite(last) else "unknown, since its rate is 0,"
    return (
        f"{said}, at the learning rates as they were. At equal rates, each step's gain over its rate, the best step is "
        f"{equal['best_step']}, and at the last step {at_last} of that is left."
    )


def _forgetting(answer: Memorization, one: str) -> tuple[str, Chart]:
    forgot = answer.forgetting
    title = f"Forgetting: the loss on {one}, against never having seen it, by the steps since; below 0 is remembered"
    band = forgot["low"], forgot["high"]
    return title, curve(
        Curve(forgot["steps_ago"], forgot["mean"], answer.unit, "steps before the last", "change", band)
    )


AS_THEY_WERE = "at the learning rates as they were"
EQUAL = "at equal learning rates: each step's gain over its rate"


def _retention(answer: Memorization, one: str) -> list[tuple[str, Chart]]:
    """Nothing where nothing is remembered."""
    retention = answer.retention
    if retention["share"] is None:
        return []
    title = f"Retention: what is left at the end of {one} seen at each step, in percent of the best step"
    equal = retention["at_equal_rate"]
    shown = [(f"{title}, {AS_THEY_WERE}" if equal else title, retention["share"])]
    if equal and equal["share"] is not None:
        shown.append((f"{title}, {EQUAL}", equal["share"]))
    return [
        (name, curve(Curve(retention["step"], [100 * s for s in shares], "%", "step", "retained")))
        for name, shares in shown
    ]


def _generalization(answer: Memorization, one: str) -> tuple[str, Chart]:
    general, bands = answer.generalization, answer.generalization["bands"]
    rank = minus(number(general["spearman"], ".3f"))
    title = f"Generalization: what having {one} takes off the loss of held-out text, by likeness (Spearman {rank}); above 0 helps"
    return title, bars(_told_apart(bands["similarity"]), bands["absence"], answer.unit, SIMILARITY, "decrease")


def _told_apart(values: Sequence[float]) -> list[str]:
    """Numbers with two decimals, or with as many more as tell different ones apart."""
    written = ([f"{value:.{digits}f}" for value in values] for digits in range(2, 18))
    return next(
        (labels for labels in written if len(set(labels)) == len(set(values))), [str(value) for value in values]
    )


HEATMAP_ERROR = Column("heatmap_error", "heatmap error", "heatmap error", lambda v: number(v, ".2f"), "0 is best")
COLUMNS = (
    BY_KEY["spearman"],
    BY_KEY["spearman_interval"],
    HEATMAP_ERROR,
    *(BY_KEY[key] for key in ("mae", "skill", "coverage")),
)
"""Of the table of estimates against retrained cells."""


def _checked(checked: Mapping[str, Checked], row: str, unit: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the estimates against retrained cells, kind by kind."""
    kinds = [kind for kind in (*KINDS, *(ABSENT + kind for kind in KINDS)) if kind in checked]
    header = ["retrained", "orders", *(column.titled(unit) for column in COLUMNS)]
    return header, [_checked_row(kind, checked[kind], row) for kind in kinds]


def _checked_row(kind: str, cells: Checked, row: str) -> list[str]:
    whose = kind.removeprefix(ABSENT)
    name = KINDS[whose][0].format(row=row)
    shown = [minus(column.cell(cells.measures)) for column in COLUMNS]
    return [f"{name}, {row} left out" if whose != kind else name, str(len(cells.truth)), *shown]


def tiles(record: RunRecord) -> list[Tile]:
    """What the first set of maps says on average."""
    return [_tile(maps) for maps in record.once(memorized)[:1]]


def _tile(maps: Remembered) -> Tile:
    others = ", ".join(f"{by.removesuffix(maps.unit).rstrip()} on {whose}" for whose, by in maps.helped[1:3])
    words = f"is what having {maps.one} takes off the loss on it at the end, on average; {others}."
    return Tile(f"What is remembered of {maps.one}?", words, bare(maps.helped_itself, maps.unit, ".5f"), maps.unit)


QUESTION = "What is remembered of {a_row}?"
SECTION = Section(
    "memorization",
    "What is remembered?",
    "memorization.html.j2",
    gather,
    (answered(QUESTION, "memorization", "memorize", "--calibrate 16 --verify 64"),),
    tiles,
    heading=QUESTION,
)

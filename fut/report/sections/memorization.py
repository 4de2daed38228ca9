"""Memorization maps, as the page shows them; read from the answers that `fut memorize` keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fut.display.format import amount, interval, number
from fut.report.charts.curves import bars, curve
from fut.report.charts.heatmap import Heatmap, heatmap
from fut.report.charts.svg import Chart, minus

KINDS = {
    "own": ("the {row} itself", "Loss on the {row}"),
    "near": ("held-out text most like it", "Loss on held-out text most like it"),
    "far": ("held-out text least like it", "Loss on held-out text least like it"),
    "probe": ("all held-out text", "Loss on the probe set"),
}
"""Of every map: whose loss it is, in a sentence and as a title; {row}: a batch, or an item where a step has several."""
SIMILARITY = "cosine similarity of the data"
"""What near and far are by (`fut.grouping.similarity`): tf-idf vectors of token n-grams, or mean samples of numbers."""


@dataclass(frozen=True)
class Remembered:
    """One answer. one, several: what a row of the maps is, in words, as "a batch" and "batches". helped: what having one takes
    off the loss of every kind, on average; maps, curves: name and drawing; checked: rows of a table of the estimates against
    retrained cells; note: what the intervals rest on."""

    estimator: str
    rows: int
    one: str
    several: str
    helped: list[tuple[str, str]]
    own: float
    unit: str
    kept: str
    maps: list[tuple[str, Heatmap]]
    curves: list[tuple[str, Chart]]
    header: list[str]
    checked: list[list[str]]
    note: str


def remembered(found: Mapping[str, Any], place: int, row: str = "batch") -> Remembered:
    """From an answer's JSON; KeyError where it lacks a field. place: of the answer among all, for names of elements. row: what a
    row of its maps is: an `item`, or the `batch` that an item is where every step has one."""
    unit, items, effects = found["unit"], found["items"], found["effects"]
    absence = found["generalization"]["absence"]
    marks = list(enumerate(found["places"])) if len(items) <= 64 else []
    maps = [
        (title.format(row=row), _map(f"map-{place}-{kind}", effects[kind], found, marks, row))
        for kind, (_, title) in KINDS.items()
    ]
    header, checked = _checked(found.get("checked") or {}, row)
    return Remembered(
        found["estimator"],
        len(items),
        _one(row),
        "batches" if row == "batch" else f"{row}s",
        [(whose.format(row=row), minus(amount(absence[kind], unit))) for kind, (whose, _) in KINDS.items()],
        float(absence["own"]),
        unit,
        _kept(found["retention"], row),
        maps,
        _curves(found, row),
        header,
        checked,
        str(found["note"]),
    )


def _one(row: str) -> str:
    return f"an {row}" if row == "item" else f"a {row}"


def _map(
    key: str, effects: Sequence[Sequence[float | None]], found: Mapping[str, Any], marks: Any, row: str
) -> Heatmap:
    values = np.array(effects, dtype=float)
    about = f"Heatmap of the loss by the step at which each {row} of {len(values)} stands, against the reference order"
    return heatmap(key, values, found["unit"], about, "change of the loss", row, names=found["items"], marks=marks)


def _kept(retention: Mapping[str, Any], row: str) -> str:
    """What is left of an early and of a late row's item, in words."""
    one = _one(row)
    if retention["share"] is None:
        return f"On average nothing of {one} is remembered at the end."
    share, best = retention["share"], retention["best_step"]
    ends = {"first": (0, share[0]), "last": (len(share) - 1, share[-1])}
    left = [
        f"at the {name} step, {minus(f'{100 * s:.0f}')} % of that" for name, (step, s) in ends.items() if step != best
    ]
    return f"{one.capitalize()} is remembered best when it stands at step {best}; {', and '.join(left)}."


def _curves(found: Mapping[str, Any], row: str) -> list[tuple[str, Chart]]:
    unit, forgetting, retention = found["unit"], found["forgetting"], found["retention"]
    one = _one(row)
    drawn = [
        (
            f"Forgetting: the loss on {one}, against never having seen it, by the steps since",
            curve(
                forgetting["steps_ago"],
                forgetting["mean"],
                unit,
                "steps before the last",
                "change",
                band=(forgetting["low"], forgetting["high"]),
            ),
        )
    ]
    if retention["share"] is not None:
        shares = [100 * s for s in retention["share"]]
        drawn.append(
            (
                f"Retention: what is left at the end of {one} seen at each step, in percent of the best step",
                curve(retention["step"], shares, "%", "step", "retained"),
            )
        )
    bands = found["generalization"]["bands"]
    rank = number(found["generalization"].get("spearman"), ".3f")
    labels = [f"{s:.2f}" for s in bands["similarity"]]
    drawn.append(
        (
            f"Generalization: what having {one} takes off the loss of held-out text, by likeness (Spearman {minus(rank)})",
            bars(labels, bands["absence"], unit, SIMILARITY, "decrease"),
        )
    )
    return drawn


def _checked(checked: Mapping[str, Any], row: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the estimates against retrained cells, kind by kind."""
    header = ["retrained", "orders", "Spearman [90 % interval]", "heatmap error", "MAE", "skill", "coverage"]
    rows = []
    known = [*KINDS, *(f"absent {kind}" for kind in KINDS)]
    for kind in [k for k in known if k in checked]:
        found, own = checked[kind], kind.removeprefix("absent ")
        measured = found["measures"]
        name = KINDS[own][0].format(row=row)
        rank = f"{number(measured['spearman'])} {interval(measured['spearman_interval'])}"
        cells = [
            f"{name}, {row} left out" if own != kind else name,
            str(len(found["truth"])),
            "–" if measured["spearman"] is None else rank,
            number(measured.get("heatmap_error"), ".2f"),
            number(measured["mae"], ".5f"),
            number(measured["skill"], "+.2f"),
            number(measured.get("coverage"), ".2f"),
        ]
        rows.append([cells[0], *map(minus, cells[1:])])
    return header, rows

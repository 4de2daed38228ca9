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
    "own": ("the batch itself", "Loss on the batch"),
    "near": ("held-out text most like it", "Loss on held-out text most like it"),
    "far": ("held-out text least like it", "Loss on held-out text least like it"),
    "probe": ("all held-out text", "Loss on the probe set"),
}
"""Of every map: whose loss it is, in a sentence and as a title."""


@dataclass(frozen=True)
class Remembered:
    """One answer. helped: what having a batch takes off the loss of every kind, on average; maps, curves: name and drawing;
    checked: rows of a table of the estimates against retrained cells; note: what the intervals rest on."""

    estimator: str
    rows: int
    helped: list[tuple[str, str]]
    own: float
    unit: str
    kept: str
    maps: list[tuple[str, Heatmap]]
    curves: list[tuple[str, Chart]]
    header: list[str]
    checked: list[list[str]]
    note: str


def remembered(found: Mapping[str, Any], place: int) -> Remembered:
    """From an answer's JSON; KeyError where it lacks a field. place: of the answer among all, for names of elements."""
    unit, items, effects = found["unit"], found["items"], found["effects"]
    absence = found["generalization"]["absence"]
    marks = list(enumerate(found["places"])) if len(items) <= 64 else []
    maps = [(title, _map(f"map-{place}-{kind}", effects[kind], found, marks)) for kind, (_, title) in KINDS.items()]
    header, checked = _checked(found.get("checked") or {})
    return Remembered(
        found["estimator"],
        len(items),
        [(whose, minus(amount(absence[kind], unit))) for kind, (whose, _) in KINDS.items()],
        float(absence["own"]),
        unit,
        _kept(found["retention"]),
        maps,
        list(_curves(found)),
        header,
        checked,
        str(found["note"]),
    )


def _map(key: str, effects: Sequence[Sequence[float | None]], found: Mapping[str, Any], marks: Any) -> Heatmap:
    values = np.array(effects, dtype=float)
    about = (
        f"Heatmap of the loss by the step at which each of {len(values)} batches stands, against the reference order"
    )
    return heatmap(key, values, found["unit"], about, "change of the loss", names=found["items"], marks=marks)


def _kept(retention: Mapping[str, Any]) -> str:
    """What is left of an early and of a late batch, in words."""
    if retention["share"] is None:
        return "On average nothing of a batch is remembered at the end."
    share, best = retention["share"], retention["best_step"]
    ends = {"first": (0, share[0]), "last": (len(share) - 1, share[-1])}
    left = [
        f"at the {name} step, {minus(f'{100 * s:.0f}')} % of that" for name, (step, s) in ends.items() if step != best
    ]
    return f"A batch is remembered best when it stands at step {best}; {', and '.join(left)}."


def _curves(found: Mapping[str, Any]) -> list[tuple[str, Chart]]:
    unit, forgetting, retention = found["unit"], found["forgetting"], found["retention"]
    drawn = [
        (
            "Forgetting: the loss on a batch, against never having seen it, by the steps since",
            curve(
                forgetting["steps_ago"],
                forgetting["mean"],
                unit,
                "steps before the end",
                "change",
                band=(forgetting["low"], forgetting["high"]),
            ),
        )
    ]
    if retention["share"] is not None:
        shares = [100 * s for s in retention["share"]]
        drawn.append(
            (
                "Retention: what is left at the end of a batch seen at each step, in percent of the best step",
                curve(retention["step"], shares, "%", "step", "left"),
            )
        )
    bands = found["generalization"]["bands"]
    rank = number(found["generalization"].get("spearman"), ".3f")
    labels = [f"{s:.2f}" for s in bands["similarity"]]
    drawn.append(
        (
            f"Generalization: what having a batch takes off the loss of held-out text, by likeness (Spearman {minus(rank)})",
            bars(labels, bands["absence"], unit, "cosine of gradients", "taken off"),
        )
    )
    return drawn


def _checked(checked: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the estimates against retrained cells, kind by kind."""
    header = ["retrained", "orders", "Spearman [90 % interval]", "heatmap error", "MAE", "skill", "coverage"]
    rows = []
    known = [*KINDS, *(f"absent {kind}" for kind in KINDS)]
    for kind in [k for k in known if k in checked]:
        found, own = checked[kind], kind.removeprefix("absent ")
        measured = found["measures"]
        name = KINDS[own][0]
        rank = f"{number(measured['spearman'])} {interval(measured['spearman_interval'])}"
        cells = [
            f"{name}, batch left out" if own != kind else name,
            str(len(found["truth"])),
            "–" if measured["spearman"] is None else rank,
            number(measured.get("heatmap_error"), ".2f"),
            number(measured["mae"], ".5f"),
            number(measured["skill"], "+.2f"),
            number(measured.get("coverage"), ".2f"),
        ]
        rows.append([cells[0], *map(minus, cells[1:])])
    return header, rows

"""Memorization maps as text and pictures for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fut.display.format import columns, interval, number
from fut.display.picture import save
from fut.display.scale import shown_unit
from fut.questions.memorization.maps import ABSENT, KINDS
from fut.questions.memorization.result import Memorization

TITLES = {
    "own": "the item itself",
    "near": "held-out text near it",
    "far": "held-out text far from it",
    "probe": "all held-out text",
}
COLOURS, BAD = "RdBu_r", "#999999"


def memorization(answer: Memorization) -> str:
    """What the maps say, a line each, and a row for every kind."""
    header = ["loss on", "without the item", "range over its steps", "± (90 %)"]
    rows = [
        [
            TITLES[kind],
            f"{np.mean(answer.maps.absence[kind]):+.5f}",
            f"{np.ptp(answer.maps.effects[kind], axis=1).mean():.5f}",
            number(None if answer.maps.half_widths is None else float(np.mean(answer.maps.half_widths[kind])), ".2g"),
        ]
        for kind in KINDS
    ]
    unit = shown_unit(answer.unit)
    general, pairs = answer.generalization, len(answer.items) * len(answer.probe_groups.groups)
    lines = [
        f"{len(answer.items)} item{'' if len(answer.items) == 1 else 's'} over {answer.steps} steps, by {answer.estimator}; "
        f"means over items{f' in {unit}' if unit else ''}, against the reference order (negative is better)",
        "",
        columns([header, *rows]),
        "",
        _kept(answer),
        "does held-out text that is more like an item gain more from it? Spearman of similarity and gain "
        f"{number(general['spearman'], '.3f')} over {pairs} pairs of item and group",
        answer.note,
    ]
    return "\n".join([*lines, *_checked(answer)])


def _kept(answer: Memorization) -> str:
    kept = answer.retention
    if kept["share"] is None:
        return "nothing is remembered of the items: the loss on them is lower without them"
    line = (
        f"the loss on an item gains most when step {kept['best_step']} of 0..{answer.steps - 1} trains on it; "
        f"step 0 gives {kept['share'][0]:.0%} of that gain, the last step {kept['share'][-1]:.0%}"
    )
    equal = kept["at_equal_rate"]
    if equal is None or equal["share"] is None:
        return line
    first, last = (_percent(equal["share"][place]) for place in (0, -1))
    return (
        f"{line}, at the learning rates as they were\nat equal learning rates (each step's gain over its rate): most at step "
        f"{equal['best_step']}, step 0 {first}, the last step {last}"
    )


def _percent(share: float) -> str:
    return f"{share:.0%}" if np.isfinite(share) else "unknown (its rate is 0)"


def _checked(answer: Memorization) -> list[str]:
    if not answer.checked:
        return []
    header = [
        "retrained",
        "cells",
        "Spearman",
        "[90 % interval]",
        "Pearson",
        "heatmap error",
        "skill",
        "coverage",
    ]
    rows = []
    for kind in (*KINDS, *(ABSENT + k for k in KINDS)):
        if kind not in answer.checked:
            continue
        measured = answer.checked[kind].measures
        name = TITLES[kind.removeprefix(ABSENT)] + (", without it" if kind.startswith(ABSENT) else "")
        rows.append([name, str(len(answer.checked[kind].cells)), *_row(measured)])
    return [
        "",
        "heatmap error: |estimated - true| / |true - mean|; skill: against the baseline `no change`",
        "",
        columns([header, *rows]),
    ]


def _row(measured: dict[str, Any]) -> list[str]:
    return [
        number(measured["spearman"]),
        interval(measured["spearman_interval"]),
        number(measured["pearson"]),
        number(measured["heatmap_error"]),
        number(measured["skill"], "+.2f"),
        number(measured["coverage"], ".2f"),
    ]


def picture(answer: Memorization, path: Path) -> Path:
    """The maps side by side, retrained cells outlined, written as PNG; blue is better, red worse than the reference order."""
    from matplotlib.figure import Figure

    panels = len(KINDS) + 1
    figure = Figure(figsize=(3.6 * panels, 3.9), dpi=130, layout="constrained")
    *maps, curves = figure.subplots(1, panels)
    for axis, kind in zip(maps, KINDS, strict=True):
        _map(figure, axis, answer, kind)
    _retention(curves, answer)
    unit = f"10⁻³ {shown_unit(answer.unit)}".rstrip()
    figure.suptitle(f"loss with item i at step j minus the loss in the reference order [{unit}]", fontsize=10)
    return save(figure, path)


def _retention(axis: Any, answer: Memorization) -> None:
    """What is left of an item by the step that trains on it, at the rates as they were and at equal ones."""
    kept = answer.retention
    for name, of in (("at the rates as they were", kept), ("at equal rates", kept["at_equal_rate"])):
        if of is not None and of["share"] is not None:
            axis.plot(kept["step"], 100 * np.asarray(of["share"], dtype=float), label=name)
    axis.set_title("gain on the item itself", fontsize=9)
    axis.set_xlabel("step j", fontsize=8)
    axis.set_ylabel("% of the best step's", fontsize=8)
    axis.tick_params(labelsize=7)
    if axis.lines:
        axis.legend(fontsize=6.5, frameon=False)


def _map(figure: Any, axis: Any, answer: Memorization, kind: str) -> None:
    values = 1e3 * np.asarray(answer.maps.effects[kind], dtype=float)
    limit = float(np.nanmax(np.abs(values))) or 1.0
    shown = axis.imshow(values, cmap=COLOURS, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axis.plot(answer.places, range(len(answer.items)), ".", color="black", markersize=2)
    if kind in answer.checked:
        rows = {item: row for row, item in enumerate(answer.items)}
        cells = answer.checked[kind].cells
        axis.scatter(
            [c[1] for c in cells], [rows[c[0]] for c in cells], s=9, facecolors="none", edgecolors=BAD, linewidths=0.5
        )
    axis.set_title(TITLES[kind], fontsize=9)
    axis.set_xlabel("step j", fontsize=8)
    axis.set_ylabel("item i (row)", fontsize=8)
    axis.tick_params(labelsize=7)
    figure.colorbar(shown, ax=axis, shrink=0.85).ax.tick_params(labelsize=7)

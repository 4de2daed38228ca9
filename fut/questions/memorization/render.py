"""Memorization maps as text and pictures for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fut.display.format import columns, interval, number
from fut.display.picture import save
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
    general, pairs = answer.generalization, len(answer.items) * len(answer.probe_groups.groups)
    lines = [
        f"{len(answer.items)} item{'' if len(answer.items) == 1 else 's'} over {answer.steps} steps, by {answer.estimator}; "
        "means over items in nats/token, against the reference order (negative is better)",
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
    return (
        f"the loss on an item gains most when step {kept['best_step']} of 0..{answer.steps - 1} trains on it; "
        f"step 0 gives {kept['share'][0]:.0%} of that gain, the last step {kept['share'][-1]:.0%}"
    )


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

    figure = Figure(figsize=(3.6 * len(KINDS), 3.9), dpi=130, layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(KINDS)), KINDS, strict=True):
        _map(figure, axis, answer, kind)
    figure.suptitle("loss with item i at step j minus the loss in the reference order [10⁻³ nats/token]", fontsize=10)
    return save(figure, path)


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

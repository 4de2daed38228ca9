"""Memorization maps side by side: estimated and true, and one against the other, a row for every setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from storage import replacing

BLUE, GREY, COLOURS = "#0072B2", "#888888", "RdBu_r"
NAMES = {"iid": "mixed", "heterogeneous": "heterogeneous"}
SHOWN = {"own": "on item i itself", "probe": "on all held-out text"}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The loss on the item and on held-out text by (item, step), estimated and retrained; rows without truth are left out."""
    rows = [row for row in rows if row["true"] is not None]
    if not rows:
        return
    figure = Figure(figsize=(15, 3.1 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots(len(rows), 6, squeeze=False, width_ratios=[1, 1.12, 1, 1, 1.12, 1])
    for line, row in zip(axes, rows, strict=True):
        for k, kind in enumerate(SHOWN):
            _three(figure, line[3 * k : 3 * k + 3], row, kind)
        line[0].set_ylabel(f"{NAMES[row['items']]} items\n\nitem i", fontsize=8)
    figure.suptitle(
        "loss with item i at step j minus the loss in the reference order [10⁻³ nats/token]; every cell estimated from one "
        "sweep, and really retrained",
        fontsize=10,
    )
    with replacing(path) as part:
        figure.savefig(part, format="png")


def _three(figure: Any, axes: Any, row: dict[str, Any], kind: str) -> None:
    """Estimated map, true map, and one against the other."""
    guess, true = (1e3 * np.asarray(row[name]["effects"][kind]) for name in ("estimated", "true"))
    limit = max(np.abs(guess).max(), np.abs(true).max())
    for axis, values, title in zip(axes, (guess, true), ("estimated", "retrained"), strict=False):
        shown = axis.imshow(values, cmap=COLOURS, vmin=-limit, vmax=limit, interpolation="nearest")
        axis.set_title(f"{SHOWN[kind]}, {title}", fontsize=8)
        axis.set_xlabel("step j", fontsize=8)
        axis.tick_params(labelsize=7)
    figure.colorbar(shown, ax=axes[1], shrink=0.85).ax.tick_params(labelsize=7)
    measured = row["checked"][kind]
    ends = [true.min(), true.max()]
    axes[2].plot(ends, ends, color=GREY, linewidth=1)
    axes[2].plot(true.ravel(), guess.ravel(), ".", color=BLUE, markersize=2, alpha=0.5)
    axes[2].set_title(f"Spearman {measured['spearman']:.4f}, error {measured['heatmap_error']:.3f}", fontsize=8)
    axes[2].set_xlabel("retrained", fontsize=8)
    axes[2].set_ylabel("estimated", fontsize=8)
    axes[2].tick_params(labelsize=7)
    axes[2].set_box_aspect(1)

"""The record of `ablations.py` as a table and as a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

BOOTSTRAP, BOOTSTRAP_SEED = 2000, 20_220
DEFAULT = "default"
GROUPS = ("centre", "ensemble", "anchors", "coordinates", "curvature", "precompute", "products", "order", "moments")
Row = dict[str, Any]


def settings_of(results: Row) -> list[str]:
    """Settings with results, by T, iid items first."""
    found = [s for s in results["settings"] if rows_of(results, s, DEFAULT)]
    return sorted(found, key=lambda s: (int(s.partition("-")[0]), s.partition("-")[2] != "iid"))


def rows_of(results: Row, setting: str, group: str) -> list[list[Row]]:
    """A group's rows of a setting, those that differ in their seed alone together."""
    found: dict[str, list[Row]] = {}
    for row in results["rows"]:
        if row["setting"] == setting and row["group"] == group:
            found.setdefault(row["variant"], []).append(row)
    return list(found.values())


def difference(row: Row, default: Row, truth: Row) -> tuple[float, float, float]:
    """Spearman of a variant minus the default's on the same orders, with a 90 % paired bootstrap interval."""
    n = row["orders"]
    true = rankdata(truth["true_losses"][:n])
    ours, theirs = (rankdata(_finite(r["estimated_losses"][:n])) for r in (row, default))
    chosen = np.random.default_rng(BOOTSTRAP_SEED).integers(n, size=(BOOTSTRAP, n))
    differences = [_pearson(true[c], ours[c]) - _pearson(true[c], theirs[c]) for c in chosen]
    low, high = np.nanquantile(differences, [0.05, 0.95])
    return _pearson(true, ours) - _pearson(true, theirs), float(low), float(high)


def _finite(losses: Sequence[float | None]) -> np.ndarray:
    return np.array([np.inf if loss is None else loss for loss in losses])


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else float("nan")


# --- tables


def table(results: Row, compact: bool) -> str:
    """Markdown: every number of every row, or a line per variant and a column per setting."""
    return (_compact(results) if compact else _full(results)) + "\n\n" + _product_errors(results)


def _product_errors(results: Row) -> str:
    """Relative error of the sweep's central differences, the mean over the steps that were looked at."""
    lines = []
    for row in results["rows"]:
        if found := row.get("product_errors"):
            errors = [f"{np.mean(e):.2%} ({min(e):.2%} to {max(e):.2%}) at h = {h}" for h, e in found.items()]
            lines.append(f"Error of the product, {row['setting']}: " + ", ".join(errors))
    return "\n".join(lines)


def _full(results: Row) -> str:
    lines = [
        "| setting | ablation | variant | seed | n | runs | Spearman [90 %] | minus default [90 %] | skill | calibrated | "
        "coverage ± sd | width / sd |"
    ]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for setting in settings_of(results):
        rows, truth = [r for r in results["rows"] if r["setting"] == setting], results["settings"][setting]
        default = rows[0]  # it is measured first
        for row in rows:
            moved, down, up = difference(row, default, truth)
            c = row["calibrated"]
            tried = [f"{c['skill']:+.2f}", f"{c['coverage']:.2f} ± {c['coverage_sd']:.2f}", f"{c['width']:.2f}"]
            cells = [setting, row["group"], row["variant"], str(row["seed"]), str(row["orders"])]
            cells += [f"{row['precompute_training_runs']:.1f}", _interval(row)]
            cells += ["" if row is default else f"{moved:+.3f} [{down:+.3f}, {up:+.3f}]"]
            cells += [f"{row['accuracy']['skill']:+.2f}", *(tried if c else [""] * 3)]
            lines.append(_line(cells))
    return "\n".join(lines)


def _compact(results: Row) -> str:
    settings = settings_of(results)
    lines = ["| ablation | variant | runs | " + " | ".join(f"T = {s.replace('-', ', ')}" for s in settings) + " |"]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for group in (DEFAULT, *GROUPS):
        found = {s: {rows[0]["variant"]: rows for rows in rows_of(results, s, group)} for s in settings}
        for variant in dict.fromkeys(v for s in settings for v in found[s]):
            counts = dict.fromkeys(
                f"{found[s][variant][0]['precompute_training_runs']:.0f}" for s in settings if variant in found[s]
            )
            runs = " or ".join(counts)
            lines.append(_line([group, variant, runs, *(_cell(found[s].get(variant, [])) for s in settings)]))
    return "\n".join(lines)


def _cell(rows: list[Row]) -> str:
    if not rows:
        return ""
    spearman = [r["accuracy"]["spearman"] for r in rows]
    skill = np.mean([r["calibrated"]["skill"] for r in rows]) if all(r["calibrated"] for r in rows) else np.nan
    shown = _interval(rows[0]) if len(rows) == 1 else f"{np.mean(spearman):.3f} ± {np.std(spearman, ddof=1):.3f}"
    return f"{shown} / {skill:+.2f}"


def _interval(row: Row) -> str:
    value = row["accuracy"]["spearman"]
    if value is None:
        return "–"
    low, high = row["accuracy"]["spearman_interval"]
    return f"{value:.3f} [{low:.2f}, {high:.2f}]"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(re.sub(r"(^|[ \[])-", r"\1−", cell) for cell in cells) + " |"


# --- picture

STYLES = {
    "centre": ("#0072B2", "o"),
    "anchors": ("#E69F00", "s"),
    "coordinates": ("#009E73", "D"),
    "curvature": ("#CC79A7", "^"),
    "ensemble": ("#8B5A2B", "<"),
    "precompute": ("#7A7A00", ">"),
    "products": ("#56B4E9", "v"),
    "order": ("#D55E00", "P"),
    "moments": ("#444444", "X"),
}
LABELS = {
    **{f"pool = {pool}, drawn anew every step": f"pool={pool} anew" for pool in (1, 2, 8)},
    "reference order": "ref.",
    "order 0 about the trajectory": "order 0",
    "replay (order 0 about the reference)": "replay",
    "replay-exact (order 1)": "replay-exact (n = 16)",
    "adjoint, v of the trajectory": "v frozen",
    "taylor1, reference": "taylor1",
    "taylor1, replayed": "taylor1, repl.",
    "taylor1, no sketch, reference": "taylor1, k = D",
    "taylor1, no sketch, replayed": "taylor1, repl., k = D",
}
MEASURES = {"spearman": "1 − Spearman", "skill": "1 − calibrated skill"}


def picture(results: Row, path: Path) -> None:
    """What is left of the error against precompute: a column per setting, a row per measure; lower is better."""
    from matplotlib.figure import Figure

    settings = settings_of(results)
    figure = Figure(figsize=(5.4 * len(settings), 9.6), dpi=130, layout="constrained")
    axes = figure.subplots(2, len(settings), squeeze=False, sharex="col", sharey="row")
    for column, setting in enumerate(settings):
        for axis, measure in zip(axes[:, column], MEASURES, strict=True):
            _panel(axis, results, setting, measure)
        n = len(results["settings"][setting]["true_losses"])
        axes[0, column].set_title(f"T = {setting.replace('-', ', ')} (n = {n})", fontsize=11)
        axes[1, column].set_xlabel("precompute, training runs")
    for axis, label in zip(axes[:, 0], MEASURES.values(), strict=True):
        axis.set_ylabel(f"{label}, lower is better")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.suptitle("One part changed at a time; the default is the large ring", fontsize=11)
    figure.savefig(path)


def _panel(axis: Any, results: Row, setting: str, measure: str) -> None:
    default, named = rows_of(results, setting, DEFAULT)[0], []
    for group, (colour, marker) in STYLES.items():
        points = [
            (_x(rows), left, str(rows[0]["variant"]))
            for rows in rows_of(results, setting, group)
            if (left := _left(rows, measure)) is not None
        ]
        if not points:
            continue
        x, y = [p[0] for p in points], [p[1] for p in points]
        axis.plot(x, y, color=colour, marker=marker, linestyle="", label=group)
        named += [(*point, colour) for point in _merged(points)]
    ring = {"fillstyle": "none", "markersize": 12, "label": DEFAULT}
    axis.plot([_x(default)], [_left(default, measure)], "o", color="black", **ring)
    axis.set_xscale("symlog", linthresh=7, linscale=0.3)
    axis.set_xlim(-1.5, 150)
    axis.set_xticks([0, 8, 11, 16, 32, 64, 96], ["0", "8", "11", "16", "32", "64", "96"])
    axis.minorticks_off()
    axis.set_yscale("log")
    axis.margins(y=0.12)
    axis.grid(alpha=0.25)
    axis.figure.draw_without_rendering()
    _name(axis, named)


def _merged(points: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """A group's points that lie on one another as one, with all their names."""
    kept: list[tuple[float, float, str]] = []
    for x, y, name in sorted(points):
        text = LABELS.get(name, name).replace(" = ", "=")
        if kept and kept[-1][0] == x and y < 1.06 * kept[-1][1]:
            kept[-1] = (x, kept[-1][1], f"{kept[-1][2]} · {text}")
        else:
            kept.append((x, y, text))
    return kept


def _name(axis: Any, points: list[tuple[float, float, str, str]]) -> None:
    """Write every point's name as near to it as leaves all names and markers legible, with a line to it."""
    scale = axis.figure.dpi / 72
    places = axis.transData.transform([p[:2] for p in points])
    taken = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in places]
    inside = axis.get_window_extent()
    turns = np.exp(2j * np.pi * np.arange(16) / 16)
    for (x, y), (at, value, text, colour) in sorted(zip(places, points, strict=True), key=lambda p: tuple(p[0])):
        width, height = 4.3 * scale * len(text), 9.5 * scale
        for reach in range(9, 200, 4):
            found = [(x + d.real * (reach * scale + width / 2), y + d.imag * reach * scale) for d in turns]
            boxes = [(a - width / 2, b - height / 2, a + width / 2, b + height / 2) for a, b in found]
            free = [b for b in boxes if inside.x0 < b[0] and b[2] < inside.x1 and inside.y0 < b[1] and b[3] < inside.y1]
            free = [b for b in free if not any(_overlap(b, t) for t in taken)]
            if free:
                break
        box = min(free or boxes, key=lambda b: abs(b[0] + b[2] - 2 * x) + abs(b[1] + b[3] - 2 * y))
        taken.append(box)
        centre = ((box[0] + box[2]) / 2 / scale - x / scale, (box[1] + box[3]) / 2 / scale - y / scale)
        kept = {"textcoords": "offset points", "fontsize": 6.5, "color": "#222222", "ha": "center", "va": "center"}
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2}
        axis.annotate(text, (at, value), centre, arrowprops=arrow, **kept)


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _x(rows: list[Row]) -> float:
    runs: float = rows[0]["precompute_training_runs"]
    return runs


def _left(rows: list[Row], measure: str) -> float | None:
    """1 - the measure, the mean over seeds; None where it could not be taken."""
    if measure == "skill":
        values = [r["calibrated"]["skill"] if r["calibrated"] else None for r in rows]
    else:
        values = [r["accuracy"]["spearman"] for r in rows]
    known = [v for v in values if v is not None]
    return None if len(known) < len(values) else 1 - float(np.mean(known))

"""Accuracy against model size and against precompute, from records that others wrote: a table and a picture.

python benchmarks/curves.py      (reads records/adjoint-accuracy-*.json and records/ablations-1m.json, trains nothing)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from adjoint_table import resplit
from record import RECORDS

SIZES = ("balanced", "279k-balanced", "1m-balanced", "2780k-balanced")
"""Records of the default on models of four sizes."""
PRECOMPUTE = "ablations-1m"
SPENT = {
    "1m-balanced": "4 runs, pool = 2, A = 3",
    "1m-balanced-16": "16 runs, pool = 4, A = 5",
    "1m-balanced-24": "24 runs, pool = 8, A = 5, twice the coordinates",
}
"""Records of one size and T = 64, by what was spent."""
MEASURES = {"spearman": "Spearman", "skill": "calibrated skill"}
COLOURS, MARKERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), "osD^"
Row = dict[str, Any]


def by_size() -> list[Row]:
    """Size, T, Spearman with its interval, calibrated skill and cost of every cosine run on mixed items at rate 1e-3."""
    rows: list[Row] = []
    for name in SIZES:
        path = RECORDS / f"adjoint-accuracy-{name}.json"
        found = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []
        alike = [r for r in found if (r["items"], r["schedule"], r["rate"]) == ("iid", "cosine", 1e-3)]
        rows += [_figures(r) | {"parameters": r["parameters"], "steps": r["steps"]} for r in alike]
    return sorted(rows, key=lambda r: (r["steps"], r["parameters"]))


def _figures(row: Row) -> Row:
    many, faster = resplit(row), row["retrain_seconds"] / row["seconds_per_order_of_many"]
    return {
        "spearman": row["accuracy"]["spearman"],
        "interval": row["accuracy"]["spearman_interval"],
        "skill": many["skill"],
        "runs": row["precompute_training_runs"],
        "store": row["store_in_lifted_states"],
        "faster": faster,
    }


def by_precompute() -> dict[str, list[Row]]:
    """Of every setting of the record: training runs, Spearman and calibrated skill, by what was spent."""
    path, found = RECORDS / f"{PRECOMPUTE}.json", dict[str, list[Row]]()
    for row in json.loads(path.read_text(encoding="utf-8"))["results"]["rows"] if path.exists() else []:
        if row["group"] == "precompute":
            figures = {
                "runs": row["precompute_training_runs"],
                "spearman": row["accuracy"]["spearman"],
                "interval": row["accuracy"]["spearman_interval"],
                "skill": row["calibrated"]["skill"],
                "variant": row["variant"],
            }
            found.setdefault(f"{row['setting']}, all coordinates", []).append(figures)
    for name, variant in SPENT.items():
        path = RECORDS / f"adjoint-accuracy-{name}.json"
        rows = json.loads(path.read_text(encoding="utf-8"))["results"] if path.exists() else []
        alike = [_figures(row) | {"variant": variant} for row in rows if row["steps"] == 64]
        found.setdefault("64-iid, 8,192 coordinates (last: 16,384)", []).extend(alike)
    return {setting: sorted(rows, key=lambda r: r["runs"]) for setting, rows in found.items()}


def table(sizes: list[Row], spent: dict[str, list[Row]]) -> str:
    lines = [
        "| T | parameters | Spearman [90 %] | calibrated skill | runs | store / state | an order: 1 / of a retraining |"
    ]
    lines.append("|---" * 7 + "|")
    for r in sizes:
        low, high = r["interval"]
        cells = [
            f"{r['steps']}",
            f"{r['parameters']:,}",
            f"{r['spearman']:.3f} [{low:.2f}, {high:.2f}]",
            f"{r['skill']:.2f}",
        ]
        cells += [f"{r['runs']:.1f}", f"{r['store']:.1f}", f"{r['faster']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    for setting, rows in spent.items():
        lines += [
            "",
            f"T = {setting.replace('-iid', '')}",
            "",
            "| spent | runs | Spearman | calibrated skill |",
            "|---" * 4 + "|",
        ]
        lines += [f"| {r['variant']} | {r['runs']:.1f} | {r['spearman']:.3f} | {r['skill']:.2f} |" for r in rows]
    return "\n".join(lines)


def picture(sizes: list[Row], spent: dict[str, list[Row]]) -> None:
    """Two panels a measure: against parameters, a line per T; against training runs spent, a line per setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 6.4), dpi=130, layout="constrained")
    axes = figure.subplots(2, 2, sharey="row")
    for (left, right), (measure, label) in zip(axes, MEASURES.items(), strict=True):
        groups = {f"T = {t}": [r for r in sizes if r["steps"] == t] for t in sorted({r["steps"] for r in sizes})}
        _lines(left, groups, "parameters", measure)
        named = {f"T = {s.replace('-iid', '')}": rows for s, rows in spent.items()}
        _lines(right, named, "runs", measure)
        left.set_ylabel(label)
    axes[1, 0].set_xlabel("parameters (the default, 17 to 18 training runs)")
    axes[1, 1].set_xlabel("precompute, training runs (1,065,344 parameters)")
    for axis in axes[:, 1]:
        axis.set_xscale("linear")
    figure.suptitle(
        "The adjoint against real retraining: AdamW, cosine from 10⁻³, mixed items, n = 48; shaded: 90 %", fontsize=11
    )
    figure.savefig(RECORDS / "curves.png")


def _lines(axis: Any, groups: dict[str, list[Row]], along: str, measure: str) -> None:
    for (label, rows), colour, marker in zip(groups.items(), COLOURS, MARKERS, strict=False):
        x, y = [r[along] for r in rows], [r[measure] for r in rows]
        axis.plot(x, y, marker=marker, color=colour, label=label)
        if measure == "spearman":
            axis.fill_between(x, *zip(*(r["interval"] for r in rows), strict=True), color=colour, alpha=0.15)
    axis.set_xscale("log")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=9)


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    sizes, spent = by_size(), by_precompute()
    print(table(sizes, spent))
    picture(sizes, spent)
    return 0


if __name__ == "__main__":
    sys.exit(main())

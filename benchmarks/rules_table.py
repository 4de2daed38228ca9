"""The record of `rules.py` as a table, and as a picture: how much the end of training depends on the order, by update rule.

python benchmarks/rules_table.py      (reads records/rules.json, trains nothing, draws records/rules.png)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from record import RECORDS

FULL, TOLERANCE = "language reference", 2e-3
FAMILIES = {"adjoint": "#0072B2", "replay": "#D55E00", "replay-exact": "#009E73", "": "#777777"}
"""Colours by the first estimator that takes the rule."""
Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    found: list[Row] = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))["results"]
    return found


def first_of(row: Row) -> str:
    """The estimator that is measured on all orders; "" where none takes the rule."""
    return next(iter(row["accuracy"]), "")


def reached(row: Row) -> bool:
    """Whether the rule ends at the common training loss."""
    return bool(abs(row["training_loss"] - row["target"]) <= TOLERANCE)


def cells(row: Row, name: str) -> list[str]:
    """Orders, Spearman with its interval, skill and coverage of an estimator; dashes where there is none."""
    found = row["accuracy"].get(name)
    if found is None:
        return ["–"] * 4
    low, high = found["spearman_interval"] or (float("nan"), float("nan"))
    coverage = "–" if found["coverage"] is None else f"{found['coverage']:.2f}"
    return [
        str(found["orders"]),
        f"{found['spearman']:.3f} [{low:.2f}, {high:.2f}]",
        f"{found['skill']:+.2f}",
        coverage,
    ]


def table(rows: Sequence[Row]) -> str:
    """A line a row, by the size of the order effect."""
    head = "text | rule | rate | training loss | order effect [90 %] | estimator | n | Spearman [90 %] | skill | coverage | "
    head += "`replay-exact`: n | Spearman [90 %] | skill"
    lines = [f"| {head} |", "|---" * (head.count(" | ") + 1) + "|"]
    for row in sorted(rows, key=lambda r: (r["text"] != FULL, r["text"], -r["true_sd"])):
        low, high = row["true_sd_interval"]
        first = first_of(row)
        exact = cells(row, "replay-exact")[:3] if first != "replay-exact" else ["–"] * 3
        own = [row["text"], f"`{row['case']}`", f"{row['rate']:.2g}", f"{row['training_loss']:.3f}"]
        own += [f"{row['true_sd']:.5f} [{low:.5f}, {high:.5f}]", f"`{first}`" if first else "none"]
        lines.append("| " + " | ".join([*own, *cells(row, first), *exact]).replace("-0.", "−0.") + " |")
    return "\n".join(lines)


def picture(rows: Sequence[Row], name: str) -> None:
    """Standard deviations with their intervals, the largest at the top."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = sorted((r for r in rows if r["text"] == FULL), key=lambda r: r["true_sd"])
    figure = Figure(figsize=(8.4, 0.31 * len(shown) + 1.7), dpi=130, layout="constrained")
    axis = figure.subplots()
    for place, row in enumerate(shown):
        low, high = row["true_sd_interval"]
        colour = FAMILIES[first_of(row)]
        axis.plot([1e3 * low, 1e3 * high], [place, place], color=colour, lw=2, alpha=0.5)
        filled = colour if reached(row) else "white"
        axis.plot(1e3 * row["true_sd"], place, "o", color=colour, markerfacecolor=filled, ms=6)
    axis.set_yticks(range(len(shown)), [r["case"] for r in shown], fontsize=9)
    axis.set_xlim(left=0)
    axis.set_xlabel("sd of the probe loss over random orders [10⁻³ nats/token], 90 % intervals")
    axis.grid(axis="x", alpha=0.25)
    used = dict.fromkeys(map(first_of, shown))
    marks = [
        Line2D([], [], color=FAMILIES[n], marker="o", label=f"estimated by {n or 'nothing but retraining'}")
        for n in used
    ]
    if not all(map(reached, shown)):
        marks.append(Line2D([], [], color="#777777", marker="o", mfc="white", lw=0, label="another training loss"))
    axis.legend(handles=marks, frameon=False, fontsize=8, loc="lower right")
    first = shown[0]
    about = f"T = 32, cosine, {first['parameters']:,} parameters, n = {first['orders']} orders"
    figure.suptitle(f"Order effect by update rule, at equal training loss\n{about}", fontsize=10)
    figure.savefig(RECORDS / f"{name}.png")


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--name", default="rules")
    arguments = cli.parse_args(argv)
    rows = rows_of(arguments.name)
    print(table(rows))
    picture(rows, arguments.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())

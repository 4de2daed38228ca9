"""The records of `adjoint_accuracy.py` as one table, with coverage over many ways to choose the calibration orders.

python benchmarks/adjoint_table.py > benchmarks/records/adjoint-accuracy.md   (reads records, trains nothing)
python benchmarks/adjoint_table.py 1m-balanced wikitext-balanced              (only these)
python benchmarks/adjoint_table.py --grid balanced grid                       (a row a setting, a column a number of steps)

One calibration on 8 orders is one draw, and its coverage scatters by about 0.1. So the n retrained orders are split at random
into 8 to calibrate on and n - 8 to judge, 300 times.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from record import RECORDS

from estimators.intervals import calibrate

SPLITS, CALIBRATION, SEED = 300, 8, 0
NORMAL = 3.29
"""Width / sd of the interval that holds 90 % of a normal distribution: what the spread of the losses alone says."""


def resplit(row: dict[str, Any]) -> dict[str, float]:
    """Mean and sd of coverage, mean calibrated skill and mean interval width / sd of the retrained losses."""
    true, guess = np.asarray(row["true_losses"]), np.asarray(row["estimated_losses"])
    draw, baseline = np.random.default_rng(SEED), np.abs(row["reference_loss"] - true).mean()
    coverage, skill, width = [], [], []
    for _ in range(SPLITS):
        chosen = draw.permutation(len(true))
        fitted, judged = chosen[:CALIBRATION], chosen[CALIBRATION:]
        fit = calibrate(list(true[fitted]), list(guess[fitted]))
        low, high = np.array([fit.interval(g) for g in guess[judged]]).T
        coverage.append(((low <= true[judged]) & (true[judged] <= high)).mean())
        skill.append(1 - np.abs([fit.correct(g) for g in guess[judged]] - true[judged]).mean() / baseline)
        width.append((high - low).mean() / true.std(ddof=1))
    return {
        "coverage": float(np.mean(coverage)),
        "coverage_sd": float(np.std(coverage)),
        "skill": float(np.mean(skill)),
        "width": float(np.mean(width)),
    }


def line(name: str, row: dict[str, Any], many: dict[str, float]) -> str:
    found = row["accuracy"]
    low, high = found["spearman_interval"]
    cells = [
        name,
        f"{row['parameters'] / 1e3:.0f}k",
        row["items"],
        row["schedule"],
        f"{row['rate']:g}",
        str(row["steps"]),
        f"{row['true_sd']:.4f}",
        f"{found['spearman']:.3f} [{low:.2f}, {high:.2f}]",
        f"{found['skill_uncalibrated']:+.2f}",
        f"{many['skill']:+.2f}",
        f"{many['coverage']:.2f} ± {many['coverage_sd']:.2f}",
        f"{many['width']:.2f}",
        f"{row['precompute_training_runs']:.1f}",
        f"{row['store_in_lifted_states']:.1f}",
    ]
    return "| " + " | ".join(cells).replace("-", "−") + " |"


def summary(every: list[dict[str, float]]) -> str:
    """Coverage and width over all settings, none of which any constant of an interval was fitted to."""
    coverage, width = ([many[name] for many in every] for name in ("coverage", "width"))
    return (
        f"{len(every)} settings: coverage {np.mean(coverage):.3f} on average, {min(coverage):.2f} to {max(coverage):.2f}; width "
        f"{np.mean(width):.2f} standard deviations on average, {sum(w > NORMAL for w in width)} of them wider than {NORMAL}, the "
        "90 % of a normal distribution of losses"
    )


def grid(paths: Sequence[Path]) -> None:
    """Print Spearman / calibrated skill / coverage of some records, steps in columns; and a line on their intervals."""
    cells, every = dict[tuple[str, ...], dict[int, str]](), list[dict[str, float]]()
    for path in paths:
        for row in _rows(path):
            every.append(resplit(row))
            setting = (row["schedule"], f"{row['rate']:g}", row["items"])
            cell = f"{row['accuracy']['spearman']:.3f} / {every[-1]['skill']:.2f} / {every[-1]['coverage']:.2f}"
            cells.setdefault(setting, {})[row["steps"]] = cell.replace("-", "−")
    columns = sorted({steps for of in cells.values() for steps in of})
    print("| schedule | rate | items | " + " | ".join(f"T = {steps}" for steps in columns) + " |")
    print("|---" * (3 + len(columns)) + "|")
    for named in sorted(cells, key=lambda s: (s[0] != "cosine", float(s[1]), s[2] != "iid")):
        print("| " + " | ".join([*named, *(cells[named].get(steps, "–") for steps in columns)]) + " |")
    print("\n" + summary(every))


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = json.loads(path.read_text(encoding="utf-8"))["results"]
    return sorted(rows, key=lambda r: (r["items"] != "iid", r["schedule"] != "cosine", r["rate"], r["steps"]))


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("records", nargs="*", help="NAME of records/adjoint-accuracy-NAME.json; all by default")
    cli.add_argument("--grid", action="store_true", help="Spearman / calibrated skill / coverage alone, by T")
    arguments = cli.parse_args(argv)
    paths = [RECORDS / f"adjoint-accuracy-{name}.json" for name in arguments.records]
    paths = paths or sorted(RECORDS.glob("adjoint-accuracy*.json"))
    if arguments.grid:
        grid(paths)
        return 0
    header = (
        "| record | D | items | schedule | rate | T | sd | Spearman [90 %] | skill | calibrated | coverage ± sd | width / sd | "
        "runs | store / state |"
    )
    print(header + "\n" + "|---" * (header.count("|") - 1) + "|")
    every: list[dict[str, float]] = []
    for path in paths:
        for row in _rows(path):
            every.append(resplit(row))
            print(line(path.stem.removeprefix("adjoint-accuracy").strip("-") or "default", row, every[-1]))
    print("\n" + summary(every))
    return 0


if __name__ == "__main__":
    sys.exit(main())

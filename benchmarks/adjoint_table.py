"""The records of `adjoint_accuracy.py` as one table, with coverage over many ways to choose the calibration orders.

python benchmarks/adjoint_table.py            (reads records/adjoint-accuracy*.json, trains nothing)

One calibration on 8 orders is one draw, and its coverage scatters by about 0.1. So the n retrained orders are split at random
into 8 to calibrate on and n - 8 to judge, 300 times.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
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


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    header = (
        "| record | D | items | schedule | rate | T | sd | Spearman [90 %] | skill | calibrated | coverage ± sd | width / sd | "
        "runs | store / state |"
    )
    print(header + "\n" + "|---" * (header.count("|") - 1) + "|")
    every: list[dict[str, float]] = []
    for path in sorted(RECORDS.glob("adjoint-accuracy*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))["results"]
        for row in sorted(rows, key=lambda r: (r["items"] != "iid", r["schedule"] != "cosine", r["rate"], r["steps"])):
            every.append(resplit(row))
            print(line(path.stem.removeprefix("adjoint-accuracy").strip("-") or "default", row, every[-1]))
    print("\n" + summary(every))
    return 0


if __name__ == "__main__":
    sys.exit(main())

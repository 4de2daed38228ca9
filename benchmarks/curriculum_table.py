"""The records of `curriculum.py` as tables.

python benchmarks/curriculum_table.py            (reads records/curriculum*.json, trains nothing)
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from record import RECORDS
from scipy.stats import spearmanr

from estimators.intervals import LEVEL

Row = dict[str, Any]


def ppl(loss: float) -> float:
    return math.exp(loss)


def fresh_gain(row: Row) -> float:
    """In perplexity against the random orders' mean, on held-out text that is in no probe."""
    return ppl(float(np.mean(row["fresh"]["random"]))) - ppl(row["fresh"]["found"])


SEEDS: dict[str, Callable[[Row], str]] = {
    "seed": lambda r: str(r["seed"]),
    "reference": lambda r: f"{r['found']['reference_loss']:.4f}",
    "random, mean ± sd": lambda r: f"{r['found']['mean_random_loss']:.4f} ± {r['found']['random_sd']:.4f}",
    "best of 64": lambda r: f"{r['found']['best_random_loss']:.4f}",
    "best named": lambda r: f"{r['found']['best_heuristic_loss']:.4f} ({r['found']['best_heuristic']})",
    "estimated": lambda r: f"{r['found']['estimated_loss']:.4f}",
    "again": lambda r: f"{r['found']['reevaluated_loss']:.4f}",
    "**found**": lambda r: f"**{r['found']['retrained_loss']:.4f}**",
    "sds": lambda r: f"{r['sds_below_mean']:.1f}",
    "gain": lambda r: f"{r['found']['gain']['mean_random']['perplexity']:.3f}",
    "on best": lambda r: f"{r['found']['gain']['best_random']['perplexity']:.3f}",
    "on named": lambda r: f"{r['found']['gain']['best_heuristic']['perplexity']:.3f}",
    "fresh": lambda r: f"{fresh_gain(r):.3f}",
    "seconds": lambda r: f"{r['found']['precompute_seconds']:.0f} + {r['found']['seconds']:.0f}",
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row).replace("-", "−") + " |" for row in rows)])


def wins(rows: Sequence[Row]) -> str:
    """In how many of the runs the found order, retrained, beats each of its rivals."""
    found = [r["found"] for r in rows]
    random = sum(f["retrained_loss"] < f["best_random_loss"] for f in found)
    named = sum(f["retrained_loss"] < f["best_heuristic_loss"] for f in found)
    inside = sum(r["inside_interval"] for r in rows)
    bias = [f["history"][-1][1] - f["finalists"][0]["retrained_loss"] for f in found]
    forced = [r["orders_in_the_same_time"] for r in rows]
    expected = [ppl(r["their_expected_best"]) - ppl(r["found"]["retrained_loss"]) for r in rows]
    return (
        f"{len(rows)} runs: beats the best of {len(found[0]['random_losses'])} random orders in {random}, every one of "
        f"{len(found[0]['heuristics'])} named orders in {named}; within its {LEVEL:.0%} interval in {inside}; uncalibrated "
        f"estimate minus truth {np.mean(bias):+.5f} ± {np.std(bias, ddof=1):.5f}; in the time of the terms and the search "
        f"{min(forced):.0f} to {max(forced):.0f} orders could be retrained, whose expected best is worse by "
        f"{min(expected):.3f} to {max(expected):.3f} in perplexity"
    ).replace(" -", " −")


def methods(rows: Sequence[Row]) -> str:
    studied = [r for r in rows if "methods" in r]
    names = sorted({name for r in studied for name in r["methods"]})
    lines = [["local", *(f"{r['found']['finalists'][0]['retrained_loss'] - base(r):+.4f}" for r in studied)]]
    lines += [[n, *(f"{r['methods'][n]['retrained'] - base(r):+.4f}" for r in studied)] for n in names]
    return table(["method", *(f"seed {r['seed']}" for r in studied)], lines)


def base(row: Row) -> float:
    return float(row["found"]["mean_random_loss"])


def away(rows: Sequence[Row]) -> str:
    """Estimates minus truth, by number of swaps from the found order; and their rank correlation with the truth."""
    near = [a for r in rows for a in r.get("away", [])]
    lines = []
    for swaps in sorted({a["swaps"] for a in near}):
        here = [a for a in near if a["swaps"] == swaps]
        errors = ([a[name] - a["retrained"] for a in here] for name in ("adjoint", "positions"))
        lines.append([str(swaps), *(f"{np.mean(e):+.5f}" for e in errors)])
    ranks = []
    for row in (r for r in rows if "away" in r):
        true = [a["retrained"] for a in row["away"]]
        ranks.append([spearmanr(true, [a[name] for a in row["away"]])[0] for name in ("adjoint", "positions")])
    lines.append(["Spearman", *(" ".join(f"{r:.3f}" for r in column) for column in zip(*ranks, strict=True))])
    return table(["swaps away", "adjoint minus truth", "positions minus truth"], lines)


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    for path in sorted(RECORDS.glob("curriculum*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))["results"]
        for steps in sorted({row["steps"] for row in found}):
            rows = sorted((r for r in found if r["steps"] == steps), key=lambda r: r["seed"])
            print(f"\n{path.stem}, T = {steps}\n")
            print(table(list(SEEDS), [[cell(row) for cell in SEEDS.values()] for row in rows]))
            print(f"\n{wins(rows)}")
            if any("methods" in r for r in rows):
                print(f"\n{methods(rows)}\n\n{away(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

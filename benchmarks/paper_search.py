"""The genetic search of arXiv 2505.22042 beside ours, at equally many estimates: what the found orders really gain.

python benchmarks/paper_search.py --seeds 0 1 2 3 --work /tmp/paper-table

Every seed (of text and model) is a run as `paper_table.py` makes it, and its directory is used again where it is there. The
order that each search finds is retrained, and so are n random orders. Resumes: seeds that the record holds are skipped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paper_table import ORDER_SEED, opened
from record import began, resumed, write_record

import fut
from estimators.orders.order import random_orders
from fut.methods.batching import raw_estimates
from fut.questions.curriculum.evaluator import Budget
from fut.questions.curriculum.search import search

SEARCHES = (
    ("random", "taylor1"),
    ("random", "taylor2"),
    ("random", "adjoint"),
    ("genetic", "taylor1"),
    ("genetic", "taylor2"),
    ("genetic", "adjoint"),
    ("assignment", "adjoint"),
    ("local", "adjoint"),
)
"""How, and by which estimator. `random`: the best by estimate of random orders, as many as the others may estimate."""
DRAW = 9500
"""Seed of these."""
KEPT = ("steps", "batch", "seed")


def measure(setting: dict[str, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: what every search finds on one reference run, retrained."""
    run, _ = opened(setting, arguments.settings, arguments.work)
    table = run.orders.positions()
    randoms = [run.retrain(order).loss for order in random_orders(run.reference, arguments.orders, ORDER_SEED)]
    row: dict[str, Any] = setting | {
        "parameters": run.context.parameters,
        "reference_loss": run.reference_loss,
        "random_losses": randoms,
        "searches": {},
    }
    for method, name in SEARCHES:
        found = searched(run, method, name, table, arguments.evaluations)
        found["gain"] = run.reference_loss - found["retrained_loss"]
        found["gain_on_random_mean"] = float(np.mean(randoms)) - found["retrained_loss"]
        row["searches"][f"{method}, {name}"] = found
        print(f"  {method}, {name}: gain {found['gain']:+.5f}, {found['seconds']:.0f} s", file=sys.stderr, flush=True)
    if not arguments.keep:
        shutil.rmtree(run.path)
    return row


def searched(run: fut.Run, method: str, name: str, table: np.ndarray, evaluations: int) -> dict[str, Any]:
    """The order of least estimate that one search finds, and its loss after retraining [nats/token]."""
    estimator = run.methods.open(name)

    def values(orders: Sequence[fut.Order]) -> list[float]:
        return raw_estimates(estimator, orders)[0]

    start = time.perf_counter()
    if method == "random":
        orders = random_orders(run.reference, evaluations, DRAW)
        guesses = np.nan_to_num(values(orders), nan=np.inf)
        best, value, spent = orders[int(guesses.argmin())], float(guesses.min()), evaluations
    else:
        result = search(
            values, run.reference, table, method=method, budget=Budget(evaluations), seed=run.context.config.data.seed
        )
        best, value, spent = result.best, result.value, result.evaluations
    seconds = time.perf_counter() - start
    truth = run.retrain(best).loss
    return {
        "estimated_loss": value,
        "retrained_loss": truth,
        "evaluations": spent,
        "seconds": seconds,
        "order": best.tolist(),
    }


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """A line of each T and search: gains over the reference order and over the mean random one, in 10⁻³ nats/token."""
    head = [
        "| T | search | estimator | gain by seed | mean | over the mean random order | promised |",
        "|" + "---|" * 7,
    ]
    lengths = sorted({row["steps"] for row in rows})
    return "\n".join(
        head + [line for steps in lengths for line in lines_of(steps, [r for r in rows if r["steps"] == steps])]
    )


def lines_of(steps: int, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Those of one T."""
    lines = []
    for key in (", ".join(one) for one in SEARCHES):
        of = [row["searches"][key] for row in rows]
        gains, over = [1000 * one["gain"] for one in of], [1000 * one["gain_on_random_mean"] for one in of]
        promised = [1000 * (row["reference_loss"] - row["searches"][key]["estimated_loss"]) for row in rows]
        cells = [*key.split(", "), ", ".join(f"{g:.1f}" for g in gains), spread(gains), spread(over), spread(promised)]
        lines.append(f"| {steps} | " + " | ".join(cells) + " |")
    best = [1000 * (row["reference_loss"] - min(row["random_losses"])) for row in rows]
    count, listed = len(rows[0]["random_losses"]), ", ".join(f"{g:.1f}" for g in best)
    over = [1000 * (float(np.mean(row["random_losses"])) - min(row["random_losses"])) for row in rows]
    lines.append(f"| {steps} | best of {count} retrained | – | {listed} | {spread(best)} | {spread(over)} | – |")
    return [line.replace("-", "−") for line in lines]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard error over seeds."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1) / np.sqrt(len(values)):.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, default=32)
    cli.add_argument("--batch", type=int, default=16, help="sequences per item")
    cli.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="of text, model and search")
    cli.add_argument("--evaluations", type=int, default=600)
    cli.add_argument("--orders", type=int, default=24, help="random orders retrained")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path)
    cli.add_argument("--keep", action="store_true")
    cli.add_argument("--table", action="store_true", help="print the record's table, and measure nothing")
    cli.add_argument("--name", default="paper-search")
    arguments = cli.parse_args(argv)
    if arguments.table:
        print(table_of(resumed(arguments.name, KEPT)[0]))
        return 0
    if arguments.work is None:
        cli.error("expected --work DIR, where the runs are")
    started, (rows, done) = began(arguments.name), resumed(arguments.name, KEPT)
    for seed in arguments.seeds:
        values = (arguments.steps, arguments.batch, seed)
        if values not in done:
            rows.append(measure(dict(zip(KEPT, values, strict=True)), arguments))
            print(f"T={values[0]} batch={values[1]} seed={seed}", file=sys.stderr, flush=True)
            shown = vars(arguments) | {"order_seed": ORDER_SEED, "draw": DRAW, "threads": torch.get_num_threads()}
            write_record(arguments.name, shown, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

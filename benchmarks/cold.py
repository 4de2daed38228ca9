"""Coordinates that few items touch, and memory that has not begun: a vocabulary of words, and windows without warm-up.

python benchmarks/cold.py --work DIR

An embedding has a gradient where the token stands, and nowhere else. Where Adam's second moment has not seen it yet, to first
order its answer is up to 1/eps. For every setting: n random orders really retrained, and estimated
    by the default, whose drawn batches count injections where an item touches the coordinate (`estimators.adjoint.mean_touched`);
    so, but with the plain mean over items, as it was before;
    by the items' own products (`adjoint.curvature = "items"`);
each read quadratically, linearly, and by the table of positions, held (`estimators.control_variates.Bounded`) or as it comes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from record import began, write_record
from scipy.stats import spearmanr
from small import expand
from torch import Tensor
from words import VOCABULARY

import fut
from estimators.adjoint import mean_touched
from estimators.orders.order import Order, random_orders
from fut.methods.adjoint.identity import open_expansion
from fut.methods.batching import raw_estimates
from fut.methods.settings import load_config

ORDER_SEED = 2000
WORDS = {"vocabulary": VOCABULARY, "tokenizer": "words:words"}
TABLES = ("controlled_positions", "positions")
READINGS = ("adjoint", "adjoint:reading=linear")


def plain_mean(injections: Tensor, gradients: Tensor) -> Tensor:
    """In the place of `mean_touched`: over all items, whether they touch a coordinate or not."""
    return injections.sum(0) / len(gradients)


def judged(guess: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Spearman, and the standard deviation of the errors over that of the truth."""
    return {
        "spearman": float(spearmanr(guess, truth)[0]),
        "left": float((guess - truth).std(ddof=1) / truth.std(ddof=1)),
    }


def looked_up(run: fut.Run, orders: Sequence[Order], term: str) -> np.ndarray:
    terms = open_expansion(run.context).terms()
    table = np.stack([terms.read(term, step)[0] for step in range(run.steps)])
    return np.array([sum(table[t, i] for t, (i,) in enumerate(order.steps)) for order in orders])


def variant(path: Path, orders: Sequence[Order], truth: np.ndarray, curvature: str, touched: bool) -> dict[str, Any]:
    """What every reading of one expansion is worth; one that a killed call left may be of another kind, and goes."""
    shutil.rmtree(path / "adjoint", ignore_errors=True)
    with patch("estimators.adjoint.mean_touched", mean_touched if touched else plain_mean):
        run = fut.open(path)
        expand(run.context, run.context.config.adjoint.model_copy(update={"curvature": curvature}))
    found = {name: judged(np.array(raw_estimates(run.methods.open(name), orders)[0]), truth) for name in READINGS}
    names = ("positions, held", "positions, as it comes")
    found |= {
        name: judged(looked_up(run, orders, term), truth)
        for name, term in zip(names, ("controlled_positions", "positions"), strict=True)
    }
    shutil.rmtree(path / "adjoint")
    return found


def measure(vocabulary: str, warmup: int, arguments: argparse.Namespace) -> dict[str, Any]:
    data = {"items": arguments.steps, "batch": 8, "context": 32} | (WORDS if vocabulary == "words" else {})
    config = load_config(None, arguments.settings, data=data, warmup={"steps": warmup})
    path = arguments.work / f"{vocabulary}-{warmup}"
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    orders = random_orders(run.reference, arguments.orders, ORDER_SEED)
    truth = np.array([run.retrain(order).loss for order in orders])
    kinds = {"default": ("pooled", True), "plain mean": ("pooled", False), "items' own": ("items", True)}
    found = {name: variant(path, orders, truth, *kind) for name, kind in kinds.items()}
    setting = {"vocabulary": vocabulary, "warmup": warmup, "parameters": run.context.parameters}
    shutil.rmtree(path)
    return setting | {"true_sd": float(truth.std(ddof=1)), "variants": found}


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, default=32)
    cli.add_argument("--orders", type=int, default=48)
    cli.add_argument("--warmups", type=int, nargs="+", default=[100, 0])
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="cold")
    arguments = cli.parse_args(argv)
    sys.path.insert(0, str(Path(__file__).parent))  # the tokenizer's
    started, rows = began(), list[dict[str, Any]]()
    for vocabulary in ("words", "bytes"):
        for warmup in arguments.warmups:
            rows.append(measure(vocabulary, warmup, arguments))
            print(rows[-1], file=sys.stderr, flush=True)
            write_record(arguments.name, vars(arguments) | {"order_seed": ORDER_SEED}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

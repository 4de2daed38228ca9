"""Sampled coordinates with and without the table of positions as a control variate: what is left of the sampling error.

python benchmarks/control_variate.py --items iid heterogeneous --work DIR

The adjoint on a sample of coordinates errs by the sample; with the control variate
(`fut.methods.adjoint.control_variate`) the sample is asked only for what the table of positions, known on all
coordinates, leaves. Both are read off the same sample, which is drawn for the latter.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ablation_variants import Workbench
from record import began, write_record
from scipy.stats import spearmanr

import fut
from estimators.orders.order import random_orders
from fut.methods.adjoint.estimator import Adjoint
from fut.methods.adjoint.positions import Positions
from fut.methods.base import Estimator
from fut.methods.batching import raw_estimates
from fut.methods.settings import load_config

ORDER_SEED, SEEDS = 2000, (0, 1, 2)


def measure(items: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one setting: all coordinates, then every share and seed with and without the control variate."""
    path = arguments.work / items
    data = {"items": arguments.steps, "heterogeneous": items == "heterogeneous"}
    run = fut.train(path / "run", load_config(None, (), data=data))
    orders = random_orders(run.reference, arguments.orders, ORDER_SEED)
    true = np.array([run.retrain(order).loss for order in orders])
    bench = Workbench(run, path / "variants")

    def ask(estimator: Estimator) -> np.ndarray:
        return np.array(raw_estimates(estimator, orders)[0])

    rows: list[dict[str, Any]] = []
    for seed in SEEDS:  # of the sample alone: the workbench's expansions share the trajectory and the sweep
        adjoint: Any = bench.build(bench.expansion(trajectory="ensemble", seed=seed))
        whole = ask(adjoint)

        def add(name: str, found: np.ndarray, kept: int, whole: np.ndarray = whole, seed: int = seed) -> None:
            row = {"items": items, "estimate": name, "kept": kept, "seed": seed, "true_sd": float(true.std(ddof=1))}
            row["spearman"] = float(spearmanr(found, true)[0])
            row["residual_sd"] = float((found - true).std(ddof=1))
            row["sampling_sd"] = float((found - whole).std(ddof=1))
            print(row, file=sys.stderr, flush=True)
            rows.append(row)

        add("adjoint", whole, run.context.parameters)
        add("table", ask(Positions(adjoint.context, expansion=adjoint.expansion)), run.context.parameters)
        for kept in (run.context.parameters // share for share in arguments.shares):
            controlled = bench.build(bench.expansion(trajectory="ensemble", seed=seed, coordinates=kept))
            assert isinstance(controlled, Adjoint)
            plain = Adjoint(controlled.context, expansion=controlled.expansion)
            plain.control = None
            add("adjoint", ask(plain), kept)
            add("adjoint + control variate", ask(controlled), kept)
            stated = np.sqrt(np.mean(raw_estimates(controlled, orders)[1]))
            rows[-1]["stated_sampling_sd"] = float(stated)
    shutil.rmtree(path)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, default=32)
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--shares", type=int, nargs="+", default=[32, 128, 512])
    cli.add_argument("--orders", type=int, default=48)
    cli.add_argument("--work", type=Path, required=True)
    arguments = cli.parse_args(argv)
    started, rows = began(), list[dict[str, Any]]()
    for items in arguments.items:
        rows += measure(items, arguments)
        write_record("control-variate", vars(arguments) | {"order_seed": ORDER_SEED}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The noise that batches bring into the sweep's curvature: balanced over steps, or drawn anew at every step.

python benchmarks/curvature_noise.py --settings 64-heterogeneous --work DIR       (trains one reference run, retrains nothing)

One reference run, one ensemble and one set of anchors; curvature alone is taken again, with other seeds of its batches. An
estimate's noise is the standard deviation, over random orders, of what the table of positions says with one seed less what it
says with a batch of all samples at every step; the record has its root mean square over seeds.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ablation_variants import Workbench
from ablations import ORDER_SEED, opened
from record import began, write_record

from estimators.orders.order import random_orders
from fut.methods.adjoint.positions import Positions
from fut.methods.batching import raw_estimates

CENTRE: dict[str, Any] = {"trajectory": "ensemble", "num_runs": 4}


def measured(setting: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Noise by draw and pool, in nats/token, and the spread of the estimates."""
    run = opened(setting, arguments)
    bench = Workbench(run, arguments.work / setting / "variants")
    orders = random_orders(run.reference, arguments.orders, ORDER_SEED)

    def estimates(draw: str, pool: int, seed: int) -> np.ndarray:
        expansion = bench.expansion(**CENTRE, draw=draw, pool=pool)
        expansion = replace(expansion, directory=expansion.directory / str(seed), batches=seed)
        found = np.array(raw_estimates(bench.build(expansion, Positions), orders)[0])
        shutil.rmtree(expansion.directory)
        return found

    every = estimates("balanced", run.steps, 0)
    rows = []
    for pool in arguments.pools:
        for draw in ("independent", "balanced"):
            errors = [estimates(draw, pool, seed) - every for seed in range(1, 1 + arguments.seeds)]
            noise = [float(error.std(ddof=1)) for error in errors]
            rows.append(
                {"pool": pool, "draw": draw, "noise": float(np.sqrt(np.mean(np.square(noise)))), "by_seed": noise}
            )
            print(setting, rows[-1], file=sys.stderr, flush=True)
    return {"setting": setting, "parameters": run.context.parameters, "sd": float(every.std(ddof=1)), "rows": rows}


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--settings", nargs="+", default=["64-heterogeneous"], help="STEPS-ITEMS")
    cli.add_argument("--pools", type=int, nargs="+", default=[1, 2, 8])
    cli.add_argument("--seeds", type=int, default=4)
    cli.add_argument("--orders", type=int, default=64)
    cli.add_argument("--rate", type=float, default=1e-3)
    cli.add_argument("--set", dest="changes", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="curvature-noise")
    arguments = cli.parse_args(argv)
    started, results = began(), []
    for setting in arguments.settings:
        results.append(measured(setting, arguments))
        write_record(arguments.name, vars(arguments) | {"order_seed": ORDER_SEED} | CENTRE, results, started)
        shutil.rmtree(arguments.work / setting)
    return 0


if __name__ == "__main__":
    sys.exit(main())

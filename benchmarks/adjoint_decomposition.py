"""Where the adjoint's error comes from: its displacement, or the linear read-out of a displacement?

python benchmarks/adjoint_decomposition.py --steps 64 --orders 24 --work /tmp/decomposition

The retrained orders' true displacements from the trajectory are read linearly, <grad phi, delta>, and quadratically,
+ ½ delta' H delta, and set beside the adjoint's estimate of the same linear functional. All uncalibrated; the true
displacement is read about the trajectory, the adjoint beyond the reference run, which moves biases alone.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import began, write_record
from scipy.stats import spearmanr

import fut
from estimators.orders.order import random_orders
from fut.methods.adjoint.identity import open_expansion
from fut.methods.batching import raw_estimates
from fut.methods.settings import load_config
from fut.models import autodiff as derivatives

ORDER_SEED = 2000


def measure(steps: int, schedule: str, items: str, orders: int, work: Path, settings: list[str]) -> dict[str, Any]:
    """One row: Spearman, bias and residual sd [nats/token] of every reading."""
    data = {"items": steps, "heterogeneous": items == "heterogeneous"}
    config = load_config(None, [*settings, "adjoint.coordinates=1000000000"], data=data, schedule={"kind": schedule})
    path = work / f"{steps}-{schedule}-{items}"
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    run.cache(["adjoint"])
    chosen = random_orders(run.reference, orders, ORDER_SEED)
    found = [run.retrain(order) for order in chosen]
    truth = np.array([f.loss for f in found])
    terms, problem = open_expansion(run.context).terms(), run.context.problem
    linear_alone = raw_estimates(run.methods.open("adjoint", reading="linear"), chosen)[0]
    response = np.array(linear_alone) - run.reference_loss  # beyond the reference order's
    whole = np.array(raw_estimates(run.methods.open("adjoint"), chosen)[0])
    centre, slope = (torch.from_numpy(terms.read(name, steps)[0]) for name in ("centre", "weight"))
    linear, quadratic = [], []
    for f in found:
        delta = f.theta - centre
        bent = sum(
            derivatives.hessian_vector_difference(problem.objective, centre, item, delta, 1e-3)
            for item in problem.data.probe
        )
        linear.append(float(slope.double() @ delta.double()))
        quadratic.append(0.5 * float(torch.as_tensor(bent).double() @ delta.double()) / len(problem.data.probe))
    base = problem.probe_loss(centre)
    readings = {
        "adjoint, linear": run.reference_loss + response,
        "adjoint": whole,
        "true displacement, linear": base + np.array(linear),
        "true displacement, quadratic": base + np.array(linear) + np.array(quadratic),
        "adjoint, linear + true quadratic term": run.reference_loss + response + np.array(quadratic),
    }
    return {
        "steps": steps,
        "schedule": schedule,
        "items": items,
        "orders": orders,
        "true_sd": float(truth.std(ddof=1)),
        "quadratic_mean": float(np.mean(quadratic)),
        "quadratic_sd": float(np.std(quadratic, ddof=1)),
        "parameters": run.context.parameters,
        "linear_response_correlation": float(np.corrcoef(linear, response)[0, 1]),
        "quadratic_part_correlation": float(np.corrcoef(quadratic, whole - response)[0, 1]),
        "readings": {name: judged(values, truth) for name, values in readings.items()},
    }


def judged(values: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    error = values - truth
    return {
        "spearman": float(spearmanr(values, truth)[0]),
        "bias": float(error.mean()),
        "residual_sd": float(error.std(ddof=1)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[32, 64])
    cli.add_argument("--schedules", nargs="+", default=["cosine", "constant"])
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--orders", type=int, default=24)
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="adjoint-decomposition")
    arguments = cli.parse_args(argv)
    started, rows = began(), []
    for setting in itertools.product(arguments.steps, arguments.schedules, arguments.items):
        rows.append(measure(*setting, arguments.orders, arguments.work, arguments.settings))
        print(rows[-1], file=sys.stderr, flush=True)
        write_record(arguments.name, vars(arguments) | {"order_seed": ORDER_SEED}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

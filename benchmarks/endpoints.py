"""How near are rebuilt endpoints to really retrained ones, and what do they cost, with how many true gradients per order?

python benchmarks/endpoints.py --work /tmp/endpoints

For every setting: a reference run, one store of the lowrank estimator's terms, and n random orders (seed fixed here), all really
retrained; then the estimator with each number of steps between refreshes. Resumes:
settings that the record holds already are skipped.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import began, resumed, write_record
from scipy.stats import spearmanr

import fut
from estimators.orders.order import random_orders
from fut.artifacts.directory import directory_bytes
from fut.methods.lowrank.pipeline import LOW_RANK_TERMS
from fut.methods.lowrank.terms import open_low_rank
from fut.methods.settings import load_config
from fut.methods.timings import seconds_per_gradient

NAME, ORDER_SEED = "endpoints", 2000
KEPT = ("steps", "items", "rate")


def measure(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: n orders of one setting, rebuilt with each refresh interval from the same store."""
    data = {"items": setting["steps"], "heterogeneous": setting["items"] == "heterogeneous"}
    config = load_config(None, arguments.settings, data=data, schedule={"kind": "cosine", "rate": setting["rate"]})
    path = arguments.work / "-".join(str(v) for v in setting.values())
    shutil.rmtree(path, ignore_errors=True)
    run = fut.train(path, config)
    began = time.perf_counter()
    run.cache(["lowrank"])
    built, state_bytes = time.perf_counter() - began, run.context.checkpoints.nbytes() / (run.steps + 1)
    specs = [f"lowrank:refresh={every}" for every in arguments.refresh]
    found = run.verify(arguments.orders, ORDER_SEED, specs)
    compared = {s: offsets(run, arguments.orders, s) if arguments.offsets else {} for s in specs}
    result = {
        **setting,
        "parameters": run.context.parameters,
        "reference_loss": run.reference_loss,
        "true_sd": found.as_dict()["true_sd"],
        "accuracy": {spec: found.estimators[spec] | compared[spec] for spec in specs},
        "precompute_training_runs": LOW_RANK_TERMS.cost(open_low_rank(run.context).spec).gradients / run.steps,
        "build_seconds": built,
        "gradient_seconds": seconds_per_gradient(run.context.problem, run.context.state(0)),
        "retrain_seconds": found.retrain_seconds,
        "store_in_lifted_states": directory_bytes(run.path / "lowrank") / state_bytes,
        "true_losses": found.true_losses,
        "estimated_losses": found.estimated_losses,
    }
    shutil.rmtree(path)
    return result


def offsets(run: fut.Run, count: int, spec: str) -> dict[str, Any]:
    """The choice of the offset: parameters shifted and evaluated there (the estimator), against the losses shifted."""
    estimator: Any = run.methods.open(spec)
    orders = random_orders(run.reference, count, ORDER_SEED)
    truths = [run.retrain(order) for order in orders]
    raw, own, theta = estimator._replayed(orders), estimator._own(run.steps), run.context.state(run.steps).theta
    true = np.array([t.loss for t in truths])
    values = {"parameters": estimator.values(raw + (theta - own), run.steps)}
    shift = run.reference_loss - run.context.problem.probe_loss(own)
    values["losses"] = [run.context.problem.probe_loss(end) + shift for end in raw]
    baseline = np.abs(true - run.reference_loss).mean()
    ends = {"parameters": raw + (theta - own), "losses": raw}
    moved = [float((t.theta - theta).norm()) for t in truths]
    return {
        f"offset_{kind}": {
            "spearman": float(spearmanr(values[kind], true).statistic),
            "skill": 1 - float(np.abs(np.array(values[kind]) - true).mean() / baseline),
            "endpoint_error": float(
                np.mean([float((e - t.theta).norm()) / m for e, t, m in zip(ends[kind], truths, moved, strict=True)])
            ),
        }
        for kind in ends
    }


def say(row: dict[str, Any]) -> None:
    print(
        f"{row['items']:13s} T={row['steps']:<4d} sd={row['true_sd']:.5f} runs={row['precompute_training_runs']:.1f}",
        file=sys.stderr,
    )
    for spec, a in row["accuracy"].items():
        low, high = a["spearman_interval"]
        print(
            f"  {spec:18s} Spearman={a['spearman']:.3f} [{low:.2f}, {high:.2f}] Pearson={a['pearson']:.3f} "
            f"skill={a['skill']:+.2f} endpoint={a['endpoint_error']:.3f} "
            f"gradients={a['query_gradients']} seconds={a['seconds_per_order']:.2f} "
            + "".join(f"{k}={v} " for k, v in a.items() if k.startswith("offset")),
            file=sys.stderr,
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[32, 64])
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    cli.add_argument("--refresh", type=int, nargs="+", default=[0, 16, 8])
    cli.add_argument("--orders", type=int, default=48)
    cli.add_argument("--offsets", action="store_true", help="compare the two ways to offset by the reference order")
    cli.add_argument("--jobs", type=int, default=2, help="settings at once, one thread each")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default=NAME)
    arguments = cli.parse_args(argv)
    started, (rows, done) = began(arguments.name), resumed(arguments.name, KEPT)
    settings = [v for v in itertools.product(arguments.steps, arguments.items, arguments.rates) if v not in done]
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        measured = [pool.submit(measure, dict(zip(KEPT, values, strict=True)), arguments) for values in settings]
        for future in as_completed(measured):
            rows.append(future.result())
            say(rows[-1])
            write_record(arguments.name, vars(arguments) | {"order_seed": ORDER_SEED}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Accuracy, coverage and cost of the adjoint estimator over steps, schedule, items, learning rate and model size.

python benchmarks/adjoint_accuracy.py --steps 16 32 64 128 --rates 3e-4 1e-3 3e-3 --work /tmp/adjoint

For every setting: a reference run, its expansion, 8 calibration orders and n held-out random orders (seeds fixed here),
all really retrained. Resumes: settings that the record holds already are skipped, and an unfinished one goes on.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from record import began, resumed, write_record

import fut
from fut.artifacts.directory import directory_bytes
from fut.estimation.calibration import SEED
from fut.methods.batching import raw_estimates
from fut.methods.settings import load_config
from fut.methods.timings import seconds_per_gradient

ORDER_SEED, MANY, FEW = 2000, 1000, 16


def measure(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: what the adjoint says about n orders of one setting, before and after calibration."""
    data = {"items": setting["steps"], "heterogeneous": setting["items"] == "heterogeneous", "text": arguments.text}
    schedule = {"kind": setting["schedule"], "rate": setting["rate"]}
    config = load_config(None, arguments.settings, data=data, schedule=schedule)
    path = arguments.work / "-".join(str(v) for v in setting.values())
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    begun, began = (path / "adjoint").exists(), time.perf_counter()
    run.cache(["adjoint"])
    built = None if begun else time.perf_counter() - began  # of a run that goes on where it stopped, not known
    fit = run.calibrate(arguments.calibration, SEED, "adjoint")
    found = run.verify(arguments.orders, ORDER_SEED, ["adjoint"])
    row = found.estimators["adjoint"]
    many = _seconds(run, FEW)
    many = _seconds(run, MANY) if many < 0.1 else many
    state_bytes = run.context.checkpoints.nbytes() / (run.steps + 1)
    result = {
        **setting,
        "parameters": run.context.parameters,
        "reference_loss": run.reference_loss,
        "true_sd": found.as_dict()["true_sd"],
        "accuracy": row,
        "calibration": {"slope": fit.fit.slope, "residual_sd": fit.fit.sd, "orders": fit.fit.count},
        "precompute_training_runs": row["precompute_gradients"] / run.steps,
        "build_seconds": built,
        "gradient_seconds": seconds_per_gradient(run.context.problem, run.context.state(0)),
        "retrain_seconds": found.retrain_seconds,
        "seconds_per_order_of_many": many,
        "store_in_lifted_states": directory_bytes(run.path / "adjoint") / state_bytes,
        "own_error": run.methods.open("adjoint").own_error(),
        "true_losses": found.true_losses,
        "estimated_losses": found.estimated_losses["adjoint"],
    }
    shutil.rmtree(path)
    return result


def _seconds(run: fut.Run, asked: int) -> float:
    """Seconds per order of so many that are asked at once."""
    orders = [run.order(f"random:{i}") for i in range(asked)]
    began = time.perf_counter()
    raw_estimates(run.methods.open("adjoint"), orders)
    return (time.perf_counter() - began) / asked


def say(row: dict[str, Any]) -> None:
    a = row["accuracy"]
    print(
        f"{row['items']:13s} {row['schedule']:8s} T={row['steps']:<4d} rate={row['rate']:g} D={row['parameters']} "
        f"sd={row['true_sd']:.5f} Spearman={a['spearman']:.3f} skill={a['skill_uncalibrated']:+.2f}→{a['skill']:+.2f} "
        f"coverage={a['coverage']:.2f} runs={row['precompute_training_runs']:.1f}",
        file=sys.stderr,
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[16, 32, 64, 128])
    cli.add_argument("--schedules", nargs="+", default=["cosine", "constant"])
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    cli.add_argument("--orders", type=int, default=48)
    cli.add_argument("--calibration", type=int, default=8)
    cli.add_argument("--text", default="")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="adjoint-accuracy")
    arguments = cli.parse_args(argv)
    kept = ("steps", "schedule", "items", "rate")
    started, (rows, done) = began(arguments.name), resumed(arguments.name, kept)
    for values in itertools.product(arguments.steps, arguments.schedules, arguments.items, arguments.rates):
        if values not in done:
            rows.append(measure(dict(zip(kept, values, strict=True)), arguments))
            say(rows[-1])
            shown = vars(arguments) | {
                "order_seed": ORDER_SEED,
                "calibration_seed": SEED,
                "threads": torch.get_num_threads(),
            }
            write_record(arguments.name, shown, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

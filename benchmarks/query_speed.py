"""How fast the adjoint answers orders with few coordinates, beside all of them and beside what memory allows; and how well.

python benchmarks/query_speed.py --steps 32 64 --items iid heterogeneous --work DIR

For every setting: a run, its expansion, 8 calibration orders and n held-out random orders (seeds fixed here), all really
retrained, and estimated both ways on the same store. Then processor seconds of many orders, of retrainings and of copying
memory, on one thread and in turn, so that all of them see the same load. Resumes: settings that the record holds already are
skipped, and a run in DIR goes on.

The bound: a step of an order reads its parameters, both moments, the read-out's sum and a gradient, and writes all but the last,
9 numbers a coordinate; so many bytes are copied in the time that the bound is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from record import began, resumed, write_record
from scipy.stats import spearmanr

import fut
from estimators.intervals import calibrate
from estimators.orders.order import Order, random_orders
from fut.artifacts.directory import directory_bytes
from fut.estimation.calibration import SEED
from fut.methods.adjoint.estimator import Adjoint
from fut.methods.adjoint.few import few_facts
from fut.methods.adjoint.identity import open_expansion
from fut.methods.batching import raw_estimates
from fut.methods.settings import load_config
from fut.training.trainer import train_order_at

ORDER_SEED, SPEED_SEED, RETRAIN_SEED = 2000, 4000, 5000
CALIBRATION, RETRAININGS, TRIES = 8, 2, 2
NUMBERS = 9
"""Read or written for a coordinate and step: parameters, two moments and a sum, both ways, and a gradient."""
COPIED = 1 << 28
"""Bytes of the buffer that is copied, far beyond any cache."""


def measure(steps: int, items: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: accuracy, then speed, with few coordinates and with all of them."""
    path = arguments.work / f"{steps}-{items}"
    data = {"items": steps, "heterogeneous": items == "heterogeneous"}
    config = load_config(None, (), data=data, schedule={"kind": "cosine", "rate": arguments.rate})
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    started = time.perf_counter()
    run.cache(["adjoint"])
    built, expansion = time.perf_counter() - started, open_expansion(run.context)
    row = {"steps": steps, "items": items, "rate": arguments.rate, "parameters": run.context.parameters}
    row |= {"cache_seconds": built, "drawn": few_facts(expansion)}
    row |= {
        "few_bytes": directory_bytes(expansion.directory / "few"),
        "store_bytes": directory_bytes(expansion.directory),
    }
    return row | accuracy(run, arguments.orders) | speed(run, arguments)


def opened(run: fut.Run, ways: str) -> Adjoint:
    """The estimator with few coordinates, or with all of them."""
    found = run.methods.open("adjoint" if ways == "few" else "adjoint:replayed=all")
    assert isinstance(found, Adjoint)
    found.ready()
    return found


def accuracy(run: fut.Run, count: int) -> dict[str, Any]:
    """Estimates of the same retrained orders both ways, before and after calibration."""
    orders, fitted = random_orders(run.reference, count, ORDER_SEED), random_orders(run.reference, CALIBRATION, SEED)
    true, known = (np.array([run.retrain(order).loss for order in part]) for part in (orders, fitted))
    found: dict[str, Any] = {"true_losses": true.tolist(), "true_sd": float(true.std(ddof=1))}
    values: dict[str, np.ndarray] = {}
    for ways in ("few", "all"):
        estimator = opened(run, ways)
        guesses, variances = raw_estimates(estimator, orders)
        values[ways] = np.array(guesses)
        fit = calibrate(known.tolist(), raw_estimates(estimator, fitted)[0])
        ends = [fit.interval(value) for value in guesses]
        corrected = np.array([fit.correct(value) for value in guesses])
        found[ways] = {
            "estimated_losses": guesses,
            "spearman": float(spearmanr(guesses, true)[0]),
            "skill_uncalibrated": _skill(values[ways], true, run.reference_loss),
            "skill": _skill(corrected, true, run.reference_loss),
            "residual_sd": float((values[ways] - true).std(ddof=1)),
            "coverage": float(np.mean([low <= t <= high for t, (low, high) in zip(true, ends, strict=True)])),
            "stated_sampling_sd": float(np.sqrt(np.mean(variances))),
        }
    found["sampling_sd"] = float((values["few"] - values["all"]).std(ddof=1))
    return found


def _skill(values: np.ndarray, true: np.ndarray, reference: float) -> float:
    return float(1 - np.abs(values - true).mean() / np.abs(reference - true).mean())


def speed(run: fut.Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Processor seconds of many orders both ways, of retrainings, and of copying, in turn; the least of a few tries each."""
    few, every = opened(run, "few"), opened(run, "all")
    many = random_orders(run.reference, arguments.many, SPEED_SEED)
    fresh = random_orders(run.reference, RETRAININGS * TRIES, RETRAIN_SEED)
    spent: dict[str, list[Spent]] = {"copy": [], "few": [], "all": [], "retrain": [], "estimate": []}
    for attempt in range(TRIES):
        part = fresh[attempt * RETRAININGS : (attempt + 1) * RETRAININGS]
        asked = random_orders(run.reference, arguments.fewer * 10, SPEED_SEED + 1 + attempt)
        spent["copy"].append(_copy())
        spent["few"].append(_timed(lambda: raw_estimates(few, many)))
        spent["all"].append(_timed(lambda: raw_estimates(every, many[: arguments.fewer])))
        spent["retrain"].append(_timed(partial(_train, run, part)))
        spent["estimate"].append(_timed(partial(run.estimate, asked)))
    counts = {
        "few": len(many),
        "all": arguments.fewer,
        "retrain": RETRAININGS,
        "estimate": 10 * arguments.fewer,
        "copy": 1,
    }
    each = {name: min(tries, key=lambda tried: tried.processor) for name, tries in spent.items()}
    seconds = {name: found.processor / counts[name] for name, found in each.items()}
    touched, bandwidth = NUMBERS * 4 * len(few.indices) * run.steps, 2 * COPIED / seconds["copy"]
    return {
        "processor_seconds_each": seconds,
        "wall_seconds_each": {name: found.wall / counts[name] for name, found in each.items()},
        "orders_per_processor_second": 1 / seconds["few"],
        "one_in": seconds["retrain"] / seconds["few"],
        "one_in_of_all": seconds["retrain"] / seconds["all"],
        "copied_bytes_per_second": bandwidth,
        "bytes_per_order": touched,
        "share_of_bound": touched / bandwidth / seconds["few"],
        "load_average": os.getloadavg()[0],
    }


class Spent(NamedTuple):
    """Seconds by the clock, and of the processor."""

    wall: float
    processor: float


def _train(run: fut.Run, orders: Sequence[Order]) -> None:
    for order in orders:  # nothing is kept, so that another call trains them too
        train_order_at(run.context.problem, run.context.state(0), order, ())


def _copy() -> Spent:
    source = torch.ones(COPIED // 4)
    target = torch.empty_like(source)
    return min((_timed(lambda: target.copy_(source)) for _ in range(5)), key=lambda found: found.processor)


def _timed(work: Callable[[], object]) -> Spent:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - processor)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[32, 64])
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--rate", type=float, default=1e-3)
    cli.add_argument("--orders", type=int, default=48)
    cli.add_argument("--many", type=int, default=10_000, help="orders whose seconds are taken")
    cli.add_argument("--fewer", type=int, default=100)
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="query-speed")
    arguments = cli.parse_args(argv)
    kept = ("steps", "items", "rate")
    started, (rows, done) = began(arguments.name), resumed(arguments.name, kept)
    for steps in arguments.steps:
        for items in arguments.items:
            if (steps, items, arguments.rate) in done:
                continue
            rows.append(measure(steps, items, arguments))
            print({k: v for k, v in rows[-1].items() if k not in ("true_losses", "few", "all")}, file=sys.stderr)
            seeds = {"order_seed": ORDER_SEED, "calibration_seed": SEED, "speed_seed": SPEED_SEED}
            write_record(arguments.name, vars(arguments) | seeds, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Does the order that `fut search` finds, really retrained, beat the best of many random orders and every named one?

python benchmarks/curriculum.py --steps 32 64 --work /tmp/curriculum
python benchmarks/curriculum.py --steps 32 64 --text wikitext-2/valid.txt --name curriculum-wikitext --work /tmp/curriculum

For every number of steps and seed (of data and model): a reference run, its expansion, 8 calibration orders, the search, and
the truth. Seeds below --studied get more: the same budget spent by the other methods, and estimates against the truth on
the way from the found order to random ones. Resumes: settings that the record holds already are skipped, and an
unfinished one goes on.
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
from record import began, resumed, write_record
from scipy.stats import norm, spearmanr

import fut
from estimators.orders.order import Order, random_orders
from fut.data.text import TRAIN_SHARE, read_text, tokenize
from fut.display.numbers import perplexity
from fut.methods.batching import raw_estimates
from fut.methods.settings import load_config
from fut.methods.timings import seconds_per_gradient
from fut.models import autodiff as derivatives
from fut.questions.curriculum.result import Curriculum

SWAPS, PER_DISTANCE = (1, 2, 4, 8, 16, 32), 4
KEPT = ("steps", "seed")


def measure(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: the search on one reference run, and the truth about what it found."""
    steps, seed = setting["steps"], setting["seed"]
    data = {"items": steps, "text": arguments.text, "seed": seed}
    config = load_config(None, arguments.settings, data=data, model={"seed": seed})
    path = arguments.work / f"{arguments.name}-{steps}-{seed}"
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    begun, began = (path / "adjoint").exists(), time.perf_counter()
    run.cache(["adjoint"])
    built = None if begun else time.perf_counter() - began  # of a run that goes on where it stopped, not known
    run.calibrate()
    found = run.search(evaluations=arguments.evaluations, verify=arguments.random, seed=seed)
    fresh = on_fresh_text(run, found)
    row = setting | {
        "parameters": run.context.parameters,
        "build_seconds": built,
        "found": found.as_dict(),
        "fresh": fresh,
    }
    row |= brute_force(run, found, built)
    if seed < arguments.studied:
        row |= {"methods": methods(run, found, arguments), "away": away(run, found)}
    shutil.rmtree(path)
    return row


def on_fresh_text(run: fut.Run, found: Curriculum) -> dict[str, Any]:
    """Losses of the found, the reference and the random orders on held-out text that is in no probe [nats/token]."""
    items = fresh_text(run)
    randoms = random_orders(run.reference, len(found.truths.random_losses), found.search.seed)

    def loss(order: Order) -> float:
        return derivatives.evaluate(run.context.problem.objective, run.retrain(order).theta, items)

    return {
        "sequences": sum(len(item[0]) for item in items),
        "found": loss(Order.of(found.order)),
        "reference": loss(run.reference),
        "random": [loss(order) for order in randoms],
    }


def fresh_text(run: fut.Run) -> list[tuple[torch.Tensor]]:
    """Held-out sequences that are not in the probe set, in items of its size."""
    data = run.context.config.data
    tokens, length = tokenize(read_text(data.text), data), data.context + 1
    held = tokens[int(TRAIN_SHARE * len(tokens)) :]
    rows = torch.from_numpy(held[: len(held) // length * length].reshape(-1, length).copy())
    probe = {tuple(row.tolist()) for item in run.context.problem.data.probe for row in item[0]}
    kept = torch.stack([row for row in rows if tuple(row.tolist()) not in probe])
    size = len(run.context.problem.data.probe[0][0])
    return [(kept[first : first + size],) for first in range(0, len(kept) // size * size, size)]


def brute_force(run: fut.Run, found: Curriculum, built: float | None) -> dict[str, Any]:
    """What the same seconds of retraining random orders would find, were their losses normal."""
    gradient = seconds_per_gradient(run.context.problem, run.context.state(0))
    seconds, true, interval = found.cost.retrain_seconds, found.truths.retrained_loss, found.estimate.interval
    mean, sd = found.truths.mean_random_loss, found.truths.random_sd
    assert seconds is not None
    assert true is not None
    assert interval is not None
    assert mean is not None
    assert sd is not None
    count = ((built or found.cost.precompute_training_runs * seconds) + found.search.seconds) / seconds
    away = (true - mean) / sd
    return {
        "gradient_seconds": gradient,
        "orders_in_the_same_time": count,
        "their_expected_best": mean + sd * float(norm.ppf(1 - 0.5 ** (1 / count))),
        "sds_below_mean": away,
        "random_orders_needed": 1 / float(norm.cdf(away)),
        "inside_interval": bool(interval[0] <= true <= interval[1]),
    }


def methods(run: fut.Run, found: Curriculum, arguments: argparse.Namespace) -> dict[str, Any]:
    """Estimate and truth of what the other methods find with the same number of evaluations."""
    rows = {}
    for method, start in (("genetic", None), ("assignment", None), ("local", "random:1")):
        other = run.search(
            evaluations=arguments.evaluations,
            method=method,
            start=start,
            verify=1,
            finalists=1,
            heuristics=[],
            seed=found.search.seed,
        )
        name = f"{method} from {start}" if start else method
        history = other.search.history
        rows[name] = {"estimated": history[-1][1], "retrained": other.truths.retrained_loss, "history": history}
    return rows


def away(run: fut.Run, found: Curriculum) -> list[dict[str, float]]:
    """Uncalibrated estimate and truth of orders ever more swaps away from the found one."""
    draw, rows = np.random.default_rng(found.search.seed), []
    orders = [(0, Order.of(found.order))]
    for swaps in SWAPS:
        for _ in range(PER_DISTANCE):
            order = orders[0][1]
            for _ in range(swaps):
                order = order.swap(*draw.choice(run.steps, 2, replace=False).tolist())
            orders.append((swaps, order))
    for name in ("positions", "adjoint"):
        guesses = raw_estimates(run.methods.open(name), [order for _, order in orders])[0]
        for i, ((swaps, order), guess) in enumerate(zip(orders, guesses, strict=True)):
            if name == "positions":
                rows.append({"swaps": swaps, "retrained": run.retrain(order).loss})
            rows[i][name] = guess
    return rows


def say(row: dict[str, Any]) -> None:
    found = row["found"]
    gain = found["gain"]
    line = (
        f"T={row['steps']} seed={row['seed']} found {found['retrained_loss']:.5f} (estimated {found['estimated_loss']:.5f}) "
        f"random {found['mean_random_loss']:.5f} ± {found['random_sd']:.5f}, best {found['best_random_loss']:.5f}; "
        f"{found['best_heuristic']} {found['best_heuristic_loss']:.5f}; gain in perplexity "
        f"{gain['mean_random']['perplexity']:.3f} on the mean, {gain['best_random']['perplexity']:.3f} on the best; "
        f"{row['sds_below_mean']:.1f} sd; {found['seconds']:.0f} s"
    )
    fresh = row["fresh"]
    line += f"; fresh text {perplexity(float(np.mean(fresh['random']))) - perplexity(fresh['found']):.3f}"
    if "away" in row:
        near = row["away"]
        true = [a["retrained"] for a in near]
        line += f"; Spearman near it {spearmanr(true, [a['adjoint'] for a in near])[0]:.3f}"
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[32, 64])
    cli.add_argument("--seeds", type=int, default=5)
    cli.add_argument("--first", type=int, default=0, help="the first of the seeds")
    cli.add_argument("--studied", type=int, default=2)
    cli.add_argument("--evaluations", type=int, default=600)
    cli.add_argument("--random", type=int, default=64, help="random orders retrained")
    cli.add_argument("--text", default="")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="curriculum")
    arguments = cli.parse_args(argv)
    started, (rows, done) = began(arguments.name), resumed(arguments.name, KEPT)
    for values in [(steps, seed) for steps in arguments.steps for seed in range(arguments.first, arguments.seeds)]:
        if values not in done:
            rows.append(measure(dict(zip(KEPT, values, strict=True)), arguments))
            say(rows[-1])
            write_record(arguments.name, vars(arguments), rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

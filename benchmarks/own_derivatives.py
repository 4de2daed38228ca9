"""Is the mean of real runs' own derivatives better than one derivative with mean curvature, and what do their differences say?

python benchmarks/own_derivatives.py --items heterogeneous --work DIR

c runs under random orders m, each with its own table: to first order what item i in step t's place would change,

    Z_m[t, i] = <costate after step t, R_t(y_t, g_i) - y_{t+1}>,

along the run's own states y, with the Hessian of the very item that every step consumed (no pool, no average), and gradients from
anchors of its own. An order is read from

    one     one run's table (the mean over runs of what is found);
    mean    the runs' mean table: to second order the derivative of the average order;
    rank r  that, and <x - m, K (x - m)> / 2 for the interactions K of placements, x and m as 0/1 tables: to second order Z_m
            less the mean table is K (m - mean m), and c such products give K's leading part (Nystroem; Halko, Martinsson &
            Tropp 2011, arXiv 0909.4061, section 5.4), of rank r.

Beside them the default estimator, whose one sweep averages curvature over places first, and its table of positions.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import began, write_record
from scipy.stats import spearmanr

import fut
from estimators.adjoint import Anchored, Sweep, spread_anchors
from estimators.orders.order import Order, random_orders
from estimators.position_table import StepStates, chunked_values
from estimators.rules.base import next_state
from estimators.rules.clipping import global_norm
from estimators.state import State
from fut.methods.batching import raw_estimates
from fut.methods.settings import load_config

ORDER_SEED, OWN_SEED = 2000, 9000


def trajectory(run: fut.Run, order: Order) -> list[State]:
    """Lifted states of really training under an order, T + 1 of them."""
    problem, states = run.context.problem, [run.context.state(0)]
    for step, (item,) in enumerate(order.steps):
        gradient = problem.gradient(states[-1].theta, item)
        states.append(next_state(problem.rule, states[-1], gradient, problem.rate(step)))
    return states


def own_table(run: fut.Run, order: Order, anchors: Sequence[int]) -> np.ndarray:
    """Z [T, items] of one run."""
    problem, items = run.context.problem, run.context.problem.config.data.items
    states = trajectory(run, order)
    gradients = torch.stack([problem.item_gradients(states[at].theta, range(items)) for at in anchors])
    between, table = Anchored(anchors, lambda a: gradients[a]), np.zeros((run.steps, items))
    sweep = Sweep(
        problem.rule,
        problem.rate,
        order,
        lambda step: states[step],
        lambda step, item: problem.gradient(states[step].theta, item),
        lambda theta, item, direction: problem.product(theta, item, direction, exact=False),
    )
    costate = sweep.start(problem.probe_gradient(states[-1].theta)[None])
    for found in sweep.backward(costate):
        here = between(found.step)
        at = StepStates(states[found.step], states[found.step + 1], costate)
        parts = chunked_values(problem.rule, problem.rate(found.step), at, here, global_norm(here))
        table[found.step] = torch.stack([values[0].sum(-1) for _, values in parts]).sum(0).cpu().numpy()
        costate = found.costate
    return table


def centred(tables: np.ndarray) -> np.ndarray:
    """Tables [n, T, items] as vectors, without what no order that has every item once can tell from nothing."""
    tables = tables - tables.mean(-1, keepdims=True)
    rows: np.ndarray = (tables - tables.mean(-2, keepdims=True)).reshape(len(tables), -1)
    return rows


def placements(orders: Sequence[Order], items: int) -> np.ndarray:
    """Orders as 0/1 tables, centred: [n, T items]."""
    found = np.zeros((len(orders), len(orders[0]), items))
    for n, order in enumerate(orders):
        found[n, np.arange(len(order)), [item for (item,) in order.steps]] = 1.0
    return centred(found)


def readings(asked: np.ndarray, runs: np.ndarray, tables: np.ndarray, ranks: Sequence[int]) -> dict[str, np.ndarray]:
    """What placements [n, T items] are worth by the tables [c, T items] of c runs, up to a constant."""
    mean, away = tables.mean(0), tables - tables.mean(0)
    along, beyond = runs - runs.mean(0), asked - runs.mean(0)
    found = {"mean": beyond @ mean}
    directions = np.linalg.svd(away, full_matrices=False)[2]
    for rank in (r for r in ranks if r < len(runs)):
        basis = directions[:rank].T
        small = np.linalg.lstsq(along @ basis, away @ basis, rcond=None)[0]
        seen = beyond @ basis
        found[f"rank {rank}"] = found["mean"] + 0.5 * np.einsum("nr,rs,ns->n", seen, (small + small.T) / 2, seen)
    return found


def judged(guess: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Spearman, Pearson, and the standard deviation [nats/token] that the best straight line through the estimates leaves."""
    left = truth - np.polyval(np.polyfit(guess, truth, 1), guess)
    return {
        "spearman": float(spearmanr(guess, truth)[0]),
        "pearson": float(np.corrcoef(guess, truth)[0, 1]),
        "left": float(left.std(ddof=2)),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    data = {"items": arguments.steps, "heterogeneous": arguments.items == "heterogeneous", "text": arguments.text}
    config = load_config(None, arguments.settings, data=data)
    path = arguments.work / f"{arguments.steps}-{arguments.items}"
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    anchors, items = (
        spread_anchors(run.steps, arguments.anchors, run.context.problem.rate),
        run.context.problem.config.data.items,
    )
    orders = random_orders(run.reference, arguments.orders, ORDER_SEED)
    truth = np.array([run.retrain(order).loss for order in orders])
    own, tables = random_orders(run.reference, arguments.runs, OWN_SEED), []
    for n, order in enumerate(own):
        tables.append(own_table(run, order, anchors))
        print(f"run {n + 1} of {len(own)}", file=sys.stderr, flush=True)
    asked, runs, known = placements(orders, items), placements(own, items), centred(np.array(tables))
    alone = [judged(asked @ table, truth) for table in known]
    found = {"one": {name: float(np.mean([a[name] for a in alone])) for name in alone[0]}}
    found |= {name: judged(guess, truth) for name, guess in readings(asked, runs, known, arguments.ranks).items()}
    run.cache(["adjoint"])
    for name in ("positions", "adjoint"):
        found[f"default: {name}"] = judged(np.array(raw_estimates(run.methods.open(name), orders)[0]), truth)
    shutil.rmtree(path)
    return {"parameters": run.context.parameters, "true_sd": float(truth.std(ddof=1)), "readings": found}


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, default=64)
    cli.add_argument("--items", default="iid")
    cli.add_argument("--runs", type=int, default=24)
    cli.add_argument("--orders", type=int, default=48)
    cli.add_argument("--anchors", type=int, default=5)
    cli.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 6, 8])
    cli.add_argument("--text", default="")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="own-derivatives")
    arguments = cli.parse_args(argv)
    started, found = began(), measure(arguments)
    for name, row in found["readings"].items():
        print(name, {k: f"{v:.3g}" for k, v in row.items()}, file=sys.stderr)
    write_record(arguments.name, vars(arguments) | {"order_seed": ORDER_SEED, "own_seed": OWN_SEED}, found, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

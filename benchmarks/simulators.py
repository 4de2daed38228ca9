"""Simulators of loss curves, fitted to as many retrained runs as the adjoint costs, beside the adjoint's loss over the steps.

python benchmarks/simulators.py --steps 32 --work /tmp/simulators

For every setting: a reference run, the expansion with an adjoint pass after each of some steps, and a calibration on 8 orders.
What both cost in training runs is the number m of other random orders that the simulators are fitted to, each trained with its
probe loss after every step. n further orders, traced likewise, judge all. Resumes: settings that the record holds are skipped.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from measured_rows import Rows, run, with_frame
from simfluence import RIDGES, Floats, Items, Kind, Simulator, chosen

import fut
from estimators.orders.order import random_orders
from estimators.state import State
from fut.estimation.accuracy import accuracy
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.settings import load_config

FIT_SEED, JUDGED_SEED = 8100, 8200
KINDS = {
    "additive": Kind(multiplicative=False),
    "multiplicative": Kind(additive=False),
    "simfluence": Kind(),
    "simfluence, by rate": Kind(by_rate=True),
}
ABOUT_MEAN = "about the mean, by rate"
"""An addition of ours: the process is of deviations from the mean curve of the fitted runs."""
KEPT = ("steps", "items", "seed")
SHARES = (0.125, 0.25, 0.5, 0.75)
"""Of the window: where curves are compared, beside the end."""
SHOWN = ("spearman", "spearman_interval", "mae", "skill")


def measure(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: every method at every compared step of one setting."""
    steps, seed = setting["steps"], setting["seed"]
    data = {"heterogeneous": setting["items"] == "heterogeneous", "seed": seed}
    config = load_config(None, arguments.settings, steps, data=data, model={"seed": seed})
    path = arguments.work / "-".join(str(v) for v in setting.values())
    shutil.rmtree(path, ignore_errors=True)
    run = fut.train(path, config)
    taken = [round(share * steps) for share in SHARES]
    run.cache(readouts=["probe", *(f"probe@{step}" for step in taken)])
    run.calibrate(arguments.calibrated, estimator="adjoint", curve=True)
    cost = EXPANSION.cost(open_expansion(run.context).spec).gradients / config.consumed
    count = arguments.runs or round(cost) + arguments.calibrated
    fitted, items = traced(run, random_orders(run.reference, count, FIT_SEED))
    judged = random_orders(run.reference, arguments.orders, JUDGED_SEED)
    true, asked = traced(run, judged)
    start = time.perf_counter()
    made = simulators(fitted, items, np.array([run.context.problem.rate(t) for t in range(steps)]))
    seconds = time.perf_counter() - start
    reference = np.array([run.context.problem.probe_loss(run.context.state(t).theta) for t in range(steps + 1)])
    guesses = simulated({name: of for name, (of, _) in made.items()}, asked, float(true[0, 0]), fitted.mean(axis=0))
    points = [point(run, judged, step, true, reference, guesses) for step in [*taken, steps]]
    shutil.rmtree(path)
    return setting | {
        "parameters": run.context.parameters,
        "orders": len(judged),
        "precompute_training_runs": cost,
        "calibrated": arguments.calibrated,
        "runs_of_simulators": count,
        "ridges": {name: ridge for name, (_, ridge) in made.items()},
        "fit_seconds": seconds,
        "reference_curve": reference.tolist(),
        "points": points,
        "whole_curves": {name: whole(true, reference, of) for name, of in guesses.items()},
        "true_curves": true.tolist(),
        "fitted_curves": fitted.tolist(),
        "fitted_orders": items.tolist(),
    }


def simulators(curves: Floats, items: Items, rates: Floats) -> dict[str, tuple[Simulator, float]]:
    """Every kind, fitted to the runs, with the ridge that runs left out chose."""
    made = {name: chosen(curves, items, kind, rates) for name, kind in KINDS.items()}
    return made | {ABOUT_MEAN: chosen(curves - curves.mean(axis=0), items, Kind(by_rate=True), rates)}


def simulated(made: dict[str, Simulator], items: Items, start: float, mean: Floats) -> dict[str, Floats]:
    """Curves [n, T + 1] of orders [n, T] by every simulator, and the mean curve of the runs that they were fitted to."""
    curves = {}
    for name, of in made.items():
        first, added = (0.0, mean) if name == ABOUT_MEAN else (start, np.zeros_like(mean))
        curves[name] = np.stack([of.curve(first, order) + added for order in items])
    return curves | {"mean of the runs": np.tile(mean, (len(items), 1))}


def traced(run: fut.Run, orders: Sequence[fut.Order]) -> tuple[Floats, Items]:
    """Probe losses of orders, trained here, before the window and after every step [n, T + 1], and their items [n, T]."""
    problem, curves = run.context.problem, list[list[float]]()
    start = problem.probe_loss(run.context.state(0).theta)
    for order in orders:
        losses = [start]

        def hear(step: int, state: State, kept: list[float] = losses) -> None:
            kept.append(problem.probe_loss(state.theta[0]))

        run.context.retrain(order, hear)
        if len(losses) != run.steps + 1:
            raise ValueError(
                f"traced: expected an order that has not been trained, got {order.tolist()}; change its seed"
            )
        curves.append(losses)
    return np.array(curves), np.array([order.tolist() for order in orders])


def point(
    run: fut.Run,
    orders: Sequence[fut.Order],
    step: int,
    true: Floats,
    reference: Floats,
    guesses: dict[str, Floats],
) -> dict[str, Any]:
    """All methods after one step, the adjoint calibrated."""
    name = "probe" if step == run.steps else f"probe@{step}"
    answers = run.estimate(orders, "adjoint", known=False, readout=name)
    found = {"adjoint": [answer.value for answer in answers]} | {k: v[:, step].tolist() for k, v in guesses.items()}
    rows = {}
    for method, values in found.items():
        judged = accuracy(true[:, step], values, float(reference[step])).as_dict()
        errors = np.abs(np.array(values) - true[:, step])
        rows[method] = {k: judged[k] for k in SHOWN} | {"standard_error": standard_error(errors), "estimated": values}
    errors = np.abs(reference[step] - true[:, step])
    rows["reference"] = {"mae": float(errors.mean()), "standard_error": standard_error(errors)}
    return {"step": step, "true_sd": float(true[:, step].std(ddof=1)), "methods": rows}


def standard_error(errors: Floats) -> float:
    """Of the mean of n errors."""
    return float(errors.std(ddof=1) / np.sqrt(len(errors)))


def whole(true: Floats, reference: Floats, guess: Floats) -> dict[str, float]:
    """MAE over all steps after the first loss, and that of the reference run's curve [nats/token]."""
    return {
        "mae": float(np.abs(guess - true)[:, 1:].mean()),
        "mae_reference": float(np.abs(reference - true)[:, 1:].mean()),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line of each setting and step: MAE in 10⁻³ nats/token and Spearman."""
    names = ["adjoint", *KINDS, ABOUT_MEAN, "mean of the runs", "reference"]
    lines = ["| T | items | step | sd | " + " | ".join(f"`{n}`" for n in names) + " |", "|" + "---|" * (4 + len(names))]
    for row in rows:
        for at in row["points"]:
            cells = [str(row["steps"]), row["items"], str(at["step"]), f"{1000 * at['true_sd']:.1f}"]
            for name in names:
                of = at["methods"][name]
                rank = "" if of.get("spearman") is None else f" / {of['spearman']:.2f}"
                cells.append(f"{1000 * of['mae']:.2f} ± {1000 * of['standard_error']:.2f}{rank}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).replace("/ -", "/ −")


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[32])
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--seeds", type=int, nargs="+", default=[0], help="of text and model")
    cli.add_argument("--calibrated", type=int, default=8)
    cli.add_argument("--runs", type=int, default=0, help="that simulators are fitted to; 0: what the adjoint costs")
    arguments = with_frame(cli, "simulators").parse_args(argv)
    about = {"fit_seed": FIT_SEED, "judged_seed": JUDGED_SEED, "ridges": RIDGES}
    settings = itertools.product(arguments.steps, arguments.items, arguments.seeds)
    return run(cli, arguments, Rows(KEPT, measure, table, about), settings)


if __name__ == "__main__":
    sys.exit(main())

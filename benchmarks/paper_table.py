"""AbsDiff in perplexity over T and batch size, as arXiv 2505.22042 reports it, of its estimators, the adjoint and the baseline.

python benchmarks/paper_table.py --steps 8 16 32 64 --batches 4 16 --work /tmp/paper-table

Every cell is a reference run with its own terms and its own n random orders (seed fixed here), really retrained once and
shared by all methods. Nothing is calibrated. Resumes: cells that the record holds are skipped.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from adjoint_table import CALIBRATION, SEED, SPLITS
from measured_rows import Rows, run, with_frame
from numpy.typing import NDArray

import fut
from estimators.intervals import calibrate
from estimators.orders.order import random_orders
from fut.estimation.accuracy import accuracy
from fut.methods.batching import raw_estimates
from fut.methods.registry import costs
from fut.methods.settings import load_config

ORDER_SEED = 9000
METHODS = ("taylor1", "taylor2", "adjoint")
TERMS = ("update", "jvp", "second")
KEPT = ("steps", "batch", "seed")
Losses = Sequence[float] | NDArray[np.float64]


def opened(setting: dict[str, int], settings: Sequence[str], work: Path) -> tuple[fut.Run, dict[str, float]]:
    """The run of a cell with all terms that the methods read, and the seconds that each kind took where it was made here."""
    data = {"items": setting["steps"], "batch": setting["batch"], "seed": setting["seed"]}
    config = load_config(None, settings, data=data, model={"seed": setting["seed"]})
    path = work / "-".join(f"{key}-{value}" for key, value in setting.items())
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    seconds = {}
    for name, terms in (("taylor", TERMS), ("adjoint", ("adjoint",))):
        start = time.perf_counter()
        run.cache(list(terms))
        seconds[name] = time.perf_counter() - start
    return run, seconds


def measure(setting: dict[str, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: every method on the same retrained orders of one cell."""
    run, seconds = opened(setting, arguments.settings, arguments.work)
    orders = random_orders(run.reference, arguments.orders, ORDER_SEED)
    truths = [run.retrain(order) for order in orders]
    losses = [truth.loss for truth in truths]
    row = setting | {
        "orders": len(orders),
        "parameters": run.context.parameters,
        "reference_loss": run.reference_loss,
        "reference_perplexity": math.exp(run.reference_loss),
        "true_sd_perplexity": float(np.exp(losses).std(ddof=1)),
        "retrain_seconds": float(np.mean([truth.seconds for truth in truths])),
        "build_seconds": seconds,
        "reference": baseline(losses, run.reference_loss),
        "methods": {name: judged(run, name, orders, losses) for name in METHODS},
        "true_losses": losses,
    }
    if not arguments.keep:
        shutil.rmtree(run.path)
    return row


def baseline(losses: Sequence[float], reference: float) -> dict[str, float]:
    """AbsDiff [perplexity] of the answer "every order ends like the reference run", with its standard error."""
    return mean_and_error(np.abs(np.exp(losses) - math.exp(reference)))


def mean_and_error(errors: NDArray[np.float64]) -> dict[str, float]:
    """Mean of n absolute errors [n], and the standard error of that mean over orders."""
    return {"absdiff": float(errors.mean()), "standard_error": float(errors.std(ddof=1) / math.sqrt(len(errors)))}


def judged(run: fut.Run, name: str, orders: Sequence[fut.Order], losses: Sequence[float]) -> dict[str, Any]:
    """AbsDiff and Spearman of one method in perplexity, and what it costs before the first order in training runs.

    Estimates that are not finite count as in `fut.estimation.accuracy`; they have no standard error.
    """
    start = time.perf_counter()
    guesses = raw_estimates(run.methods.open(name), orders)[0]
    seconds = (time.perf_counter() - start) / len(orders)
    with np.errstate(over="ignore"):
        guessed, true = np.exp(guesses), np.exp(losses)
    found = accuracy(true, guessed, math.exp(run.reference_loss))
    finite = bool(np.isfinite(guessed).all())
    error = mean_and_error(np.abs(guessed - true))["standard_error"] if finite else None
    gain = np.abs(math.exp(run.reference_loss) - true) - np.abs(guessed - true)
    return {
        "absdiff": found.mae,
        "standard_error": error,
        "better_than_baseline": mean_and_error(gain) if finite else None,
        "spearman": found.spearman,
        "spearman_interval": found.spearman_interval,
        "skill": found.skill,
        "diverged": found.diverged,
        "precompute_training_runs": costs(run.context, name)["precompute_gradients"] / run.steps,
        "seconds_per_order": seconds,
        "estimated_losses": [v if math.isfinite(v) else None for v in guesses],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line of each cell: AbsDiff ± standard error and Spearman."""
    lines = ["| T | batch | seed | perplexity | sd | `reference` | `fut` | `fut++` | `adjoint` |", "|" + "---|" * 9]
    for row in sorted(rows, key=lambda r: tuple(r[k] for k in KEPT)):
        base = row["reference"]
        cells = [str(row[k]) for k in KEPT] + [f"{row['reference_perplexity']:.2f}", f"{row['true_sd_perplexity']:.4f}"]
        cells += [f"{base['absdiff']:.4f} ± {base['standard_error']:.4f}"]
        for of in (row["methods"][name] for name in METHODS):  # a record sorts its names
            error = "diverged" if of["standard_error"] is None else f"{of['standard_error']:.4f}"
            cells.append(f"{of['absdiff']:.4f} ± {error} / {of['spearman']:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *calibrated_lines(rows)]).replace("-0", "−0")


def calibrated_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line of each cell: AbsDiff of every method after a calibration, and that of the calibration's own mean."""
    lines = ["| T | batch | seed | mean of 8 | `fut` | `fut++` | `adjoint` |", "|" + "---|" * 7]
    for row in sorted(rows, key=lambda r: tuple(r[k] for k in KEPT)):
        found = [calibrated(row["true_losses"], row["methods"][name]["estimated_losses"]) for name in METHODS]
        mean = calibrated(row["true_losses"], np.zeros(len(row["true_losses"])))
        cells = [str(row[k]) for k in KEPT] + [f"{of:.4f}" for of in (mean, *found)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def calibrated(true: Losses, guess: Losses | Sequence[float | None]) -> float:
    """AbsDiff [perplexity] of estimates corrected by a line fitted to CALIBRATION of the orders, judged on the others.

    The mean over SPLITS random choices of these orders. Estimates that are all the same are corrected to the mean of the fitted
    truths. NaN where an estimate is not finite.
    """
    if any(value is None for value in guess):
        return math.nan
    truth, guessed = np.asarray(true, dtype=float), np.asarray(guess, dtype=float)
    draw, errors = np.random.default_rng(SEED), []
    for _ in range(SPLITS):
        chosen = draw.permutation(len(truth))
        fitted, judged = chosen[:CALIBRATION], chosen[CALIBRATION:]
        corrected = np.full(len(judged), truth[fitted].mean())
        if np.ptp(guessed) > 0:
            fit = calibrate(list(truth[fitted]), list(guessed[fitted]))
            corrected = np.array([fit.correct(g) for g in guessed[judged]])
        errors.append(np.abs(np.exp(corrected) - np.exp(truth[judged])).mean())
    return float(np.mean(errors))


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[8, 16, 32, 64])
    cli.add_argument("--batches", type=int, nargs="+", default=[4, 16], help="sequences per item")
    cli.add_argument("--seeds", type=int, nargs="+", default=[0], help="of text and model")
    cli.add_argument("--keep", action="store_true", help="keep the runs, as for paper_search.py")
    arguments = with_frame(cli, "paper-table").parse_args(argv)
    settings = itertools.product(arguments.steps, arguments.batches, arguments.seeds)
    return run(cli, arguments, Rows(KEPT, measure, table, {"order_seed": ORDER_SEED}), settings)


if __name__ == "__main__":
    sys.exit(main())

"""The loss over the steps of another order: estimates after several steps against orders that were really retrained.

python benchmarks/curve_accuracy.py --steps 64 --work /tmp/curve

For every setting: a reference run, the expansion with an adjoint pass of the probe loss after each of the steps, a calibration
on `--calibrated` orders, and `--orders` other random orders, all trained once, with what they have come to after each step
kept. Resumes: settings that the record holds are skipped.
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

import numpy as np
import torch
from adjoint_table import resplit
from record import began, resumed, write_record

import fut
from fut.artifacts.directory import directory_bytes
from fut.display.format import interval
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.settings import load_config
from fut.questions.accuracy.curve import CurveVerification

SEED = 7000
METHODS = ("adjoint", "positions")
SHOWN = ("spearman", "spearman_interval", "skill", "skill_uncalibrated", "coverage", "bias", "residual_sd")


def measure(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: every step of one setting."""
    steps, data = setting["steps"], {"heterogeneous": setting["items"] == "heterogeneous", "text": arguments.text}
    config = load_config(None, arguments.settings, steps, data=data, schedule={"rate": setting["rate"]})
    path = arguments.work / "-".join(str(v) for v in setting.values())
    shutil.rmtree(path, ignore_errors=True)
    run = fut.train(path, config)
    taken = [round(share * steps) for share in arguments.shares]
    alone = EXPANSION.cost(EXPANSION.planned(run.context.problem, config)).gradients
    start = time.perf_counter()
    run.cache(readouts=["probe", *(f"probe@{step}" for step in taken)])
    built = time.perf_counter() - start
    whole = EXPANSION.cost(open_expansion(run.context).spec).gradients
    for method in METHODS:
        run.calibrate(arguments.calibrated, estimator=method, curve=True)
    found = run.verify(arguments.orders, SEED, METHODS, curve=True)
    assert isinstance(found, CurveVerification)
    reference = [run.context.problem.probe_loss(run.context.state(step).theta) for step in range(steps + 1)]
    result = {
        **setting,
        "parameters": run.context.parameters,
        "orders": len(found.orders),
        "precompute_training_runs": whole / config.consumed,
        "without_curve_training_runs": alone / config.consumed,
        "build_seconds": built,
        "retrain_seconds": found.retrain_seconds,
        "store_bytes": directory_bytes(run.path / "adjoint"),
        "reference_losses": reference,
        "curve": [_point(step, of) for step, of in found.steps.items()],
    }
    shutil.rmtree(path)
    return result


def _point(step: int, found: Any) -> dict[str, Any]:
    rows = {name: {k: found.estimators[name].get(k) for k in SHOWN} for name in METHODS}
    return {
        "step": step,
        "reference_loss": found.reference_loss,
        "true_mean": float(np.mean(found.true_losses)),
        "true_sd": float(np.std(found.true_losses, ddof=1)),
        "methods": rows,
        "true_losses": found.true_losses,
        "estimated_losses": {name: found.estimated_losses[name] for name in METHODS},
    }


def say(row: dict[str, Any]) -> None:
    cost = f"{row['precompute_training_runs']:.1f} training runs, {row['without_curve_training_runs']:.1f} without"
    print(f"{row['items']} T={row['steps']} rate={row['rate']:g} D={row['parameters']}: {cost}", file=sys.stderr)
    for point in row["curve"]:
        found = ", ".join(
            f"{name} {r['spearman']:.3f} {interval(r['spearman_interval'])} skill {r['skill']:+.2f} "
            f"coverage {r['coverage']:.2f}"
            for name, r in point["methods"].items()
        )
        print(f"  step {point['step']:4d} sd {point['true_sd']:.5f}: {found}", file=sys.stderr, flush=True)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line of each setting and step, by `adjoint`. Calibrated skill and coverage are means over calibrations on 8 of the
    orders, each judged on the others."""
    lines = [
        "| T | items | step | sd of truth | Spearman | skill | coverage | `positions` |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for point in row["curve"]:
            found, simple = (point["methods"][name] for name in METHODS)
            guess = point["estimated_losses"]["adjoint"]
            fair = resplit({**point, "estimated_losses": guess})
            low, high = found["spearman_interval"]
            cells = [f"{point['true_sd']:.4f}", f"{found['spearman']:.3f} [{low:.2f}, {high:.2f}]"]
            cells += [f"{fair['skill']:.2f}", f"{fair['coverage']:.2f}", f"{simple['spearman']:.3f}"]
            lines.append(f"| {row['steps']} | {row['items']} | {point['step']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[64])
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    cli.add_argument(
        "--shares", type=float, nargs="+", default=[0.125, 0.25, 0.5, 0.75], help="of the window, ascending"
    )
    cli.add_argument("--orders", type=int, default=32)
    cli.add_argument("--calibrated", type=int, default=8)
    cli.add_argument("--text", default="")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path)
    cli.add_argument("--table", action="store_true", help="print the record's table, and measure nothing")
    cli.add_argument("--name", default="curve-accuracy")
    arguments = cli.parse_args(argv)
    kept = ("steps", "items", "rate")
    if arguments.table:
        print(table(resumed(arguments.name, kept)[0]))
        return 0
    if arguments.work is None:
        cli.error("expected --work DIR, where the runs are")
    started, (rows, done) = began(arguments.name), resumed(arguments.name, kept)
    for values in itertools.product(arguments.steps, arguments.items, arguments.rates):
        if values not in done:
            rows.append(measure(dict(zip(kept, values, strict=True)), arguments))
            say(rows[-1])
            shown = vars(arguments) | {"orders_seed": SEED, "threads": torch.get_num_threads()}
            write_record(arguments.name, shown, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

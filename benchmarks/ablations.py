"""Ablations of the adjoint: what each of its parts is worth, one changed at a time, against really retrained orders.

python benchmarks/ablations.py --settings 32-iid 32-heterogeneous --work DIR          (eight ablations, about half an hour)
python benchmarks/ablations.py --settings 64-heterogeneous --groups centre anchors curvature --work DIR
python benchmarks/ablations.py --table full                           (or compact: from the record, trains nothing)

One reference run per setting (built-in model, demo text, cosine schedule); n random orders of a fixed seed are retrained once
and shared by all variants. Resumes: what the record holds already, by setting and variant, is skipped. Groups:

centre       what is expanded about: a mean over c items a step, or the reference order itself
ensemble     the trajectory as the mean of real runs, curvature averaged over where they stand
anchors      checkpoints at which item gradients are taken
coordinates  how many are kept, three samples each
curvature    each item's own Hessian, or that of a batch as large as `pool` steps, balanced over steps or not
precompute   the estimator as it comes, quadratic reading and all, with less and with more spent on it
products     Hessian-vector products: exact, or by central difference with relative step h; and their own error
order        no curvature, first order exactly at query time, adjoint, table of positions
moments      moments of the reference run or the trajectory, or the new order's own
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ablation_report import picture, table
from ablation_variants import Variant, Workbench
from adjoint_table import CALIBRATION, SPLITS, resplit
from record import RECORDS, Began, began, write_record

import fut
from estimators.orders.order import random_orders
from fut.estimation.accuracy import accuracy
from fut.methods.batching import raw_estimates
from fut.methods.settings import load_config
from fut.methods.timings import seconds_per_gradient

ORDER_SEED = 2000
GROUPS = ("centre", "ensemble", "anchors", "coordinates", "curvature", "precompute", "products", "order", "moments")


def opened(setting: str, arguments: argparse.Namespace) -> fut.Run:
    """The setting's reference run, trained if it is not there; a setting is `STEPS-ITEMS`."""
    steps, _, items = setting.partition("-")
    path = arguments.work / setting / "run"
    if (path / "summary.json").exists():
        return fut.open(path)
    data = {"items": int(steps), "heterogeneous": items == "heterogeneous"}
    schedule = {"kind": "cosine", "rate": arguments.rate}
    cache = {"sketch": "identity", "products": "difference"}
    return fut.train(path, load_config(None, arguments.changes, data=data, schedule=schedule, cache=cache))


def truth_of(run: fut.Run, orders: list[fut.Order]) -> dict[str, Any]:
    """What all variants of a setting are compared with."""
    found = [run.retrain(order) for order in orders]
    losses = [f.loss for f in found]
    return {
        "parameters": run.context.parameters,
        "reference_loss": run.reference_loss,
        "true_losses": losses,
        "true_sd": float(torch.tensor(losses, dtype=torch.float64).std()),
        "retrain_seconds": sum(f.seconds for f in found) / len(found),
        "gradient_seconds": seconds_per_gradient(run.context.problem, run.context.state(0)),
    }


def measure(variant: Variant, orders: list[fut.Order], truth: dict[str, Any]) -> dict[str, Any]:
    """One row: accuracy as the estimate comes, and over many ways to choose the orders that calibrate it."""
    chosen = orders[: variant.orders]
    began = time.perf_counter()
    estimator = variant.make()
    estimator.ready()
    built = time.perf_counter() - began
    began = time.perf_counter()
    losses = raw_estimates(estimator, chosen)[0]
    answered = time.perf_counter() - began
    true = truth["true_losses"][: len(chosen)]
    finite = all(abs(loss) < 1e3 for loss in losses)
    compared = {"true_losses": true, "estimated_losses": losses, "reference_loss": truth["reference_loss"]}
    return {
        "orders": len(chosen),
        "precompute_training_runs": variant.runs(),
        "build_seconds": built,
        "seconds_per_order": answered / len(chosen),
        "accuracy": accuracy(true, losses, truth["reference_loss"]).as_dict(),
        "calibrated": resplit(compared) if finite else None,
        "estimated_losses": [loss if abs(loss) < 1e300 else None for loss in losses],
        **variant.extra(),
    }


def say(row: dict[str, Any]) -> None:
    a, c = row["accuracy"], row["calibrated"] or {"skill": float("nan"), "coverage": float("nan")}
    print(
        f"{row['setting']:17s} {row['group']:12s} {row['variant']:38s} seed {row['seed']} n={row['orders']} "
        f"runs={row['precompute_training_runs']:<6.1f} Spearman={a['spearman'] or float('nan'):.3f} "
        f"skill={a['skill']:+.2f}→{c['skill']:+.2f} coverage={c['coverage']:.2f} "
        f"{row['build_seconds']:.0f} s + {row['seconds_per_order']:.2f} s/order",
        file=sys.stderr,
        flush=True,
    )


def measured(setting: str, arguments: argparse.Namespace, results: dict[str, Any], started: Began) -> None:
    """Every variant of a setting that the record lacks, written as it comes."""
    run = opened(setting, arguments)
    orders = random_orders(run.reference, arguments.orders, ORDER_SEED)
    results["settings"].setdefault(setting, {})
    results["settings"][setting] = results["settings"][setting] or truth_of(run, orders)
    bench = Workbench(run, arguments.work / setting / "variants")
    for variant in bench.variants(arguments.groups):
        key = {"setting": setting, "group": variant.group, "variant": variant.value, "seed": variant.seed}
        if any(row | key == row for row in results["rows"]):
            continue
        results["rows"].append(key | measure(variant, orders, results["settings"][setting]))
        say(results["rows"][-1])
        shown = vars(arguments) | {"order_seed": ORDER_SEED, "calibration": CALIBRATION, "splits": SPLITS}
        write_record(arguments.name, shown, results, started)


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--settings", nargs="+", default=["32-iid", "32-heterogeneous"], help="STEPS-ITEMS")
    cli.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS)
    cli.add_argument("--orders", type=int, default=48)
    cli.add_argument("--rate", type=float, default=1e-3)
    cli.add_argument("--set", dest="changes", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, help="directory for the runs; kept if --keep")
    cli.add_argument("--keep", action="store_true")
    cli.add_argument("--name", default="ablations")
    cli.add_argument("--table", choices=["compact", "full"], help="print the record and draw its picture, no more")
    arguments = cli.parse_args(argv)
    if arguments.work is None and arguments.table is None:
        cli.error("give --work DIR to measure, or --table to print the record")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parsed(argv)
    path = RECORDS / f"{arguments.name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results = record.get("results") or {"settings": {}, "rows": []}
    if arguments.table is None:
        started = began(arguments.name)
        for setting in arguments.settings:
            measured(setting, arguments, results, started)
            if not arguments.keep:
                shutil.rmtree(arguments.work / setting)
    else:
        print(table(results, arguments.table == "compact"))
    picture(results, path.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

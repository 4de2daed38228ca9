"""How well one edit of the reference order is estimated, and what a calibration on such edits is worth.

python benchmarks/single_edits.py RUN --orders 24

RUN is calibrated on random orders. For every kind of edit the default estimator is calibrated on 8 random edits (kept in
RUN) and compared with held-out ones, all really retrained; then several swaps in turn, which no such calibration is for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from record import began, write_record

import fut
from estimators.orders.order import Order
from fut.estimation.accuracy import accuracy
from fut.estimation.calibration import SEED
from fut.estimation.results import Estimate
from fut.estimation.service import EstimationService
from fut.orders.editing import CALIBRATED, edited, random_edits

HELD_OUT, SEVERAL = 4000, (2, 4, 8, 16)


def compared(run: fut.Run, found: Sequence[Estimate], true: Sequence[float]) -> dict[str, Any]:
    """Errors in nats/token, and what the 90 % intervals cover where there are some."""
    intervals = [e.interval for e in found if e.interval is not None]
    row = accuracy(true, [e.value for e in found], run.reference_loss, intervals or None)
    half = float(np.mean([(high - low) / 2 for low, high in intervals])) if intervals else None
    return {"mae": row.mae, "bias": row.bias, "spearman": row.spearman, "coverage": row.coverage, "half_width": half}


def measure(run: fut.Run, name: str, orders: Sequence[Order], edit: str | None) -> dict[str, Any]:
    estimator = run.methods.default
    true = [run.retrain(order).loss for order in orders]
    row = {
        "edits": name,
        "orders": len(orders),
        "true_mean_absolute_delta": float(np.mean(np.abs(np.array(true) - run.reference_loss))),
        "uncalibrated": compared(
            run,
            EstimationService(run.context).estimates(estimator, "probe", known=False, calibrated=False)(orders),
            true,
        ),
        "random_orders": compared(
            run, EstimationService(run.context).estimates(estimator, "probe", known=False)(orders), true
        ),
    }
    if edit is not None:
        row["own_edits"] = compared(
            run, EstimationService(run.context).estimates(estimator, "probe", known=False).for_edit(edit)(orders), true
        )
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("run", type=Path)
    cli.add_argument("--orders", type=int, default=24)
    cli.add_argument("--calibration", type=int, default=8)
    cli.add_argument("--name", default="single-edits")
    arguments, started = cli.parse_args(argv), began()
    run, rows = fut.open(arguments.run), []
    assert not (set(range(HELD_OUT, HELD_OUT + max(SEVERAL) + 1)) & {SEED}), "held-out seeds are not calibrated on"
    for name in CALIBRATED:
        used = set(run.calibrate(arguments.calibration, edit=name).digests)
        drawn = random_edits(
            run.reference, name, min(arguments.orders + arguments.calibration, run.items - 1), HELD_OUT
        )
        orders = [edited(run.reference, [edit], lambda order, key: order) for edit in drawn]
        rows.append(measure(run, name, [o for o in orders if o.digest not in used][: arguments.orders], name))
    for count in SEVERAL:
        edits = random_edits(run.reference, "swap", count * arguments.orders // 2, HELD_OUT + count)
        parts = [edits[first : first + count] for first in range(0, len(edits), count)]
        orders = [
            reduce(lambda order, edit: edit.apply(order, lambda o, key: o), part, run.reference) for part in parts
        ]
        rows.append(measure(run, f"{count} swaps", orders, None))
    settings = vars(arguments) | {
        "parameters": run.context.parameters,
        "steps": run.steps,
        "held_out_seed": HELD_OUT,
        "seed": SEED,
    }
    write_record(arguments.name, settings, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Do 90 % intervals hold where people look: at orders that a search found, sorted ones, blocks of a domain, single edits?

python benchmarks/chosen_orders.py --steps 64 --items iid heterogeneous --work DIR

Every setting: a reference run, its expansion, then calibrations on random and on chosen orders (`fut calibrate --chosen`), and
orders of every class, all really retrained: held-out random ones, what local searches found under jittered tables (least and
greatest), every other named order, blocks of even and of odd items, and random edits of each kind. Their intervals are those that
`fut estimate` gives, under each calibration alone. Resumes: settings that the record holds are skipped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from record import RECORDS, began, resumed, write_record

import fut
from estimators.intervals import Calibration, calibrate, calibrate_anchored, calibrate_curved
from estimators.orders.distance import Distance
from estimators.orders.order import Order, random_orders
from fut.estimation.calibration import SEED
from fut.estimation.calibration_orders import CHOSEN, calibration_orders
from fut.methods.adjoint.positions import position_table
from fut.methods.batching import raw_estimates
from fut.methods.settings import load_config
from fut.orders.editing import CALIBRATED, random_edits
from fut.orders.parsing import named_orders
from fut.questions.curriculum.evaluator import Budget
from fut.questions.curriculum.search import search

ORDER_SEED, EDIT_SEED, SEARCH_SEED = 2000, 11, 5
KEYS = ("steps", "schedule", "items", "rate")
EVALUATIONS, JITTER = 200, 0.3
FITS: Mapping[str, tuple[str | None, int]] = {
    "8 random": (None, 8),
    "16 chosen": (CHOSEN, 16),
    "24 chosen": (CHOSEN, 24),
}
"""Calibrations: kind and number of their orders. Single edits are judged by one on OF_KIND edits of their kind, too."""
OF_KIND = 8


def searched(run: fut.Run, count: int, maximize: bool) -> list[Order]:
    """What as many searches find, each guided by a table that is jittered in another way; the first by the table as it is."""
    table, estimator = position_table(run.context), run.methods.open("adjoint")
    found = []
    for seed in range(count):
        draw = np.random.default_rng([SEARCH_SEED, int(maximize), seed])
        factors = np.exp(JITTER * draw.standard_normal(table.shape)) if seed else 1.0
        guide = (table - table.mean(1, keepdims=True)) * factors
        values = lambda orders: raw_estimates(estimator, orders)[0]  # noqa: E731
        budget = Budget(EVALUATIONS, None)
        found.append(search(values, run.reference, guide, budget=budget, seed=seed, maximize=maximize).best)
    return list(dict.fromkeys(found))


def blocks(run: fut.Run, count: int) -> list[Order]:
    """Even items before odd ones, or after them, each block shuffled: blocks of a domain where items are heterogeneous."""
    orders, items = [], np.arange(run.items)
    for seed in range(count):
        draw = np.random.default_rng([SEARCH_SEED, seed])
        halves = [draw.permutation(items[items % 2 == parity]) for parity in (seed % 2, 1 - seed % 2)]
        orders.append(Order.of(np.concatenate(halves).tolist()))
    return orders


def classes(run: fut.Run, arguments: argparse.Namespace) -> dict[str, list[Order]]:
    """Orders by class."""
    each, reference = arguments.each, run.reference
    edits = {
        kind: [e.apply(reference, lambda order, key: order) for e in random_edits(reference, kind, each, EDIT_SEED)]
        for kind in CALIBRATED
    }
    return {
        "random": random_orders(reference, arguments.orders, ORDER_SEED),
        "found by a search": searched(run, each, False),
        "found, worst": searched(run, each, True),
        "named": list(named_orders(run.context).values()),
        "blocks": blocks(run, each),
        **edits,
    }


@dataclass(frozen=True)
class Fitted:
    """A calibration, as `fut calibrate` makes it, and what it was fitted to."""

    fit: Calibration
    orders: list[Order]
    truths: list[float]
    estimates: list[float]

    @classmethod
    def of(cls, run: fut.Run, kind: str | None, count: int) -> Fitted:
        orders = calibration_orders(run.context, count, SEED, kind)
        truths = [run.retrain(order).loss for order in orders]
        guesses = raw_estimates(run.methods.open("adjoint"), orders)[0]
        if kind in CALIBRATED:
            return cls(calibrate_anchored(truths, guesses, run.reference_loss), orders, truths, guesses)
        return cls((calibrate_curved if kind == CHOSEN else calibrate)(truths, guesses), orders, truths, guesses)


def measure(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: by class, truths, estimates, and under each calibration the share that intervals hold and their half-width."""
    data = {"items": setting["steps"], "heterogeneous": setting["items"] == "heterogeneous", "text": arguments.text}
    schedule = {"kind": setting["schedule"], "rate": setting["rate"]}
    path = arguments.work / "-".join(str(v) for v in setting.values())
    config = load_config(None, arguments.settings, data=data, schedule=schedule)
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    run.cache(["adjoint"])
    estimator, canonical = run.methods.open("adjoint"), run.context.problem.canonical
    distance = Distance(canonical(run.reference))
    fits = {name: Fitted.of(run, *of) for name, of in FITS.items()}
    used = {canonical(order) for of in fits.values() for order in of.orders} | {canonical(run.reference)}
    found: dict[str, Any] = {}
    for name, drawn in classes(run, arguments).items():
        own = {f"{OF_KIND} of the kind": Fitted.of(run, name, OF_KIND)} if name in CALIBRATED else {}
        taken = used | {canonical(order) for of in own.values() for order in of.orders}
        orders = [order for order in drawn if canonical(order) not in taken]
        truths = np.array([run.retrain(order).loss for order in orders])
        guesses = np.array(raw_estimates(estimator, orders)[0])
        shares = [distance.share(canonical(order)) for order in orders]
        judged = {n: judge(of.fit, truths, guesses, shares, run.reference_loss) for n, of in (fits | own).items()}
        found[name] = {"truths": truths.tolist(), "estimates": guesses.tolist(), "shares": shares, "under": judged}
    result = {
        **setting,
        "parameters": run.context.parameters,
        "reference_loss": run.reference_loss,
        "true_sd": float(np.std(found["random"]["truths"], ddof=1)),
        "calibrations": {
            name: {"curve": of.fit.curve, "truths": of.truths, "estimates": of.estimates} for name, of in fits.items()
        },
        "classes": found,
    }
    if not arguments.keep:
        shutil.rmtree(path)
    return result


def judge(
    fit: Calibration, truths: np.ndarray, guesses: np.ndarray, shares: Sequence[float], reference: float
) -> dict[str, Any]:
    """How many 90 % intervals hold, their mean half-width, and bias and mean absolute error of calibrated values."""
    near = [fit.nearer(reference, share) if share < 1 and not fit.anchored else fit for share in shares]
    ends = np.array([of.interval(guess) for of, guess in zip(near, guesses, strict=True)])
    errors = ends.mean(1) - truths
    return {
        "held": int(((ends[:, 0] <= truths) & (truths <= ends[:, 1])).sum()),
        "of": len(truths),
        "half_width": float((ends[:, 1] - ends[:, 0]).mean() / 2),
        "bias": float(errors.mean()),
        "mae": float(np.abs(errors).mean()),
    }


def say(row: dict[str, Any]) -> None:
    print(*(row[key] for key in KEYS), f"sd {row['true_sd']:.5f}", file=sys.stderr)
    for name, of in row["classes"].items():
        cells = [
            f"{fit} {one['held']}/{one['of']} ±{one['half_width'] / row['true_sd']:.2f} b{one['bias'] / row['true_sd']:+.2f}"
            for fit, one in of["under"].items()
        ]
        print(f"  {name:18s}", "; ".join(cells), file=sys.stderr, flush=True)


def pooled(rows: Sequence[dict[str, Any]]) -> str:
    """A line of each class: how many intervals hold over all settings, and their mean half-width by the order's deviation."""
    fits = [*FITS, f"{OF_KIND} of the kind"]
    lines = ["| orders | " + " | ".join(fits) + " |", "|---" * (len(fits) + 1) + "|"]
    for name in rows[0]["classes"]:
        cells = []
        for fit in fits:
            found = [(row["classes"][name]["under"].get(fit), row["true_sd"]) for row in rows]
            judged = [(one, sd) for one, sd in found if one]
            held, count = (sum(one[key] for one, _ in judged) for key in ("held", "of"))
            width = sum(one["half_width"] / sd * one["of"] for one, sd in judged) / max(count, 1)
            cells.append(f"{held / count:.2f} ({held} of {count}) / {width:.2f}" if count else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def biases(rows: Sequence[dict[str, Any]]) -> str:
    """A line of each setting: what calibrated values of searched orders err by, in standard deviations of the order."""
    lines = ["| text, items | sd, 10⁻³ | " + " | ".join(FITS) + " |", "|---" * (len(FITS) + 2) + "|"]
    for row in rows:
        under, sd = row["classes"]["found by a search"]["under"], row["true_sd"]
        cells = [f"{under[fit]['bias'] / sd:+.2f}".replace("-", "−") for fit in FITS]
        items = "mixed" if row["items"] == "iid" else row["items"]
        lines.append(f"| {row['of']}, {items} | {1000 * sd:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


RECORDED = {
    "chosen-orders": "language reference",
    "chosen-orders-wikitext": "WikiText-2",
    "chosen-orders-source": "standard library",
}
"""Records that the page's tables are of, and their texts."""


def recorded() -> list[dict[str, Any]]:
    """The rows of these records, each with its text."""
    rows = []
    for name, text in RECORDED.items():
        path = RECORDS / f"{name}.json"
        rows += [row | {"of": text} for row in json.loads(path.read_text(encoding="utf-8"))["results"]]
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[64])
    cli.add_argument("--schedules", nargs="+", default=["cosine"])
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--rates", type=float, nargs="+", default=[1e-3])
    cli.add_argument("--orders", type=int, default=24, help="held-out random orders")
    cli.add_argument("--each", type=int, default=6, help="orders of every other class")
    cli.add_argument("--text", default="")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--keep", action="store_true", help="leave the runs in the work directory")
    cli.add_argument("--table", action="store_true", help="print the tables of the page; nothing is computed")
    cli.add_argument("--work", type=Path)
    cli.add_argument("--name", default="chosen-orders")
    arguments = cli.parse_args(argv)
    if arguments.table:
        print(pooled(recorded()), biases(recorded()), sep="\n\n")
        return 0
    if arguments.work is None:
        cli.error("expected --work DIR, an empty directory or one of an interrupted call")
    started, (rows, done) = began(arguments.name), resumed(arguments.name, KEYS)
    settings = itertools.product(arguments.steps, arguments.schedules, arguments.items, arguments.rates)
    for values in (v for v in settings if v not in done):
        rows.append(measure(dict(zip(KEYS, values, strict=True)), arguments))
        say(rows[-1])
        write_record(arguments.name, vars(arguments), rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

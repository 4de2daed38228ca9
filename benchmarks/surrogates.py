"""What are m retrained orders worth: to calibrate a line, to weigh an estimate's parts, to learn what it leaves, or alone?

python benchmarks/surrogates.py RUN …

Each RUN is a finished run with an expansion (`chosen_orders.py --keep` leaves some). Of it, m of 40 random orders are retrained
and fitted to, and 48 others judged, for m of 8, 16, 32 and 40, by

    line         the estimate with an offset and a slope, as `fut calibrate` does;
    parts        ridge regression on the estimate's parts: what is linear, what is quadratic, the sum of the table of positions,
                 and the distance from the reference order, shrunk towards 1, 1, 0, 0; the expansion's own runs, whose truth is
                 free, are fitted to as well;
    residual     kernel ridge regression of what the estimate leaves (`estimators.surrogate`), on these runs too;
    surrogate    the same learner without the estimate: the sceptic's baseline, from the same orders and runs.

Then the share of interactions in the variance, from as many trials as asked (`fut trust`), and with it the ceiling: the best
correlation of any estimate that is a sum over steps. Resumes: runs that the record holds are skipped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import began, resumed, write_record

import fut
from estimators.intervals import calibrate
from estimators.orders.distance import Distance
from estimators.orders.order import Order
from estimators.replay import batches
from estimators.surrogate import learn, placement_kernels
from fut.estimation.accuracy import accuracy
from fut.estimation.calibration import SEED
from fut.estimation.calibration_orders import fresh_orders
from fut.estimation.surrogate import item_similarities
from fut.methods.adjoint.estimator import Adjoint
from fut.methods.adjoint.positions import position_table
from fut.methods.batching import batch_size
from fut.questions.trust.result import ceiling_interval

ORDER_SEED, COUNTS, HELD = 2000, (8, 16, 32, 40), 48
RIDGES = tuple(10.0 ** np.arange(-3, 3.5, 0.5))
Floats = NDArray[np.float64]


def parts_of(run: fut.Run, orders: Sequence[Order]) -> Floats:
    """Parts of each order's estimate, as changes in the read-out's unit, and its distance: [n, 4]."""
    adjoint, table = Adjoint(run.context), position_table(run.context)
    distance, rows = Distance(run.reference), np.zeros((len(orders), 4))
    for places, batch in batches(orders, batch_size(adjoint.width())):
        for place, position in zip(places, adjoint.final_states(batch), strict=True):
            rows[place, :2] = adjoint._summed(position)[0].item(), adjoint._quadratic(position)[0]
    steps = np.arange(run.steps)
    items = [np.array([step[0] for step in order.steps]) for order in (*orders, run.reference)]
    sums = np.array([table[steps, of].sum() for of in items])
    rows[:, 2], rows[:, 3] = sums[:-1] - sums[-1], [distance(order) for order in orders]
    return rows


def ridge(parts: Floats, truths: Floats, known: Sequence[int]) -> Floats:
    """Ridge regression of truths on parts, shrunk towards the estimate, with the penalty of least left-out error."""
    prior = np.array([1.0, 1.0, 0.0, 0.0])
    at = np.asarray(known)
    mean, spread = parts[at].mean(0), parts[at].std(0) + 1e-15
    design = (parts - mean) / spread
    left = truths - parts[at] @ prior
    best, values = np.inf, np.zeros(len(parts))
    for penalty in RIDGES:
        inverse = np.linalg.inv(design[at].T @ design[at] + penalty * len(at) * np.eye(4))
        weights = inverse @ design[at].T @ (left - left.mean())
        leverages = np.einsum("ij,jk,ik->i", design[at], inverse, design[at]) + 1 / len(at)
        errors = (left - left.mean() - design[at] @ weights) / (1 - leverages)
        if (errors**2).mean() < best:
            best, values = (errors**2).mean(), parts @ prior + left.mean() + design @ weights
    return values


def readings(run: fut.Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """Accuracy on held-out orders by number of retrained ones and by reading."""
    canonical = run.context.problem.canonical
    drawn = fresh_orders(run.reference, canonical, max(COUNTS), SEED, ())
    held = fresh_orders(run.reference, canonical, HELD, ORDER_SEED, [order.digest for order in drawn])
    expansion = Adjoint(run.context).expansion
    own = list(expansion.spec.trajectory.members)
    orders = [*drawn, *held, *own]
    retrained = [run.retrain(order).loss for order in (*drawn, *held)]
    truths = np.array([*retrained, *expansion.own_values]) - run.reference_loss
    parts = parts_of(run, orders)
    guess = parts[:, 0] + parts[:, 1]
    rates = [run.context.problem.rate(step) for step in range(run.steps)]
    kernels = placement_kernels(orders, rates, item_similarities(run.context))
    asked = slice(len(drawn), len(drawn) + HELD)
    found: dict[str, Any] = {"uncalibrated": row(truths[asked], guess[asked])}
    for count in COUNTS:
        known = [*range(count), *range(len(drawn) + HELD, len(orders))]
        fit = calibrate(truths[:count].tolist(), guess[:count].tolist())
        values = {
            "line": np.array([fit.correct(value) for value in guess]),
            "parts": ridge(parts, truths[known], known),
            "residual": learn(kernels, truths[known].tolist(), known, guess).values,
            "surrogate": learn(kernels, truths[known].tolist(), known).values,
        }
        found[str(count)] = {name: row(truths[asked], of[asked]) for name, of in values.items()}
    return {
        "true_sd": float(truths[asked].std(ddof=1)),
        "own_runs": len(own),
        "readings": found,
        "true_changes": truths.tolist(),
        "parts": parts.tolist(),
    }


def row(truths: Floats, values: Floats) -> dict[str, Any]:
    found = accuracy(truths, values, 0.0)
    return {"spearman": found.spearman, "interval": found.spearman_interval, "skill": found.skill}


def measure(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    run = fut.open(path)
    about = run.context.config
    trust = run.trust(arguments.trials)
    return {
        "run": f"{path.parent.name}/{path.name}",
        "parameters": run.context.parameters,
        "steps": run.steps,
        "schedule": about.schedule.kind,
        "rate": about.schedule.rate,
        "heterogeneous": about.data.heterogeneous,
        "text": run.context.summary["source"],
        **readings(run, arguments),
        "trust": {
            "trials": arguments.trials,
            "interaction": trust.interaction,
            "share": trust.share,
            "ceiling": trust.ceiling,
            "changes": [trial.changes for trial in trust.trials],
        },
    }


def say(found: dict[str, Any]) -> None:
    print(found["run"], f"sd {found['true_sd']:.5f}, ceiling {found['trust']['ceiling'] or 0:.3f}", file=sys.stderr)
    for count in map(str, COUNTS):
        cells = [f"{name} {of['spearman']:.3f} / {of['skill']:+.2f}" for name, of in found["readings"][count].items()]
        print(f"  {count}:", "; ".join(cells), file=sys.stderr, flush=True)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line of each setting and number of orders."""
    names = ("line", "parts", "residual", "surrogate")
    lines = ["| setting | ceiling | retrained | " + " | ".join(names) + " |", "|---" * (len(names) + 3) + "|"]
    for row in rows:
        items = "heterogeneous" if row["heterogeneous"] else "mixed"
        ends = ceiling_interval(row["trust"]["changes"])
        for count in map(str, COUNTS):
            found = row["readings"][count]
            cells = [f"{found[n]['spearman']:.3f} / {found[n]['skill']:+.2f}".replace("-", "−") for n in names]
            setting = f"{row['run'].split('/')[0]}, {row['schedule']} {row['rate']:g}, {items}"
            ceiling = f"{row['trust']['ceiling']:.2f} [{', '.join(f'{end:.2f}' for end in ends)}]"
            lines.append(f"| {setting} | {ceiling} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("runs", type=Path, nargs="*")
    cli.add_argument("--table", action="store_true", help="print the record's table; nothing is computed")
    cli.add_argument("--trials", type=int, default=16)
    cli.add_argument("--name", default="surrogates")
    arguments = cli.parse_args(argv)
    rows, done = resumed(arguments.name, ("run",))
    if arguments.table:
        print(table(rows))
        return 0
    started = began(arguments.name)
    for path in (p for p in arguments.runs if (f"{p.parent.name}/{p.name}",) not in done):
        rows.append(measure(path, arguments))
        say(rows[-1])
        write_record(arguments.name, {"name": arguments.name, "trials": arguments.trials}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

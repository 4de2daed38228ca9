"""Error of the paper's estimators and of replay against the number of steps T, in constant and cosine schedules.

python benchmarks/error_against_steps.py --steps 8 16 32 64 --orders 32 --work /tmp/error-against-steps

For every setting a reference run is trained and all its terms are cached without a sketch; the variants with a JL sketch
are projected from those, so that one cache serves all. The same n random orders (seed fixed here) are really retrained.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from record import began, write_record
from torch import Tensor

import fut
from estimators.orders.order import random_orders
from estimators.sketch import Sketch
from fut.estimation.accuracy import accuracy
from fut.methods.base import Estimator
from fut.methods.baseline import ReferenceEstimator
from fut.methods.context import Context
from fut.methods.pairwise.config import CacheConfig
from fut.methods.pairwise.replay import Replay, ReplayExact
from fut.methods.pairwise.store import term_layout
from fut.methods.pairwise.taylor import FirstOrderTaylor, SecondOrderTaylor
from fut.methods.pairwise.terms import TermLayout, TermTables
from fut.methods.settings import load_config
from fut.methods.timings import seconds_per_gradient
from fut.progress import terminal

ORDER_SEED = 1000
SKETCH_SIZE = 4096


class SketchedTables(TermTables):
    """An exact store seen through a JL sketch; what has been projected is kept."""

    def __init__(self, exact: TermTables, sketch: Sketch) -> None:
        self._exact, self._sketch = exact, sketch
        self._kept: dict[tuple[str, int], Tensor] = {}

    def __getitem__(self, name: str) -> Callable[[int], Tensor]:
        def read(step: int) -> Tensor:
            if (name, step) not in self._kept:
                self._kept[name, step] = self._sketch.project(self._exact[name](step))
            return self._kept[name, step]

        return read


def variants(run: fut.Run) -> dict[str, Estimator]:
    """Every estimator and reading compared here, by the name it has in the record."""
    context, exact = run.context, term_layout(run.context)
    secant = changed(context, exact, derivative="secant")
    sketched = changed(context, exact, sketch="sjlt", size=SKETCH_SIZE)
    sketched_secant = changed(context, sketched, derivative="secant")
    tables = SketchedTables(
        FirstOrderTaylor(context, layout=exact).tables, Sketch("sjlt", 0, run.context.parameters, SKETCH_SIZE)
    )

    def in_sketch(kind: type[FirstOrderTaylor], layout: TermLayout, **options: Any) -> FirstOrderTaylor:
        made = kind(context, layout=layout, **options)
        made.tables = tables
        return made

    replayed: Any = {"moments": "replayed"}
    return {
        "reference": ReferenceEstimator(context),
        "replay": Replay(context),
        "replay-exact": ReplayExact(context),
        "taylor1": in_sketch(FirstOrderTaylor, sketched),
        "taylor2": in_sketch(SecondOrderTaylor, sketched),
        "taylor1, replayed moments": in_sketch(FirstOrderTaylor, sketched, **replayed),
        "taylor2, replayed moments": in_sketch(SecondOrderTaylor, sketched, **replayed),
        "taylor1, secant": in_sketch(FirstOrderTaylor, sketched_secant),
        "taylor2, secant": in_sketch(SecondOrderTaylor, sketched_secant),
        "taylor1, evaluated": in_sketch(FirstOrderTaylor, sketched, reading="evaluated"),
        "taylor1, no sketch": FirstOrderTaylor(context, layout=exact),
        "taylor2, no sketch": SecondOrderTaylor(context, layout=exact),
        "taylor1, no sketch, replayed moments": FirstOrderTaylor(context, layout=exact, **replayed),
        "taylor1, no sketch, secant": FirstOrderTaylor(context, layout=secant),
        "taylor2, no sketch, secant": SecondOrderTaylor(context, layout=secant),
        "taylor1, no sketch, secant, replayed moments": FirstOrderTaylor(context, layout=secant, **replayed),
    }


def changed(context: Context, layout: TermLayout, **changes: Any) -> TermLayout:
    """The layout of another cache configuration."""
    return TermLayout.of(context.problem, CacheConfig.model_validate(layout.config.model_dump() | changes))


def measure(kind: str, steps: int, orders: int, work: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """One row of the record: a schedule and a T."""
    config = load_config(
        None,
        (),
        data={"items": steps} | settings.get("data", {}),
        schedule={"kind": kind, "rate": settings["rate"]},
        cache={"sketch": "identity", "products": "difference"},
    )
    path = work / f"{kind}-{steps}"
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config, progress=terminal)
    run.context.progress = terminal
    began = time.perf_counter()
    run.cache("all")
    cached = time.perf_counter() - began
    chosen = random_orders(run.reference, orders, ORDER_SEED)
    truths = [run.retrain(order) for order in chosen]
    reference = run.context.state(run.steps).theta
    shifts = torch.stack([t.theta - reference for t in truths])
    rows = {name: _row(run, e, chosen, [t.loss for t in truths], shifts) for name, e in variants(run).items()}
    return {
        "schedule": kind,
        "steps": steps,
        "orders": orders,
        "parameters": run.context.parameters,
        "reference_loss": run.reference_loss,
        "true_losses": [t.loss for t in truths],
        "true_sd": float(torch.tensor([t.loss for t in truths]).std()),
        "retrain_seconds": sum(t.seconds for t in truths) / orders,
        "gradient_seconds": seconds_per_gradient(run.context.problem, run.context.state(0)),
        "cache_seconds": cached,
        "estimators": rows,
    }


def _row(
    run: fut.Run, estimator: Estimator, orders: list[fut.Order], truth: list[float], shifts: Tensor
) -> dict[str, Any]:
    began = time.perf_counter()
    positions = estimator.final_states(orders)
    losses = estimator.values(positions, run.steps)
    seconds = (time.perf_counter() - began) / len(orders)
    reference = run.context.state(run.steps).theta
    errors = [
        ((estimator.endpoint(p, run.steps) - reference - shift).norm() / shift.norm()).item()
        for p, shift in zip(positions, shifts, strict=True)
    ]
    found = accuracy(truth, losses, run.reference_loss, None, sum(errors) / len(errors)).as_dict()
    print(f"  {estimator.name} spearman {found['spearman']} skill {found['skill']:.3f}", file=sys.stderr, flush=True)
    return found | {
        "seconds_per_order": seconds,
        "estimated_losses": [v if v == v and abs(v) < 1e300 else None for v in losses],
    }


def picture(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Skill and Spearman against T, a line per estimator, a column per schedule."""
    from matplotlib.figure import Figure

    lines = {
        "replay-exact": ("#0072B2", "o"),
        "taylor1": ("#D55E00", "s"),
        "taylor2": ("#CC79A7", "^"),
        "taylor1, replayed moments": ("#009E73", "D"),
        "taylor1, secant": ("#E69F00", "v"),
        "replay": ("#56B4E9", "P"),
    }
    kinds = sorted({r["schedule"] for r in rows}, reverse=True)
    figure = Figure(figsize=(4.4 * len(kinds), 6.6), dpi=130, layout="constrained")
    axes = figure.subplots(2, len(kinds), squeeze=False, sharex=True, sharey="row")
    for column, kind in enumerate(kinds):
        chosen = sorted((r for r in rows if r["schedule"] == kind), key=lambda r: r["steps"])
        for name, (colour, marker) in lines.items():
            for axis, field in zip(axes[:, column], ("skill", "spearman"), strict=True):
                values = [r["estimators"][name][field] for r in chosen]
                axis.plot([r["steps"] for r in chosen], values, color=colour, marker=marker, label=name, linewidth=1.4)
        axes[0, column].set_title(f"{kind} schedule", fontsize=10)
        axes[1, column].set_xlabel("T, steps of the window")
        for axis in axes[:, column]:
            axis.axhline(0, color="#444444", linewidth=1, linestyle="--")
            axis.set_xscale("log", base=2)
            axis.set_xticks([r["steps"] for r in chosen], [str(r["steps"]) for r in chosen])
    axes[0, 0].set_ylabel("skill = 1 − MAE / MAE of the baseline")
    axes[0, 0].set_ylim(-2, 1.05)
    axes[1, 0].set_ylabel("Spearman with the retrained losses")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    figure.suptitle(
        f"{rows[0]['orders']} random orders, retrained; below the dashed line worse than no estimate", fontsize=10
    )
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[8, 16, 32, 64])
    cli.add_argument("--orders", type=int, default=32)
    cli.add_argument("--schedules", nargs="+", default=["cosine", "constant"])
    cli.add_argument("--rate", type=float, default=1e-3)
    cli.add_argument("--work", type=Path, required=True, help="directory for the runs; kept if --keep")
    cli.add_argument("--keep", action="store_true")
    cli.add_argument("--name", default="error-against-steps")
    arguments = cli.parse_args(argv)
    started, rows = began(), []
    settings = {"rate": arguments.rate}
    for steps in sorted(arguments.steps):
        for kind in arguments.schedules:
            print(f"{kind} T={steps}", file=sys.stderr, flush=True)
            rows.append(measure(kind, steps, arguments.orders, arguments.work, settings))
            if not arguments.keep:
                shutil.rmtree(arguments.work / f"{kind}-{steps}")
            record = write_record(arguments.name, vars(arguments) | {"order_seed": ORDER_SEED}, rows, started)
    picture(rows, record.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())

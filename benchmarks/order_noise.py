"""How near are estimates of the order's noise to retraining, by learning rate and schedule?

python benchmarks/order_noise.py --work DIR
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import began, resumed, write_record

import fut
from fut.methods.settings import load_config
from fut.studies.noise.study import NoiseRequest

NAME = "order-noise"
KEYS = ("rate", "schedule")


def measured(rate: float, schedule: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A run, its table of positions, and what `fut noise` says of it."""
    path = arguments.work / f"{schedule}-{rate:g}"
    config = load_config(
        None,
        [],
        data={"items": arguments.steps},
        schedule={"rate": rate, "kind": schedule},
        model={"dtype": "float64"},
        warmup={"steps": arguments.warmup},
    )
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    run.cache(["adjoint"])
    found: dict[str, Any] = run.ask(NoiseRequest(arguments.orders)).as_dict()
    shutil.rmtree(path)
    local = found.pop("local")
    kept = ("closed_trace", "replay_trace", "retrained_trace", "normality", "closed_values", "replay_values", "notes")
    return found | {name: local[name] for name in kept} | {"weights": local["weights"][0]["weights"]}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each setting, as Markdown: spreads by the retrained one, and rank correlations."""
    heads = ["schedule", "rate", "retrained sd", "closed form", "Spearman", "replay", "Spearman", "positions"]
    lines = [" | ".join(heads), "|".join("---" for _ in heads)]
    for row in rows:
        closed, replay = row["estimates"]["closed form"], row["estimates"]["replay"]
        cells = [row["schedule"], f"{row['rate']:g}", f"{row['sd']:.2e}"]
        cells += [f"{closed['ratio']:.2f}", f"{closed['spearman']:.2f}"]
        cells += [f"{replay['ratio']:.2f}", f"{replay['spearman']:.2f}"]
        lines.append(" | ".join([*cells, f"{row['estimates']['positions']['ratio']:.2f}"]))
    return "\n".join(f"| {line} |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, default=24)
    cli.add_argument("--orders", type=int, default=24)
    cli.add_argument("--warmup", type=int, default=200)
    cli.add_argument("--rates", type=float, nargs="+", default=[1e-5, 1e-4, 3e-4, 1e-3])
    cli.add_argument("--schedules", nargs="+", default=["constant", "cosine"])
    cli.add_argument("--work", type=Path)
    cli.add_argument("--table", action="store_true", help="print the record's table; nothing is computed")
    arguments = cli.parse_args(argv)
    rows, done = resumed(NAME, KEYS)
    if arguments.table:
        print(table(rows))
        return 0
    if arguments.work is None:
        cli.error("expected --work DIR, an empty directory or one of an interrupted call")
    started = began(NAME)
    for rate, schedule in itertools.product(arguments.rates, arguments.schedules):
        if (rate, schedule) in done:
            continue
        rows.append({"rate": rate, "schedule": schedule} | measured(rate, schedule, arguments))
        print(table(rows[-1:]), file=sys.stderr, flush=True)
        write_record(NAME, vars(arguments), rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

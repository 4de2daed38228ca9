"""Does it help to scale AdamW module by module by signal to noise (MoLS)? Powers +1, -1 and 0, paired by seed.

python benchmarks/module_snr.py

A seed draws the text's samples, their order and the start; all arms share it. Power 0 is AdamW, bit for bit. Scales are frozen
after a calibration. They are taken against the cleanest module (`highest`), so that power 1 raises rates, or against the modules'
geometric mean. Each arm has several learning rates, as a scale of all modules together is no more than another rate.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from record import began, resumed, write_record
from scipy.stats import t as student

from estimators.modules import modules_of
from estimators.replay import OrderBatch, RuleTransition, TrueGradients, replay
from fut.methods.settings import load_config
from fut.training.problem import build_problem

NAME = "module-snr"
KEYS = ("power", "reference", "rate", "seed")
ARMS = ((0.0, "highest"), (1.0, "highest"), (-1.0, "highest"), (1.0, "mean"), (-1.0, "mean"))


def trained(power: float, reference: str, rate: float, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One training, and the scales that its modules had."""
    options = {"power": power, "reference": reference, "calibration": arguments.calibration}
    config = load_config(
        None,
        [],
        data={"items": arguments.steps, "batch": arguments.batch, "seed": seed, "probe": 256},
        model={"seed": seed},
        rule={"name": "adamw_mols", "options": options | {"weight_decay": 0.1, "clip": 1.0}},
        schedule={"rate": rate, "kind": "cosine", "warmup": arguments.calibration},
        warmup={"steps": 0},
    )
    problem, began_at = build_problem(config, torch.device("cpu")), time.perf_counter()
    state = problem.rule.init(problem.objective.start()).rows(1)
    transition = RuleTransition(problem.rule, problem.rate, TrueGradients(problem.gradient, problem.mean_gradient))
    end = replay(transition, state, OrderBatch.pack([problem.reference]))
    layout = problem.objective.layout
    places = zip(modules_of(layout), layout.slices, strict=True)
    scales = {module: float(end.memory["scale"][0, place][0]) for module, place in places}
    found = {"loss": problem.probe_loss(end.theta[0]), "scales": scales, "parameters": problem.objective.size}
    return found | {"seconds": round(time.perf_counter() - began_at, 1)}


def paired(one: Sequence[float], two: Sequence[float], level: float = 0.9) -> tuple[float, float, float]:
    """Mean of the differences, and the ends of Student's interval."""
    differences = np.array(one) - np.array(two)
    half = student.ppf(0.5 + level / 2, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    mean = float(differences.mean())
    return mean, mean - float(half), mean + float(half)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every arm and rate: mean loss, and the paired difference from AdamW at the same rate and at AdamW's best."""

    def losses(power: float, reference: str, rate: float) -> list[float]:
        own = [row for row in rows if (row["power"], row["reference"], row["rate"]) == (power, reference, rate)]
        return [row["loss"] for row in sorted(own, key=lambda row: row["seed"])]

    rates = sorted({row["rate"] for row in rows})
    best = min(rates, key=lambda rate: float(np.mean(losses(0.0, "highest", rate))))
    found = []
    for (power, reference), rate in itertools.product(ARMS, rates):
        own = losses(power, reference, rate)
        against = {"same_rate": losses(0.0, "highest", rate), "best_rate": losses(0.0, "highest", best)}
        found.append(
            {"power": power, "reference": reference, "rate": rate, "seeds": len(own), "mean": float(np.mean(own))}
            | {"sd": float(np.std(own, ddof=1))}
            | {name: paired(own, other) for name, other in against.items()}
        )
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The summary as Markdown [nats/token]."""
    heads = ["power", "reference", "rate", "loss", "minus AdamW, same rate", "minus AdamW, its best rate"]
    lines = [" | ".join(heads), "|".join("---" for _ in heads)]
    for row in summary(rows):
        cells = [f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" for mean, low, high in (row["same_rate"], row["best_rate"])]
        loss = f"{row['mean']:.4f} ± {row['sd']:.4f}"
        lines.append(" | ".join([f"{row['power']:g}", row["reference"], f"{row['rate']:g}", loss, *cells]))
    return "\n".join(f"| {line} |" for line in lines).replace("+-", "-")


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, default=256)
    cli.add_argument("--batch", type=int, default=8)
    cli.add_argument("--calibration", type=int, default=32)
    cli.add_argument("--rates", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2])
    cli.add_argument("--seeds", type=int, nargs="+", default=list(range(6)))
    cli.add_argument("--table", action="store_true", help="print the record's table; nothing is computed")
    arguments = cli.parse_args(argv)
    rows, done = resumed(NAME, KEYS)
    if arguments.table:
        print(table(rows))
        return 0
    torch.set_num_threads(1)
    started = began(NAME)
    for seed, rate, (power, reference) in itertools.product(arguments.seeds, arguments.rates, ARMS):
        key = (power, reference, rate, seed)
        if key in done:
            continue
        rows.append(dict(zip(KEYS, key, strict=True)) | trained(*key, arguments))
        print(key, rows[-1]["loss"], rows[-1]["seconds"], file=sys.stderr, flush=True)
        write_record(NAME, vars(arguments), rows, started)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

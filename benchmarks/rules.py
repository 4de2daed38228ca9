"""Every update rule on the same data, from the same parameters to the same training loss: order effect and estimates.

python benchmarks/rules.py --work /tmp/rules-benchmark
python benchmarks/rules.py --text wikitext-2/valid.txt --cases adamw muon momentum --work /tmp/rules-benchmark

All rules begin at the parameters where a warm-up with AdamW ends. A rule's memory is filled at these parameters by steps whose
displacement is taken back. Its learning rate is searched until the reference run ends at AdamW's training loss, the mean over
all items of the window. Then n random orders are really retrained, and estimated by what takes the rule. Resumes.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import began, resumed, write_record

import fut
from estimators.rules.base import next_state
from estimators.rules.signals import Signals
from estimators.state import State
from fut.api.opening import train_window
from fut.estimation.calibration import SEED
from fut.methods.coupling import condition_of
from fut.methods.registry import METHODS
from fut.methods.settings import load_config
from fut.models.autodiff import item_loss
from fut.training.curvature import warmup_curvature
from fut.training.problem import Problem, build_problem
from fut.training.trainer import train_order

NAME, KEYS, ORDER_SEED = "rules", ("text", "case"), 2000
STEPS, SEQUENCES, WARMUP, FILL = 32, 16, 100, 32
"""Length of the window, sequences of a step, steps of the warm-up, and steps that fill a rule's memory."""
TARGET_RATE, TOLERANCE, LOWEST, FACTOR, TRIES = 1e-3, 2e-3, 3e-5, 3.0, 24
"""AdamW's rate; how near a training loss must come [nats/token]; where the search begins, by what it grows, how long it lasts."""
MOMENTS = {"betas": [0.9, 0.95]}
DECAYED = MOMENTS | {"weight_decay": 0.1}
ONE_SIDED = {"largest": 64}
"""Factors of dimensions up to 64 alone: of every matrix that on the side of the model's width, of small ones both."""
PATTERNS = ["blocks.*.qkv.weight", "blocks.*.out.weight", "blocks.*.up.weight", "blocks.*.down.weight"]
REST = {"name": "rest", "rule": "adamw", "options": DECAYED}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw": ("adamw", DECAYED),
    "sgd": ("sgd", {}),
    "momentum": ("momentum", {}),
    "adam": ("adam", MOMENTS),
    "nadam": ("nadam", MOMENTS),
    "radam": ("radam", MOMENTS),
    "lamb": ("lamb", DECAYED),
    "lion": ("lion", {"weight_decay": 0.1}),
    "adafactor": ("adafactor", {}),
    "muon": (
        "grouped",
        {
            "groups": [
                {"name": "matrices", "rule": "muon", "tensors": PATTERNS, "options": {"scale": "match_rms_adamw"}},
                REST,
            ]
        },
    ),
    "shampoo": ("shampoo", ONE_SIDED),
    "soap": ("soap", ONE_SIDED),
    "sophia": ("sophia", {}),
    "adamw_swd": ("adamw_swd", MOMENTS | {"weight_decay": 1e-4}),
    "adamw_mols": ("adamw_mols", DECAYED),
    "momentum_clock_matched": ("momentum_clock_matched", {"reference_rate": 0.1}),
    "adamw_clock_matched": ("adamw_clock_matched", DECAYED),
    "lion_clock_matched": ("lion_clock_matched", {"weight_decay": 0.1}),
    "grouped": (
        "grouped",
        {"groups": [{"name": "decayed", "tensors": ["*.weight"], "options": DECAYED}, {"name": "plain"}]},
    ),
}
"""Rule and constants of every case. Muon updates matrices alone: the rest is AdamW's, as in any use of it."""
WITH_SEVERAL: dict[str, tuple[str, dict[str, Any]]] = {
    "adamw, 4 items a step": ("adamw", DECAYED),
    "adamw_corrected": ("adamw_corrected", DECAYED),
    "sophia_corrected": ("sophia_corrected", {}),
    "shampoo_corrected": ("shampoo_corrected", ONE_SIDED),
}
"""Cases of four items of four sequences a step, which corrected rules need, and the plain rule beside them."""
CASES |= WITH_SEVERAL


def width_of(case: str) -> int:
    """Items of a step."""
    return 4 if case in WITH_SEVERAL else 1


def configured(case: str, rate: float, arguments: argparse.Namespace) -> fut.Config:
    name, options = CASES[case]
    width = width_of(case)
    batch, text = SEQUENCES // width, str(arguments.text or "")
    data = {"items": STEPS * width, "per_step": width, "batch": batch, "text": text}
    sections: dict[str, Any] = {
        "data": data,
        "rule": {"name": name, "options": options},
        "schedule": {"kind": "cosine", "rate": rate},
        "warmup": {"steps": WARMUP},
    }
    return load_config(None, arguments.settings, **sections)


class Setting:
    """A text, cut into items: where all rules begin, and the training loss that all are to reach.

    Args:
        arguments: of the command line.
        theta: where all begin [D].
        case: AdamW on items of this size.
    """

    def __init__(self, arguments: argparse.Namespace, theta: torch.Tensor, case: str) -> None:
        self.arguments, self.theta, self.width = arguments, theta, width_of(case)
        problem = self.problem(case, TARGET_RATE)
        warmup = problem.data.warmup
        self.gradients = torch.stack([problem.gradient_and_loss_of(theta, item, "warm-up")[0] for item in warmup])
        self.begun = training_loss(problem, theta)
        self.target = self.reached(case, TARGET_RATE)

    def problem(self, case: str, rate: float) -> Problem:
        return build_problem(configured(case, rate, self.arguments), torch.device("cpu"))

    def filled(self, problem: Problem, rate: float) -> State:
        """The rule's memory at the common parameters, after steps at `rate` whose displacement is taken back."""
        rule, curvature = problem.rule, warmup_curvature(problem)
        state = rule.init(self.theta)
        for step in range(FILL):
            items = [(step * self.width + i) % WARMUP for i in range(self.width)]
            needed, parts = rule.needs(state.clock), self.gradients[items]
            signals = Signals(
                parts if "micro_batches" in needed else None,
                torch.stack([curvature(self.theta, i) for i in items]) if "curvature" in needed else None,
            )
            state = next_state(rule, state, parts.mean(0), rate, signals=signals)._replace(theta=self.theta)
        return state

    def reached(self, case: str, rate: float) -> float:
        """The training loss at the end of the reference order at a rate; infinite where it diverges."""
        problem = self.problem(case, rate)
        try:
            found = train_order(problem, self.filled(problem, rate), problem.reference)
        except fut.DivergenceError:
            return math.inf
        return training_loss(problem, found.theta)


def start(arguments: argparse.Namespace, label: str) -> torch.Tensor:
    """Where a warm-up with AdamW ends on a text [D]."""
    path, config = arguments.work / f"{label}-start", configured("adamw", TARGET_RATE, arguments)
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    return run.context.state(0).theta


def training_loss(problem: Problem, theta: torch.Tensor) -> float:
    """Mean over all items of the window [nats/token]."""
    return float(np.mean([item_loss(problem.objective, theta, item) for item in problem.data.items]))


def searched(reached: Callable[[float], float], target: float) -> dict[str, Any]:
    """The smallest rate at which a training loss falls to the target: grown by FACTOR until it does, then halved in logarithms.

    A rule that never falls so far has the rate of its lowest loss.
    """
    tried: dict[float, float] = {}
    low, high, rate = None, None, LOWEST
    while len(tried) < TRIES:
        tried[rate] = reached(rate)
        if abs(tried[rate] - target) <= TOLERANCE:
            break
        if tried[rate] > target:
            low = rate
        else:
            high = rate
        best = min(tried.values())
        if high is None and tried[rate] > best + 0.1 and len(tried) > 3:
            break  # beyond its best rate
        rate = rate * FACTOR if high is None else (rate / FACTOR if low is None else math.sqrt(low * high))
    chosen = min(tried, key=lambda r: abs(tried[r] - target))
    return {"rate": chosen, "training_loss": tried[chosen], "tried": [list(pair) for pair in tried.items()]}


def taking(problem: Problem) -> list[str]:
    """The estimators that are compared: the adjoint, else replay, where they take the rule; and exact replay."""
    fit = {m.name for m in METHODS if condition_of(m.capabilities, problem.rule) is not None}
    first = next((name for name in ("adjoint", "replay") if name in fit), None)
    return [name for name in (first, "replay-exact") if name in fit and name is not None]


def measure(case: str, setting: Setting, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: the rate of a rule, what its end depends on the order, and how well that is estimated."""
    started = time.perf_counter()
    rate = searched(lambda r: setting.reached(case, r), setting.target)
    problem = setting.problem(case, rate["rate"])
    path = arguments.work / f"{case}-run"
    shutil.rmtree(path, ignore_errors=True)
    config = configured(case, rate["rate"], arguments)
    run = train_window(path, config, setting.filled(problem, rate["rate"]))
    names, rows, estimated = taking(problem), dict[str, Any](), dict[str, list[float]]()
    found = run.verify(arguments.orders, ORDER_SEED, ["reference"])
    for place, name in enumerate(names):
        if terms := {"adjoint": ["adjoint"], "replay": ["gradient", "norm"]}.get(name):
            run.cache(terms)
        if place == 0:
            run.calibrate(arguments.calibration, SEED, name)
        count = arguments.orders if place == 0 else arguments.exact
        asked = run.verify(count, ORDER_SEED, [name])
        assert asked.true_losses == found.true_losses[:count]
        rows[name], estimated[name] = asked.estimators[name], asked.estimated_losses[name]
    low, high = spread(found.true_losses)
    shutil.rmtree(path)
    return {
        "rule": CASES[case][0],
        "items_per_step": setting.width,
        "options": CASES[case][1],
        **rate,
        "target": setting.target,
        "begun": setting.begun,
        "parameters": problem.objective.size,
        "reference_loss": run.reference_loss,
        "true_sd": float(np.std(found.true_losses, ddof=1)),
        "true_sd_interval": [low, high],
        "orders": len(found.true_losses),
        "diverged": len(found.diverged),
        "accuracy": rows,
        "precompute_training_runs": {n: r["precompute_gradients"] / config.consumed for n, r in rows.items()},
        "retrain_seconds": found.retrain_seconds,
        "true_losses": found.true_losses,
        "estimated_losses": estimated,
        "row_seconds": time.perf_counter() - started,
    }


def spread(losses: Sequence[float]) -> tuple[float, float]:
    """90 % bootstrap interval of the standard deviation."""
    draws = np.random.default_rng(0).choice(np.asarray(losses), (4000, len(losses))).std(axis=1, ddof=1)
    low, high = np.quantile(draws, [0.05, 0.95])
    return float(low), float(high)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    cli.add_argument("--text", type=Path, help="a file or directory; the language reference inside CPython if none")
    cli.add_argument("--orders", type=int, default=32)
    cli.add_argument("--exact", type=int, default=12, help="orders of a second estimator, which is not calibrated")
    cli.add_argument("--calibration", type=int, default=8)
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True, help="an empty directory, or one of an interrupted call")
    cli.add_argument("--name", default=NAME)
    arguments = cli.parse_args(argv)
    rows, done = resumed(arguments.name, KEYS)
    started, label = began(arguments.name), arguments.text.name if arguments.text else "language reference"
    shown = vars(arguments) | {"order_seed": ORDER_SEED, "tolerance": TOLERANCE, "warmup": WARMUP, "fill": FILL}
    theta, settings = start(arguments, label.replace(" ", "-")), dict[int, Setting]()
    for case in arguments.cases:
        if (label, case) in done:
            continue
        if (width := width_of(case)) not in settings:
            settings[width] = Setting(arguments, theta, next(iter(WITH_SEVERAL)) if width > 1 else "adamw")
        rows.append({"text": label, "case": case} | measure(case, settings[width], arguments))
        write_record(arguments.name, shown, rows, started)
        print(case, f"sd {rows[-1]['true_sd']:.5f}, {rows[-1]['row_seconds']:.0f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Leave-out effects: fut's estimators and methods of others on one bank of retrained subsets, in two orders of the same samples.

python benchmarks/field.py --work /tmp/field
python benchmarks/field.py --text wikitext-2/valid.txt --items iid heterogeneous iid --epochs 1 1 4 --name field-wikitext \\
    --work DIR

For every setting: a reference run whose items are single samples, and n random subsets of them, left out in place and really
retrained twice: in the reference order, and in another shuffle of the same samples. Every method answers from the reference
run. `fut` is asked a second time, told the other order. Resumes: settings that the record holds are skipped, and orders that
are retrained are kept in the run's directory until its row is written.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import field_scores
import numpy as np
import torch
from field_metagradient import metagradient
from field_scores import PASS, Answers, Cost, passes, timed
from record import began, resumed, write_record

import fut
from estimators.orders.order import Order
from fut.artifacts.directory import directory_bytes
from fut.estimation.accuracy import accuracy
from fut.methods.adjoint.quadratic_directions import bend_cost
from fut.methods.registry import method_of
from fut.methods.settings import Config, load_config
from fut.questions.accuracy.leave_out import random_subsets
from fut.readouts.readout import PROBE, gradient_cost

SUBSET_SEED, SHUFFLE_SEED = 3000, 5000
SHOWN = ("spearman", "spearman_interval", "pearson", "mae", "skill", "bias", "residual_sd")
READINGS = {"reweighting": "replayed", "reweighting, linear": "linear"}


@dataclass(frozen=True)
class Bank:
    """Subsets that were left out of one order. effects: retrained, minus the order with all samples [nats/token]."""

    order: Order
    loss: float
    effects: list[float]
    seconds: float


def bank(run: fut.Run, order: Order, subsets: Sequence[Sequence[int]]) -> Bank:
    """Retrain the order, and it without every subset."""
    whole = run.retrain(order)
    truths = [run.retrain(order.without(left_out)) for left_out in subsets]
    effects = [truth.loss - whole.loss for truth in truths]
    return Bank(order, whole.loss, effects, float(np.mean([truth.seconds for truth in truths])))


def shuffled(run: fut.Run) -> tuple[list[int], Order]:
    """Another shuffle, the same in every epoch, as that of the reference order is: the samples in its order, and the order."""
    items = np.random.default_rng(SHUFFLE_SEED).permutation(run.items).tolist()
    width, epochs = run.context.config.data.per_step, run.context.config.data.epochs
    return items, Order.of([sorted(items[i : i + width]) for i in range(0, run.items, width)] * epochs)


def asked(run: fut.Run, order: Order, subsets: Sequence[Sequence[int]], name: str, reading: str = "") -> list[float]:
    """Effects by an estimator of the package: its answer without every subset, minus its answer with all samples."""
    orders = [order, *(order.without(left_out) for left_out in subsets)]
    chosen = f"{name}:reading={reading}" if reading else name
    whole, *left = run.estimate(orders, chosen, known=False, calibrated=False)
    return [answer.value - whole.value for answer in left]


def reweighted(run: fut.Run, subsets: Sequence[Sequence[int]], runs: float = 0.0) -> dict[str, Answers]:
    """Both readings of `reweighting`, and the exact metagradient, about a run's own order. runs: trained for it alone."""
    found: dict[str, Answers] = {}
    seconds = timed(lambda: run.cache(["reweighting"]))[1]
    cost = runs + gradients_before(run, "reweighting")
    for label, reading in READINGS.items():
        effects, asking = timed(partial(asked, run, run.reference, subsets, "reweighting", reading))
        kept = directory_bytes(run.path / "reweighting") if reading == "replayed" else 8 * run.context.config.consumed
        found[label] = Answers(effects, Cost(cost, kept, seconds, asking / len(subsets)))
    exact, seconds = timed(lambda: metagradient(run.context.problem, run.context.state))
    scores = exact.by_item(run.reference.steps, run.items)
    made = Answers.of_scores(scores, subsets, Cost(runs + PASS + passes(run, 0, 1), 8 * run.items, seconds))
    found["metagradient"] = Answers(made.effects, made.cost, {"step_error": exact.error})
    return found


def gradients_before(run: fut.Run, name: str) -> float:
    """What an estimator of the package takes before its first answer, in training runs.

    A plan counts a gradient of a chunk of the probe as one; here it counts as many as the chunk has sequences, as samples do.
    """
    problem, config = run.context.problem, run.context.config
    cost = gradient_cost(PROBE, problem)
    directions = 0 if name == "reweighting" else bend_cost(problem, PROBE, config.adjoint.functionals, cost)
    more = (len(problem.data.probe[0][0]) - 1) * (cost + directions)
    return (method_of(name).gradients_before(run.context) + more) / config.consumed


def replayed_orders(
    run: fut.Run, orders: dict[str, Order], subsets: Sequence[Sequence[int]]
) -> dict[str, dict[str, Answers]]:
    """`adjoint` and `positions` in each of the orders, from one expansion that knows none of them."""
    _, seconds = timed(lambda: run.cache(["adjoint"]))
    found: dict[str, dict[str, Answers]] = {name: {} for name in orders}
    for method in ("adjoint", "positions"):
        for name, order in orders.items():
            effects, asking = timed(partial(asked, run, order, subsets, method))
            kept, cost = directory_bytes(run.path / "adjoint"), gradients_before(run, method)
            found[name][method] = Answers(effects, Cost(cost, kept, seconds, asking / len(subsets)))
    return found


def moved(reference: dict[str, Answers], told: dict[str, Answers]) -> Answers:
    """`reweighting` in the reference order, plus by how much `adjoint` says that an effect differs in the other order."""
    a, b, c = (np.asarray(one.effects) for one in (reference["reweighting"], told["adjoint"], reference["adjoint"]))
    costs = reference["reweighting"].cost, told["adjoint"].cost
    return Answers(
        (a + b - c).tolist(), Cost(*(x + y for x, y in zip(*(vars(c).values() for c in costs), strict=True)))
    )


def run_in(path: Path, config: Config, run: fut.Run, items: Sequence[int]) -> fut.Run:
    """A second run, from the same state, whose reference order is the other shuffle: its item p is the p-th sample there."""
    data = run.context.problem.data
    moved_data = fut.Dataset([data.items[i] for i in items], data.probe, data.warmup)
    return fut.train(path, config, data=moved_data, exist_ok=True)


def measure(setting: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: all methods against both banks of one setting."""
    config = configured(setting, arguments)
    path = arguments.work / "-".join([arguments.name, *map(str, setting.values())])
    run = fut.train(path, config, exist_ok=True)
    subsets = random_subsets(run.items, arguments.subsets, arguments.share, SUBSET_SEED)
    items, other = shuffled(run)
    banks = {"reference": bank(run, run.reference, subsets), "other": bank(run, other, subsets)}
    say(f"{setting}: banks of {len(subsets)} and {len(subsets)}")
    first = reweighted(run, subsets) | field_scores.all_scores(run, subsets)
    say(f"{setting}: scores of the reference order")
    replays = replayed_orders(run, {name: one.order for name, one in banks.items()}, subsets)
    again = run_in(path.with_name(f"{path.name}-other"), config, run, items)
    place = {item: p for p, item in enumerate(items)}
    own = reweighted(again, [[place[i] for i in left_out] for left_out in subsets], runs=1.0)
    first |= replays["reference"]
    told = replays["other"] | {"reweighting moved by adjoint": moved(first, replays["other"])}
    told |= {f"{name}, of a run in that order": one for name, one in own.items()}
    row = setting | described(run, banks, subsets) | {
        "planned": {name: method_of(name).gradients_before(run.context) for name in ("reweighting", "adjoint")},
        "other_run_gap": again.reference_loss - banks["other"].loss,
        "order_effect": banks["other"].loss - banks["reference"].loss,
        "order_effect_by_adjoint": run.estimate([other], "adjoint", known=False, calibrated=False)[0].delta,
        "reference": {name: judged(banks["reference"], one) for name, one in first.items()},
        "reference_told_nothing": {name: judged(banks["other"], one) for name, one in first.items()},
        "other": {name: judged(banks["other"], one) for name, one in told.items()},
    }  # fmt: skip
    for one in (run, again):
        shutil.rmtree(one.path)
    return row


def described(run: fut.Run, banks: dict[str, Bank], subsets: Sequence[Sequence[int]]) -> dict[str, Any]:
    """What the banks are, and their retrained effects."""
    true = {name: one.effects for name, one in banks.items()}
    return {
        "steps": run.steps,
        "parameters": run.context.parameters,
        "samples": run.items,
        "left_out": len(subsets[0]),
        "reference_loss": run.reference_loss,
        "true_sd": {name: float(np.std(effects, ddof=1)) for name, effects in true.items()},
        "mean_effect": {name: float(np.mean(effects)) for name, effects in true.items()},
        "banks_agree": {k: accuracy(true["other"], true["reference"], 0.0).as_dict()[k] for k in SHOWN[:3]},
        "retrain_seconds": {name: one.seconds for name, one in banks.items()},
        "effects": true,
    }


def judged(truth: Bank, answers: Answers) -> dict[str, Any]:
    """Accuracy against a bank, with what the answers cost. Skill and errors are left out of scores without a unit."""
    found = accuracy(truth.effects, answers.effects, 0.0).as_dict()
    shown = SHOWN if answers.has_unit else SHOWN[:3]
    return {k: found[k] for k in shown} | vars(answers.cost) | dict(answers.more) | {"effects": answers.effects}


def configured(setting: dict[str, Any], arguments: argparse.Namespace) -> Config:
    """T steps of `per_step` samples each, in so many epochs."""
    data = {
        "items": arguments.steps * arguments.per_step // setting["epochs"],
        "per_step": arguments.per_step,
        "epochs": setting["epochs"],
        "batch": 1,
        "heterogeneous": setting["items"] == "heterogeneous",
        "text": arguments.text,
    }
    return load_config(None, arguments.settings, data=data, schedule={"kind": "cosine", "rate": setting["rate"]})


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def table(row: dict[str, Any]) -> str:
    """A row of a record in words: LDS of every method in every bank."""
    lines = [f"{row['items']} epochs={row['epochs']} banks agree {row['banks_agree']['spearman']:.3f}"]
    for part in ("reference", "reference_told_nothing", "other"):
        for name, one in row[part].items():
            low, high = one["spearman_interval"]
            skill = f"{one['skill']:+.2f}" if "skill" in one else "–"
            shown = f"{one['spearman']:6.3f} [{low:.2f}, {high:.2f}] skill {skill} runs {one['training_runs']:.1f}"
            lines.append(f"  {part:23s} {name:44s} {shown} {one['seconds']:.1f} s {one['bytes']} bytes")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"], help="of every setting")
    cli.add_argument("--epochs", type=int, nargs="+", default=[1, 1], help="of every setting")
    cli.add_argument("--rate", type=float, default=1e-3)
    cli.add_argument("--steps", type=int, default=32)
    cli.add_argument("--per-step", type=int, default=16)
    cli.add_argument("--subsets", type=int, default=48)
    cli.add_argument("--share", type=float, default=0.1)
    cli.add_argument("--text", default="")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="field")
    arguments = cli.parse_args(argv)
    kept = ("items", "epochs", "rate")
    started, (rows, done) = began(arguments.name), resumed(arguments.name, kept)
    for items, epochs in zip(arguments.items, arguments.epochs, strict=True):
        values = (items, epochs, arguments.rate)
        if values in done:
            continue
        rows.append(measure(dict(zip(kept, values, strict=True)), arguments))
        say(table(rows[-1]))
        seeds = {"subset_seed": SUBSET_SEED, "shuffle_seed": SHUFFLE_SEED, **field_scores.SETTINGS}
        write_record(arguments.name, vars(arguments) | seeds | {"threads": torch.get_num_threads()}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

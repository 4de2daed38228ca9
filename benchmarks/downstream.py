"""Downstream read-outs: margin and accuracy on multiple-choice sets made from held-out text, estimated and retrained.

python benchmarks/downstream.py --seeds 0 1 --work /tmp/downstream

The true ending of a held-out sequence stands against k - 1 endings of other sequences, by loss per token. Sets: the probe's
sequences, and all other held-out ones. The margin (least loss of a wrong ending minus the true one's) and the probability of
the true ending have gradients; accuracy is a step function. Resumes: seeds that the record holds are skipped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from curriculum import fresh_text
from measured_rows import Rows, run, with_frame
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fut
from estimators.orders.order import random_orders
from fut.estimation.accuracy import accuracy
from fut.methods.settings import load_config

ORDER_SEED = 9700
KEPT = ("steps", "seed", "choices", "ending")
SMOOTH = ("margin", "probability")


@dataclass(frozen=True)
class Questions:
    """A multiple-choice set. tokens: sequences [questions, choices, length], the true one first; ending: tokens that differ."""

    tokens: Tensor
    ending: int

    @classmethod
    def of(cls, rows: Tensor, choices: int, ending: int) -> Questions:
        """Of sequences [n, length]: wrong endings are those of the sequences before each, around the end."""
        ends = torch.stack([rows[:, -ending:].roll(shift, 0) for shift in range(choices)], 1)
        begins = rows[:, None, :-ending].expand(-1, choices, -1)
        return cls(torch.cat([begins, ends], -1), ending)

    def losses(self, module: nn.Module) -> Tensor:
        """Loss per token of every ending [questions, choices], in nats/token."""
        flat = self.tokens.flatten(0, 1)
        logits = module(flat[:, :-1])[:, -self.ending :]
        found = cross_entropy(logits.flatten(0, 1), flat[:, -self.ending :].flatten(), reduction="none")
        return found.view(*self.tokens.shape[:2], -1).mean(-1)

    def margin(self, module: nn.Module) -> Tensor:
        """Least loss of a wrong ending minus the true one's, mean over questions [nats/token]."""
        found = self.losses(module)
        return (found[:, 1:].amin(1) - found[:, 0]).mean()

    def probability(self, module: nn.Module) -> Tensor:
        """Of the true ending among the choices, by their likelihoods, mean over questions."""
        return (-self.ending * self.losses(module)).softmax(-1)[:, 0].mean()

    def accuracy(self, module: nn.Module) -> Tensor:
        """Share of questions whose true ending has the least loss; piecewise constant, without a gradient."""
        return (self.losses(module).argmin(1) == 0).float().mean()


def readouts(sets: dict[str, Questions]) -> dict[str, Callable[[nn.Module], Tensor]]:
    """The three functions of every set, by the names that the run has them under."""
    named: dict[str, Callable[[nn.Module], Tensor]] = {}
    for name, questions in sets.items():
        named |= {f"{name}-{kind}": getattr(questions, kind) for kind in (*SMOOTH, "accuracy")}
    return named


def measure(setting: dict[str, int], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: estimates and truths of all read-outs of one run."""
    data = {"items": setting["steps"], "seed": setting["seed"]}
    config = load_config(None, arguments.settings, data=data, model={"seed": setting["seed"]})
    path = arguments.work / "-".join(f"{key}-{value}" for key, value in setting.items())
    shutil.rmtree(path, ignore_errors=True)
    run = fut.train(path, config)
    texts = {"probe": run.context.problem.data.probe, "fresh": fresh_text(run)}
    rows = {name: torch.cat([item[0] for item in items]) for name, items in texts.items()}
    sets = {name: Questions.of(of, setting["choices"], setting["ending"]) for name, of in rows.items()}
    run = fut.open(path, readouts=readouts(sets))
    run.cache(readouts=["probe", *(f"{name}-{kind}" for name in sets for kind in SMOOTH)])
    orders = random_orders(run.reference, arguments.orders, ORDER_SEED)
    row: dict[str, Any] = setting | {
        "parameters": run.context.parameters,
        "orders": len(orders),
        "true_losses": [run.retrain(order).loss for order in orders],
        "estimated_losses": values(run, orders, "adjoint", "probe"),
        "reference_loss": run.reference_loss,
        "sets": {name: judged(run, orders, name, len(rows[name])) for name in sets},
    }
    row["ranks"] = {name: ranks(row, of) for name, of in row["sets"].items()}
    shutil.rmtree(path)
    return row


def values(run: fut.Run, orders: Sequence[fut.Order], method: str, readout: str) -> list[float]:
    """Uncalibrated estimates, or truths by `retrain`, of a read-out."""
    return [answer.value for answer in run.estimate(orders, method, known=False, calibrated=False, readout=readout)]


def judged(run: fut.Run, orders: Sequence[fut.Order], name: str, questions: int) -> dict[str, Any]:
    """Estimates and truths of one set's read-outs; of accuracy by `replay-exact`, and what `adjoint` says of it."""
    found: dict[str, Any] = {"questions": questions}
    for kind in (*SMOOTH, "accuracy"):
        readout, method = f"{name}-{kind}", "adjoint" if kind in SMOOTH else "replay-exact"
        true, guess = values(run, orders, "retrain", readout), values(run, orders, method, readout)
        reference = run.context.readouts.at_reference(run.context.readouts.get(readout))
        of = {"by": method, "reference": reference, "true": true, "estimated": guess}
        found[kind] = of | {"agreement": accuracy(true, guess, reference).as_dict(), "distinct": len(set(true))}
    try:
        run.cache(readouts=[f"{name}-accuracy"])
        found["refusal"] = None
    except fut.FutError as error:
        found["refusal"] = str(error)
    return found


def ranks(row: dict[str, Any], of: dict[str, Any]) -> dict[str, float | None]:
    """Spearman of what could stand in for accuracy with true accuracy; losses with their sign turned."""
    true = of["accuracy"]["true"]
    proxies = {
        "true loss": [-loss for loss in row["true_losses"]],
        "estimated loss": [-loss for loss in row["estimated_losses"]],
        **{f"true {kind}": of[kind]["true"] for kind in SMOOTH},
        **{f"estimated {kind}": of[kind]["estimated"] for kind in SMOOTH},
        "estimated accuracy": of["accuracy"]["estimated"],
    }
    varies = np.ptp(true) > 0
    return {
        name: float(spearmanr(true, guess)[0]) if varies and np.ptp(guess) > 0 else None
        for name, guess in proxies.items()
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line of each run, set and read-out: spread, Spearman and skill; then what stands in for accuracy."""
    lines = ["| seed | set | read-out | at the reference | sd | by | Spearman | skill |", "|" + "---|" * 8]
    for row in rows:
        for name, of in row["sets"].items():
            for kind in (*SMOOTH, "accuracy"):
                one, agreement = of[kind], of[kind]["agreement"]
                rank = "–" if agreement["spearman"] is None else f"{agreement['spearman']:.3f}"
                cells = [str(row["seed"]), f"{name} ({of['questions']})", kind, f"{one['reference']:.4f}"]
                cells += [f"{np.std(one['true'], ddof=1):.4f}", f"`{one['by']}`", rank, f"{agreement['skill']:.2f}"]
                lines.append("| " + " | ".join(cells) + " |")
    proxies = list(rows[0]["ranks"]["probe"])
    lines += ["", "| seed | set | accuracies | " + " | ".join(proxies) + " |", "|" + "---|" * (3 + len(proxies))]
    for row in rows:
        for name, of in row["ranks"].items():
            cells = [str(row["seed"]), name, str(row["sets"][name]["accuracy"]["distinct"])]
            cells += ["–" if value is None else f"{value:.2f}" for value in of.values()]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).replace("| -", "| −").replace("|−", "|-")


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, default=32)
    cli.add_argument("--seeds", type=int, nargs="+", default=[0], help="of text and model")
    cli.add_argument("--choices", type=int, default=4)
    cli.add_argument("--ending", type=int, default=17, help="tokens of an ending")
    arguments = with_frame(cli, "downstream").parse_args(argv)
    settings = [(arguments.steps, seed, arguments.choices, arguments.ending) for seed in arguments.seeds]
    return run(cli, arguments, Rows(KEPT, measure, table, {"order_seed": ORDER_SEED}), settings)


if __name__ == "__main__":
    sys.exit(main())

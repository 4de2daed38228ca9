"""Would curvature of the very item that a step consumes do better than the mean's, for a replay with and without curvature?

python benchmarks/item_products.py --steps 32 64 --items iid heterogeneous --work DIR

The adjoint reads sum_t <w_t, delta_t> with w_t the mean over items of H_i lambda_t. Here the sum is over w_{t,i} of the item that
the order consumes: one product for every item at a few checkpoints of the trajectory, interpolated, less their mean, is
added to w_t.
The displacement delta_t is the replay's own, without curvature (`rank` 0) or with a few Ritz pairs of it (`adjoint.rank`).
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from own_derivatives import judged
from record import began, write_record
from torch import Tensor

import fut
from estimators.adjoint import Anchored, DualTransition
from estimators.lowrank import BentGradients, curvature_anchors
from estimators.orders.order import random_orders
from estimators.replay import Picks, RuleTransition
from estimators.state import State
from fut.methods.adjoint.estimator import ALL, Adjoint, Rows
from fut.methods.adjoint.identity import open_expansion
from fut.methods.batching import raw_estimates
from fut.methods.settings import load_config

ORDER_SEED = 2000


@dataclass(frozen=True)
class ItemWeighted(DualTransition):
    """own: (step, what runs consume) -> what their items' weights have beyond the mean's [n, k]."""

    own: Callable[[int, Picks], Tensor] = lambda step, picks: torch.zeros(1)

    def __call__(self, step: int, picks: Picks, state: State) -> State:
        after = super().__call__(step, picks, state)
        more = (state.theta - self.centre(step)) * self.own(step, picks)
        return State(after.theta, after.memory | {"gathered": after.memory["gathered"] + more[:, None]}, after.clock)


class Varied(Adjoint):
    """The adjoint with item-specific weights, or without curvature in its replay. own: set beforehand; None for the mean's."""

    own: Anchored | None = None
    lowrank = True

    def _transition(self, block: slice, rows: Rows = ALL, owned: bool = False) -> DualTransition:
        whole = super()._transition(block, rows)
        inner = whole.inner
        assert isinstance(inner, RuleTransition)
        assert isinstance(inner.gradients, BentGradients)
        if not self.lowrank:
            plain = RuleTransition(inner.rule, inner.rate, inner.gradients.inner)
            whole = replace(whole, inner=plain, response=None, injections=None)
        if self.own is None:
            return whole
        return ItemWeighted(
            whole.inner, whole.centre, whole.weights, whole.response, whole.injections, own=self.own.pick
        )


def item_weights(run: fut.Run, count: int) -> Anchored:
    """What H_i lambda_t of every item has beyond their mean [items, D], at `count` checkpoints of the trajectory."""
    terms, problem, found = open_expansion(run.context).terms(), run.context.problem, []
    anchors = curvature_anchors(run.steps, count)
    for step in anchors:
        theta, direction = (torch.from_numpy(terms.read(name, step)[0]) for name in ("centre", "answer"))
        each = torch.stack([problem.product(theta, i, direction, exact=False) for i in range(run.items)])
        found.append(each - each.mean(0))
    return Anchored(anchors, lambda index: found[index])


def measure(steps: int, items: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    data = {"items": steps, "heterogeneous": items == "heterogeneous", "text": arguments.text}
    adjoint = {"coordinates": 10**12, "rank": arguments.rank, "functionals": 0}
    config = load_config(None, arguments.settings, data=data, adjoint=adjoint)
    path = arguments.work / f"{steps}-{items}"
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    orders = random_orders(run.reference, arguments.orders, ORDER_SEED)
    truth = np.array([run.retrain(order).loss for order in orders])
    run.cache(["adjoint"])
    own, rows = item_weights(run, arguments.anchors), []
    for lowrank, specific in itertools.product((False, True), (False, True)):
        estimator = Varied(run.context)
        estimator.lowrank, estimator.own = lowrank, own if specific else None
        found = judged(np.array(raw_estimates(estimator, orders)[0]), truth)
        rows.append(
            {"steps": steps, "items": items, "rank": arguments.rank * lowrank, "item_products": specific} | found
        )
        rows[-1]["true_sd"] = float(truth.std(ddof=1))
        print(rows[-1], file=sys.stderr, flush=True)
    shutil.rmtree(path)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[32, 64])
    cli.add_argument("--items", nargs="+", default=["iid", "heterogeneous"])
    cli.add_argument("--rank", type=int, default=4)
    cli.add_argument("--anchors", type=int, default=8, help="checkpoints at which every item has a product")
    cli.add_argument("--orders", type=int, default=48)
    cli.add_argument("--text", default="")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="item-products")
    arguments = cli.parse_args(argv)
    started, rows = began(), list[dict[str, Any]]()
    for steps, items in itertools.product(arguments.steps, arguments.items):
        rows += measure(steps, items, arguments)
        write_record(arguments.name, vars(arguments) | {"order_seed": ORDER_SEED}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Where the linear response is lost: along really retrained orders, what first order leaves of every single step.

python benchmarks/response_decomposition.py --steps 64 --orders 16 --work DIR

With L_t the sweep's costate along the trajectory and y_t the retrained order, <L_T, y_T - z_T> is the sum over steps of
e_t = <L_{t+1}, y_{t+1} - z_{t+1}> - <L_t, y_t - z_t>. The table of positions stands for e_t by
M[t, i] = <L_{t+1}, R_t(z_t, g_i) - z_{t+1}>, g_i interpolated from the anchors. With delta_t = gamma_t - theta_t and lambda_t the
mean injection, e_t - M[t, i] is exactly

    anchors     what the item's own gradient at the trajectory's step changes of M[t, i]
  + items       <lambda_t, H_i delta_t> - <w_t, delta_t>: the item's own curvature in place of the mean
  + bending     <lambda_t, g_i(gamma_t) - g_i(theta_t) - H_i delta_t>: the gradient is no linear function of the displacement
  + rule        the rest: the update rule is none of the gradient and of its memory.

The adjoint's linear reading of the same orders, which replays the rule itself, is set beside the table. All coordinates, no
sample; the trajectory, the anchors and the sweep as configured, without functionals.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import began, write_record

import fut
from estimators.adjoint import StreamedAnchors
from estimators.orders.order import Order, random_orders
from estimators.replay import OrderBatch
from estimators.rules.base import next_state
from estimators.state import State
from fut.methods.adjoint.anchors import AnchoredItems, missing_anchors, run_anchors
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.adjoint.sweep import missing_sweep, run_sweep
from fut.methods.expansion.trajectory import missing_steps, run_trajectory
from fut.methods.settings import load_config

ORDER_SEED = 2000
PARTS = ("anchors", "items", "bending", "rule")


class Steps:
    """The parts of an order's every step, from an expansion whose scratch is there."""

    def __init__(self, expansion: Expansion) -> None:
        self.of, self.problem, self.rule = expansion, expansion.problem, expansion.problem.rule
        self.gradients = StreamedAnchors(expansion.spec.anchors, AnchoredItems(expansion).rows)
        self.centre = [expansion.trajectory.state(step) for step in range(expansion.spec.steps + 1)]
        self.weights = [expansion.sweep.weight(step)[0] for step in range(expansion.spec.steps)]
        self.costates = [None, *(self._costate(step) for step in range(1, expansion.spec.steps + 1))]
        self.injections = [self._injection(step) for step in range(expansion.spec.steps)]

    def _costate(self, step: int) -> State:
        found = self.of.sweep.costate(step)
        return State(found.theta[0], {k: b[0] for k, b in found.memory.items()}, {})

    def _injection(self, step: int) -> torch.Tensor:
        """Mean sensitivity [D] to a gradient injected at a step, as the sweep has it."""
        after = self.of.sweep.costate(step + 1)
        pulled = [
            self.rule.pullback(self.centre[step], gradient, self.problem.rate(step), after)[1][0]
            for gradient in self.of.trajectory.gradients_of(step)
        ]
        return torch.stack(pulled).mean(0)

    def _valued(self, step: int, state: State) -> float:
        """<L_step, state - centre's>."""
        costate, centre = self.costates[step], self.centre[step]
        if costate is None:
            return 0.0
        value = costate.theta.double() @ (state.theta - centre.theta).double()
        return float(
            value + sum(b.double() @ (state.memory[k] - centre.memory[k]).double() for k, b in costate.memory.items())
        )

    def _weighed(self, step: int, state: State) -> float:
        """<w_step, state's parameters - centre's>."""
        return float(self.weights[step].double() @ (state.theta - self.centre[step].theta).double())

    def parts(self, order: Order) -> np.ndarray:
        """[T, 3 + 4]: e_t, the adjoint's part, M[t, i], and what the first has beyond the last, part by part."""
        batch, state, rows = OrderBatch.pack([order], self.problem.device), self.centre[0], []
        uncurved = state
        for step, (item,) in enumerate(order.steps):
            centre, rate = self.centre[step], self.problem.rate(step)
            anchored = self.gradients.pick(step, batch.at(step))[0]
            there, here = (self.problem.gradient(at.theta, item) for at in (state, centre))
            after = next_state(self.rule, state, there, rate)
            delta = state.theta - centre.theta
            bent = self.problem.product(centre.theta, item, delta, exact=False) if delta.any() else delta
            change = self._valued(step + 1, after) - self._valued(step, state)
            table, exact = (self._valued(step + 1, next_state(self.rule, centre, g, rate)) for g in (anchored, here))
            injection = self.injections[step].double()
            items = float(injection @ bent.double()) - self._weighed(step, state)
            bending = float(injection @ (there - here - bent).double())
            adjoint = self._weighed(step, uncurved)
            state, uncurved = after, next_state(self.rule, uncurved, anchored, rate)
            if step == len(order) - 1:
                adjoint += self._valued(step + 1, State(uncurved.theta, self.centre[-1].memory, {}))
            rows.append([change, adjoint, table, exact - table, items, bending, change - exact - items - bending])
        return np.array(rows)


def measure(steps: int, schedule: str, items: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row: standard deviations over orders of the response, of what the table leaves of it, and of its parts."""
    data = {"items": steps, "heterogeneous": items == "heterogeneous", "text": arguments.text}
    config = load_config(None, arguments.settings, data=data, schedule={"kind": schedule})
    path = arguments.work / f"{steps}-{schedule}-{items}"
    run = fut.open(path) if (path / "summary.json").exists() else fut.train(path, config)
    adjoint = AdjointConfig.model_validate(run.context.config.adjoint.model_dump() | {"functionals": 0})
    expansion = Expansion(path / "response", AdjointSpec(run.context.problem, adjoint), lambda: run.context.state(0))
    list(run_trajectory(expansion.trajectory, missing_steps(expansion.trajectory)))
    list(run_anchors(expansion, missing_anchors(expansion)))
    list(run_sweep(expansion, missing_sweep(expansion)))
    of, found = Steps(expansion), []
    for order in random_orders(run.reference, arguments.orders, ORDER_SEED):
        found.append(of.parts(order).sum(0))
        print(
            dict(zip(("true", "adjoint", "table", *PARTS), found[-1].round(5), strict=True)),
            file=sys.stderr,
            flush=True,
        )
    change, adjoint, table, *parts = np.array(found).T
    left = change - table
    shutil.rmtree(path)
    return {
        "steps": steps,
        "schedule": schedule,
        "items": items,
        "parameters": run.context.parameters,
        "true_sd": float(change.std(ddof=1)),
        "correlation": float(np.corrcoef(change, table)[0, 1]),
        "left_sd": float(left.std(ddof=1)),
        "adjoint_correlation": float(np.corrcoef(change, adjoint)[0, 1]),
        "adjoint_left_sd": float((change - adjoint).std(ddof=1)),
        "parts": {
            name: {
                "mean": float(part.mean()),
                "sd": float(part.std(ddof=1)),
                "left_without": float((left - part).std(ddof=1)),
            }
            for name, part in zip(PARTS, parts, strict=True)
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("--steps", type=int, nargs="+", default=[64])
    cli.add_argument("--schedules", nargs="+", default=["cosine"])
    cli.add_argument("--items", nargs="+", default=["iid"])
    cli.add_argument("--orders", type=int, default=24)
    cli.add_argument("--text", default="")
    cli.add_argument("--set", dest="settings", action="append", default=[], help="section.key=value")
    cli.add_argument("--work", type=Path, required=True)
    cli.add_argument("--name", default="response-decomposition")
    arguments = cli.parse_args(argv)
    started, rows = began(), list[dict[str, Any]]()
    for setting in itertools.product(arguments.steps, arguments.schedules, arguments.items):
        rows.append(measure(*setting, arguments))
        print(rows[-1], file=sys.stderr, flush=True)
        write_record(arguments.name, vars(arguments) | {"order_seed": ORDER_SEED}, rows, started)
    return 0


if __name__ == "__main__":
    sys.exit(main())

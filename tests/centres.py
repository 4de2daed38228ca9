"""The centre by explicit loops: what expansions about it are compared with."""

from __future__ import annotations

from torch import Tensor

import fut
from estimators.centre import balanced_mixture, ensemble_orders
from estimators.state import State


def mean_of(states: list[State]) -> State:
    """The mean of lifted states, buffer by buffer."""
    memory = {k: sum(z.memory[k] for z in states) / len(states) for k in states[0].memory}
    return State(sum(z.theta for z in states) / len(states), memory, states[0].clock)  # type: ignore[arg-type]


def trajectories(run: fut.Run, kind: str, mixture: int) -> tuple[list[State], list[list[tuple[int, Tensor]]]]:
    """The centre's lifted states, and of every step the items and the parameters at which their gradients are taken."""
    problem, rule, T = run.problem, run.problem.rule, run.steps
    centre, seen, runs = [run.state(0)], [], [run.state(0)] * mixture
    mixed = balanced_mixture(run.reference, mixture, 0).steps
    orders = [order.steps for order in ensemble_orders(run.reference, mixture, 0)]
    for t in range(T):
        if kind == "mixture":
            runs = [centre[t]] * mixture
        items = mixed[t] if kind == "mixture" else [order[t][0] for order in orders]
        taken = list(zip(items, runs, strict=True))
        seen.append([(i, z.theta) for i, z in taken])
        runs = [rule.step(z, problem.gradient(z.theta, i), problem.rate(t))[0] for i, z in taken]
        centre.append(mean_of(runs))
    return centre, seen

"""The trajectory by explicit loops: what expansions about it are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import fut
from estimators.adjoint import spread_anchors
from estimators.state import State
from estimators.trajectory import balanced_mixture, ensemble_orders
from fut.methods.adjoint.identity import open_expansion
from fut.methods.expansion.spec import APART


def mean_of(states: list[State]) -> State:
    """The mean of lifted states, buffer by buffer."""
    memory = {k: sum(z.memory[k] for z in states) / len(states) for k in states[0].memory}
    return State(sum(z.theta for z in states) / len(states), memory, states[0].clock)  # type: ignore[arg-type]


def trajectories(run: fut.Run, kind: str, mixture: int) -> tuple[list[State], list[list[tuple[int, Tensor]]]]:
    """The trajectory's lifted states, and of every step the items and the parameters at which their gradients are taken."""
    problem, rule, T = run.context.problem, run.context.problem.rule, run.steps
    centre, seen, runs = [run.context.state(0)], [], [run.context.state(0)] * mixture
    seed = open_expansion(run.context).spec.trajectory.seed + APART
    mixed = balanced_mixture(run.reference, mixture, seed).steps
    orders = [order.steps for order in ensemble_orders(run.reference, mixture, seed)]
    for t in range(T):
        if kind == "mixture":
            runs = [centre[t]] * mixture
        items = mixed[t] if kind == "mixture" else [order[t][0] for order in orders]
        taken = list(zip(items, runs, strict=True))
        seen.append([(i, z.theta) for i, z in taken])
        runs = [rule.step(z, problem.gradient(z.theta, i), problem.rate(t))[0] for i, z in taken]
        centre.append(mean_of(runs))
    return centre, seen


def written_out_table(run: fut.Run, anchors: Sequence[int] | None = None) -> np.ndarray:
    """M by coordinate [T, items, D], by explicit loops and exact Hessian-vector products."""
    problem, rule, T = run.context.problem, run.context.problem.rule, run.steps
    centre, seen = trajectories(run, run.context.config.adjoint.trajectory, 2)
    slope = problem.probe_gradient(centre[T].theta)
    after = State(slope, {k: torch.zeros_like(slope) for k in centre[0].memory}, {})
    anchors, table = anchors or spread_anchors(T, 3, problem.rate), np.zeros((T, run.items, run.context.parameters))
    for t in reversed(range(T)):
        z, end, step = centre[t], centre[t + 1], problem.rate(t)
        low, high = max(a for a in anchors if a <= t), min(a for a in anchors if a >= t)
        share = (t - low) / (high - low) if high > low else 0.0
        for i in range(run.items):
            ends = [problem.gradient(centre[a].theta, i) for a in (low, high)]
            moved = rule.step(z, (1 - share) * ends[0] + share * ends[1], step)[0]
            table[t, i] = (after.theta * (moved.theta - end.theta)).numpy()
            table[t, i] += sum((after.memory[k] * (moved.memory[k] - end.memory[k])).numpy() for k in z.memory)
        pulled = [rule.pullback(z, problem.gradient(at, i), step, after) for i, at in seen[t]]
        bent = [problem.product(at, i, u) for (i, at), (_, u) in zip(seen[t], pulled, strict=True)]
        before = mean_of([p for p, _ in pulled])
        after = State(before.theta + (bent[0] + bent[1]) / 2, before.memory, {})
    return table


def written_out(run: fut.Run, order: list[int], kind: str, mixture: int, anchors: int) -> float:
    """The estimate by explicit loops, exact Hessian-vector products and no store: phi(centre) + dual-weighted read-out."""
    problem, rule, T = run.context.problem, run.context.problem.rule, run.steps
    centre, seen = trajectories(run, kind, mixture)
    slope = problem.probe_gradient(centre[T].theta)
    costate = State(slope, {k: torch.zeros_like(slope) for k in centre[0].memory}, {})
    weights: list[Tensor] = [slope] * T
    for t in reversed(range(T)):
        pulled = [rule.pullback(centre[t], problem.gradient(at, i), problem.rate(t), costate) for i, at in seen[t]]
        products = [problem.product(at, i, u) for (i, at), (_, u) in zip(seen[t], pulled, strict=True)]
        weights[t] = sum(products) / mixture  # type: ignore[assignment]
        before = mean_of([p for p, _ in pulled])
        costate = State(before.theta + weights[t], before.memory, {})
    chosen = spread_anchors(T, anchors, problem.rate)
    value, y = 0.0, run.context.state(0)
    for t, item in enumerate(order):
        value += (weights[t] @ (y.theta - centre[t].theta)).item()
        low, high = max(a for a in chosen if a <= t), min(a for a in chosen if a >= t)
        share = (t - low) / (high - low) if high > low else 0.0
        ends = [problem.gradient(centre[a].theta, item) for a in (low, high)]
        y = rule.step(y, (1 - share) * ends[0] + share * ends[1], problem.rate(t))[0]
    return value + (slope @ (y.theta - centre[T].theta)).item()

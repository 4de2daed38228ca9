"""The centre: its lifted states and gradients, step by step, and where the runs of an ensemble stand; each step resumable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from estimators.orders.order import Order
from estimators.replay import OrderBatch, Picks, RuleTransition, TrueGradients, replay
from estimators.state import State
from estimators.trajectory import CentreTransition, mean_state
from fut.progress import Progress
from fut.training.checkpoints import attributes_of, pack, read_state

if TYPE_CHECKING:
    from fut.methods.adjoint.pipeline import Expansion


def run_centre(expansion: Expansion, progress: Progress) -> None:
    """Write every step's lifted state of the centre [D], and the gradients [c, D] that it goes on with."""
    if expansion.ensemble:
        _run_ensemble(expansion, expansion.members, progress)
    else:
        _run_mixture(expansion, progress)


def _run_mixture(expansion: Expansion, progress: Progress) -> None:
    """One trajectory; every step averages the transitions of a few groups of items."""
    problem, steps = expansion.problem, expansion.steps
    done = max(expansion.centre.steps(), default=-1)
    if done < 0:
        _save_centre(expansion, 0, expansion.start())
        done = 0
    state = expansion.state(done).rows(1)
    latest: dict[int, Tensor] = {}

    def gradient(step: int, theta: Tensor, number: int) -> Tensor:
        items = expansion.groups[number]
        latest[number] = problem.mean_gradient(theta, items, [1.0 / len(items)] * len(items))
        return latest[number]

    with progress("centre", steps - done) as tick:

        def save(step: int, state: State) -> None:
            found = torch.stack([latest.pop(number) for number in expansion.mixture.steps[step - 1]])
            expansion.mixed.write(step - 1, {"gradient": found.cpu().numpy()}, {}, replace=True)
            _save_centre(expansion, step, state.row(0))
            tick()

        transition = CentreTransition(problem.rule, problem.rate, gradient)
        replay(transition, state, OrderBatch.pack([expansion.mixture], problem.device), done, save)


def _run_ensemble(expansion: Expansion, orders: list[Order], progress: Progress) -> None:
    """Real training under every order, side by side; the centre is the mean of their lifted states."""
    problem, latest = expansion.problem, expansion.runs
    done = max(latest.steps(), default=-1)
    if done < 0:
        _save_centre(expansion, 0, expansion.start())
        _save_runs(expansion, 0, expansion.start().rows(len(orders)))
        done = 0
    state = _runs(expansion, done)
    inner = TrueGradients(problem.gradient, problem.mean_gradient)
    seen: dict[str, Tensor] = {}

    def gradients(step: int, picks: Picks, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        seen["gradient"], norm = inner(step, picks, theta)
        seen["theta"] = theta
        return seen["gradient"], norm

    with progress("centre", expansion.steps - done) as tick:

        def save(step: int, state: State) -> None:
            expansion.mixed.write(step - 1, {k: v.cpu().numpy() for k, v in seen.items()}, {}, replace=True)
            _save_centre(expansion, step, mean_state([state.row(k) for k in range(len(orders))]))
            _save_runs(expansion, step, state)
            latest.remove(step - 1)
            tick()

        transition = RuleTransition(problem.rule, problem.rate, gradients)
        batch = OrderBatch.pack([problem.canonical(order) for order in orders], problem.device)
        replay(transition, state, batch, done, save)


def _save_centre(expansion: Expansion, step: int, state: State) -> None:
    expansion.centre.write(step, pack(state.rows(1)), attributes_of(state), replace=True)


def _save_runs(expansion: Expansion, step: int, state: State) -> None:
    """Lifted states [c, D] of the ensemble's runs; only the latest are kept."""
    arrays = {"theta": state.theta} | {f"memory/{name}": buffer for name, buffer in state.memory.items()}
    expansion.runs.write(step, {k: v.cpu().numpy() for k, v in arrays.items()}, attributes_of(state), replace=True)


def _runs(expansion: Expansion, step: int) -> State:
    return read_state(expansion.runs, step, expansion.problem.device)

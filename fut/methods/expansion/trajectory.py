"""The expansion trajectory: its lifted states and gradients, step by step, and where the runs of an ensemble stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from estimators.replay import OrderBatch, Picks, RuleTransition, TrueGradients
from estimators.state import State
from estimators.trajectory import CentreTransition, mean_state
from fut.methods.expansion.files import TrajectoryFiles
from fut.training.checkpoints import attributes_of, pack, read_state


def missing_steps(files: TrajectoryFiles) -> Sequence[int]:
    """The steps that are to be taken yet."""
    latest = files.runs if files.spec.ensemble else files.centre
    return range(max(latest.steps(), default=0), files.spec.steps)


def run_trajectory(files: TrajectoryFiles, steps: Sequence[int]) -> Iterator[None]:
    """Write the lifted state [D] after each of the steps, and the gradients [c, D] that it goes on with."""
    yield from _run_ensemble(files, steps) if files.spec.ensemble else _run_mixture(files, steps)


def _run_mixture(files: TrajectoryFiles, steps: Sequence[int]) -> Iterator[None]:
    """One trajectory; every step averages the transitions of a few groups of items."""
    spec, problem = files.spec, files.spec.problem
    if not files.centre.has(steps[0]):
        _save_centre(files, 0, files.start())
    state = files.state(steps[0]).rows(1)
    latest: dict[int, Tensor] = {}

    def gradient(step: int, theta: Tensor, number: int) -> Tensor:
        items = spec.groups[number]
        latest[number] = problem.mean_gradient(theta, items, [1.0 / len(items)] * len(items))
        return latest[number]

    transition = CentreTransition(problem.rule, problem.rate, gradient)
    batch = OrderBatch.pack([spec.mixture], problem.device)
    for step in steps:
        state = transition(step, batch.at(step), state)
        found = torch.stack([latest.pop(number) for number in spec.mixture.steps[step]])
        files.mixed.write(step, {"gradient": found.cpu().numpy()}, {}, replace=True)
        _save_centre(files, step + 1, state.row(0))
        yield


def _run_ensemble(files: TrajectoryFiles, steps: Sequence[int]) -> Iterator[None]:
    """Real training under every order, side by side; the trajectory is the mean of their lifted states."""
    problem, orders = files.spec.problem, files.spec.members
    if not files.runs.has(steps[0]):
        _save_centre(files, 0, files.start())
        _save_runs(files, 0, files.start().rows(len(orders)))
    state = read_state(files.runs, steps[0], problem.device)
    inner = TrueGradients(problem.gradient, problem.mean_gradient)
    seen: dict[str, Tensor] = {}

    def gradients(step: int, picks: Picks, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        seen["gradient"], norm = inner(step, picks, theta)
        seen["theta"] = theta
        return seen["gradient"], norm

    transition = RuleTransition(problem.rule, problem.rate, gradients)
    batch = OrderBatch.pack([problem.canonical(order) for order in orders], problem.device)
    for step in steps:
        state = transition(step, batch.at(step), state)
        files.mixed.write(step, {k: v.cpu().numpy() for k, v in seen.items()}, {}, replace=True)
        _save_centre(files, step + 1, mean_state([state.row(k) for k in range(len(orders))]))
        _save_runs(files, step + 1, state)
        files.runs.remove(step)
        yield


def _save_centre(files: TrajectoryFiles, step: int, state: State) -> None:
    files.centre.write(step, pack(state.rows(1)), attributes_of(state), replace=True)


def _save_runs(files: TrajectoryFiles, step: int, state: State) -> None:
    """Lifted states [c, D] of the ensemble's runs; only the latest are kept."""
    arrays = {"theta": state.theta} | {f"memory/{name}": buffer for name, buffer in state.memory.items()}
    files.runs.write(step, {k: v.cpu().numpy() for k, v in arrays.items()}, attributes_of(state), replace=True)

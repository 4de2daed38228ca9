"""The expansion trajectory: its lifted states and gradients, step by step, and where the runs of an ensemble stand; scratch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from estimators.errors import DivergenceError
from estimators.replay import OrderBatch, Picks, RuleTransition, TrueGradients
from estimators.state import State
from estimators.trajectory import CentreTransition, mean_state
from fut.divergence import named
from fut.methods.expansion.spec import Trajectory
from fut.training.checkpoints import attributes_of, read_state
from fut.training.problem import LOWER
from fut.training.weights import shares, weighed
from storage import CheckpointStore

PARTS = ("centre", "gradients", "runs")
"""Directories of its stores, below the scratch directory."""
FAR = 1000.0
"""Times as far as the reference run moves: where a run of an ensemble has moved that far, it diverges."""


class RunDivergedError(DivergenceError):
    """One of an ensemble's runs diverges. number: of the run, as it was drawn."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


@dataclass(frozen=True)
class TrajectoryFiles:
    """The stores of a trajectory in a scratch directory.

    Args:
        spec: what it is averaged from.
        directory: of scratch.
        start: the lifted state [D] that every order starts from.
        owner: the digest that every file holds.
        end: the reference run's parameters [D] after the last step, by which a run that goes far is told; None for no such check.
    """

    spec: Trajectory
    directory: Path
    start: Callable[[], State]
    owner: str
    end: Callable[[], Tensor] | None = None

    @cached_property
    def centre(self) -> CheckpointStore:
        """Its lifted states."""
        return CheckpointStore(self.directory / "centre", self.owner)

    @cached_property
    def mixed(self) -> CheckpointStore:
        """Gradients [c, D] of every step's mixture; of an ensemble also the parameters [c, D] at which they are taken."""
        return CheckpointStore(self.directory / "gradients", self.owner)

    @cached_property
    def runs(self) -> CheckpointStore:
        """The latest lifted states [c, D] of an ensemble's runs."""
        return CheckpointStore(self.directory / "runs", self.owner)

    @property
    def stores(self) -> tuple[CheckpointStore, ...]:
        """All of them, of use together alone."""
        return (self.centre, self.mixed, self.runs)

    def state(self, step: int) -> State:
        """The lifted state [D] before step `step`."""
        return read_state(self.centre, step, self.spec.problem.device)

    @cached_property
    def reach(self) -> float:
        """How far a run may move; infinite where nothing says how far the reference run does."""
        return math.inf if self.end is None else FAR * float((self.end() - self.start().theta).norm())

    def gradients_of(self, step: int) -> Tensor:
        """Gradients of the step's mixture [c, D]."""
        return torch.from_numpy(self.mixed.read_array(step, "gradient")).to(self.spec.problem.device)

    def places(self, step: int) -> Tensor:
        """Parameters at which the step's curvature is taken: of every run of an ensemble [c, D], else its own [1, D]."""
        if not self.spec.ensemble:
            return self.state(step).theta[None]
        return torch.from_numpy(self.mixed.read_array(step, "theta")).to(self.spec.problem.device)


def missing_steps(files: TrajectoryFiles) -> Sequence[int]:
    """The steps that are to be taken yet. Of an ensemble's runs two states are there where a kill fell between the writing of the
    later and the removal of the earlier one: that step is taken again, the same."""
    ensemble = files.spec.ensemble
    first = min(files.runs.steps(), default=0) if ensemble else max(files.centre.steps(), default=0)
    return range(first, files.spec.steps)


def run_trajectory(files: TrajectoryFiles, steps: Sequence[int]) -> Iterator[None]:
    """Write the lifted state [D] after each of the steps, and the gradients [c, D] that it goes on with."""
    yield from _run_ensemble(files, steps) if files.spec.ensemble else _run_mixture(files, steps)


def _run_mixture(files: TrajectoryFiles, steps: Sequence[int]) -> Iterator[None]:
    """One trajectory; every step averages the transitions of a few groups of items."""
    spec, problem = files.spec, files.spec.problem
    if not files.centre.has(steps[0]):
        _save(files.centre, 0, files.start())
    state = files.state(steps[0]).rows(1)
    latest: dict[int, Tensor] = {}

    def gradient(step: int, theta: Tensor, number: int) -> Tensor:
        items = spec.groups[number]
        latest[number] = problem.mean_gradient(theta, items, shares(problem.config, items))
        return latest[number]

    transition = CentreTransition(problem.rule, problem.rate, gradient)
    batch = OrderBatch.pack([spec.mixture], problem.device)
    for step in steps:
        state = transition(step, batch.at(step), state)
        found = torch.stack([latest.pop(number) for number in spec.mixture.steps[step]])
        files.mixed.write(step, {"gradient": found.cpu().numpy()}, {}, replace=True)
        _save(files.centre, step + 1, state.row(0))
        yield


def _run_ensemble(files: TrajectoryFiles, steps: Sequence[int]) -> Iterator[None]:
    """Real training under every order, side by side; the trajectory is the mean of their lifted states."""
    spec, problem, orders = files.spec, files.spec.problem, files.spec.members
    if not files.runs.has(steps[0]):
        _save(files.centre, 0, files.start())
        _save(files.runs, 0, files.start().rows(len(orders)))
    state = read_state(files.runs, steps[0], problem.device)
    inner = TrueGradients(problem.gradient, problem.mean_gradient)
    seen, origin = dict[str, Tensor](), files.start().theta

    def own(k: int, step: int, picks: Picks, theta: Tensor) -> Tensor:
        try:
            return inner(step, picks, theta)[0]
        except DivergenceError as error:
            raise diverged(k, step, str(error)) from error

    def diverged(k: int, step: int, why: str) -> RunDivergedError:
        return RunDivergedError(
            f"order {named(orders[k])}, one of the {len(orders)} runs of the trajectory, diverges in step {step}: {why}, or "
            'draw other runs (adjoint.seed), or average transitions in place of runs (adjoint.trajectory = "mixture")',
            spec.numbers[k],
        )

    def gradients(step: int, picks: Picks, theta: Tensor) -> tuple[Tensor, Tensor | None]:
        seen["gradient"] = torch.cat([own(k, step, picks.row(k), theta[k : k + 1]) for k in range(len(orders))])
        seen["theta"] = theta
        return seen["gradient"], None

    transition = RuleTransition(problem.rule, problem.rate, gradients)
    batch = OrderBatch.pack([weighed(problem, order) for order in orders], problem.device)
    for step in steps:
        state = transition(step, batch.at(step), state)
        moved = (state.theta - origin).norm(dim=-1)
        if (far := ~(moved <= files.reach)).any():
            raise diverged(int(far.nonzero()[0]), step, f"it moves {FAR:g} times as far as the reference run; {LOWER}")
        files.mixed.write(step, {k: v.cpu().numpy() for k, v in seen.items()}, {}, replace=True)
        _save(files.centre, step + 1, mean_state([state.row(k) for k in range(len(orders))]))
        _save(files.runs, step + 1, state)
        files.runs.remove(step)  # only the latest are kept
        yield


def state_arrays(state: State) -> dict[str, np.ndarray]:
    """Arrays of a state, or of stacked ones, as they are stored."""
    arrays = {"theta": state.theta} | {f"memory/{name}": buffer for name, buffer in state.memory.items()}
    return {name: tensor.cpu().numpy() for name, tensor in arrays.items()}


def _save(store: CheckpointStore, step: int, state: State) -> None:
    store.write(step, state_arrays(state), attributes_of(state), replace=True)

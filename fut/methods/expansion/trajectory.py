"""The expansion trajectory: its lifted states and gradients, step by step, and where the runs of an ensemble stand; scratch.

Everything of every step is stored, or the runs are stored at the ends of segments alone (`segments.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from estimators.errors import DivergenceError
from estimators.replay import OrderBatch, Picks, RuleTransition
from estimators.state import State
from estimators.trajectory import CentreTransition, mean_state
from fut.divergence import named
from fut.methods.expansion.spec import Trajectory
from fut.training.checkpoints import read_state, save
from fut.training.curvature import true_gradients
from fut.training.problem import LOWER
from fut.training.stepwise import Stepwise
from fut.training.tensor_store import TensorStore
from fut.training.weights import shares, weighed

PARTS = ("centre", "gradients", "runs", "snapshots", "pinned")
"""Directories of its stores, below the scratch directory or that in which it is kept."""
Follower = Callable[[Sequence[int]], None]
"""What is told of steps, a segment of them at a time, while the states and gradients of these are at hand."""
FAR = 1000.0
"""Times as far as the reference run moves: where a run of an ensemble has moved that far, it diverges."""


class RunDivergedError(DivergenceError):
    """One of an ensemble's runs diverges. number: of the run, as it was drawn."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class Reach(NamedTuple):
    """How far a run may move. start: parameters [D] that it is measured from. distance: of the parameters, at most."""

    start: Tensor
    distance: float


@dataclass(frozen=True)
class TrajectoryFiles:
    """The stores of a trajectory in a directory, with everything of every step.

    Args:
        spec: what it is averaged from.
        directory: of scratch.
        start: the lifted state [D] that every order starts from.
        owner: the digest that every file holds.
        end: the reference run's parameters [D] after the last step, by which a run that goes far is told; None for no such check.
        stores_of: makes a store of a directory and an owner: on disk, or in memory.
    """

    spec: Trajectory
    directory: Path
    start: Callable[[], State]
    owner: str
    end: Callable[[], Tensor] | None = None
    stores_of: type[TensorStore] = TensorStore

    @cached_property
    def centre(self) -> TensorStore:
        """Its lifted states."""
        return self.stores_of(self.directory / "centre", self.owner)

    @cached_property
    def mixed(self) -> TensorStore:
        """Gradients [c, D] of every step's mixture; of an ensemble also the parameters [c, D] at which they are taken."""
        return self.stores_of(self.directory / "gradients", self.owner)

    @cached_property
    def runs(self) -> TensorStore:
        """The latest lifted states [c, D] of an ensemble's runs."""
        return self.stores_of(self.directory / "runs", self.owner)

    @property
    def stores(self) -> tuple[TensorStore, ...]:
        """All of them, of use together alone."""
        return (self.centre, self.mixed, self.runs)

    @property
    def reached(self) -> int:
        """Steps that are taken. Of an ensemble's runs two states are there where a kill fell between the writing of the later and
        the removal of the earlier one: that step is taken again, the same."""
        return min(self.runs.steps(), default=0) if self.spec.ensemble else max(self.centre.steps(), default=0)

    @property
    def segments(self) -> list[range]:
        """The steps, as many at a time as are at hand together: all of them."""
        return [range(self.spec.steps)]

    def run(self, steps: Sequence[int], follow: Follower | None = None) -> Iterator[None]:
        """Take the steps, and yield once after each."""
        spec, first = self.spec, steps[0]
        latest = self.runs if spec.ensemble else self.centre
        if not latest.has(first):
            save(self.centre, 0, self.start())
            if spec.ensemble:
                save(self.runs, 0, self.start().rows(spec.count))
        state = read_state(latest, first, spec.problem.device)
        for taken in trained(spec, state if spec.ensemble else state.rows(1), steps, self.reach):
            self.mixed.put(taken.step, taken.tensors())
            save(self.centre, taken.step + 1, mean_of(spec, taken.after))
            if spec.ensemble:
                save(self.runs, taken.step + 1, taken.after)
                self.runs.remove(taken.step)  # only the latest are kept
            yield

    def state(self, step: int) -> State:
        """The lifted state [D] before step `step`."""
        return read_state(self.centre, step, self.spec.problem.device)

    def parameters(self, step: int) -> Tensor:
        """Parameters [D] before step `step`."""
        return self.centre.tensor(step, "theta", self.spec.problem.device)

    @cached_property
    def reach(self) -> Reach | None:
        """How far a run may move; None where nothing says how far the reference run does."""
        if self.end is None:
            return None
        start = self.start().theta
        return Reach(start, FAR * float((self.end() - start).norm()))

    def gradients_of(self, step: int) -> Tensor:
        """Gradients of the step's mixture [c, D]."""
        return self.mixed.tensor(step, "gradient", self.spec.problem.device)

    def places(self, step: int) -> Tensor:
        """Parameters at which the step's curvature is taken: of every run of an ensemble [c, D], else its own [1, D]."""
        if not self.spec.ensemble:
            return self.state(step).theta[None]
        return self.mixed.tensor(step, "theta", self.spec.problem.device)

    def ends(self) -> State:
        """Lifted states [c, D] of an ensemble's runs after the last step."""
        return read_state(self.runs, self.spec.steps, self.spec.problem.device)


def missing_steps(files: TrajectoryFiles) -> Sequence[int]:
    """The steps that are to be taken yet."""
    return range(files.reached, files.spec.steps)


def run_trajectory(files: TrajectoryFiles, steps: Sequence[int], follow: Follower | None = None) -> Iterator[None]:
    """Write the lifted state [D] after each of the steps, and the gradients [c, D] that it goes on with, or what they can be
    had from again.

    follow: told of every segment of steps while these are at hand; not where everything is stored, as it is at hand later.
    """
    yield from files.run(steps, follow)


class Taken(NamedTuple):
    """A step that was taken. after: lifted states of an ensemble's runs [c, D], or of the one trajectory [1, D]; gradient: of the
    step [c, D]; theta: of an ensemble, the parameters [c, D] at which they are taken."""

    step: int
    after: State
    gradient: Tensor
    theta: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Gradients, and parameters, as they are stored."""
        return {"gradient": self.gradient} | ({} if self.theta is None else {"theta": self.theta})


def trained(spec: Trajectory, state: State, steps: Sequence[int], reach: Reach | None = None) -> Iterator[Taken]:
    """The steps from the lifted states before the first of them: of an ensemble's runs [c, D], or of the trajectory [1, D].

    Raises:
        RunDivergedError: for a run of an ensemble that diverges, or moves beyond `reach`.
    """
    return _ensemble(spec, state, steps, reach) if spec.ensemble else _mixture(spec, state, steps)


def mean_of(spec: Trajectory, state: State) -> State:
    """The trajectory's lifted state [D], from those of an ensemble's runs [c, D] or its own [1, D]."""
    return mean_state([state.row(k) for k in range(spec.count)]) if spec.ensemble else state.row(0)


def _mixture(spec: Trajectory, state: State, steps: Sequence[int]) -> Iterator[Taken]:
    """One trajectory; every step averages the transitions of a few groups of items."""
    problem = spec.problem
    latest: dict[int, Tensor] = {}

    def gradient(step: int, theta: Tensor, number: int) -> Tensor:
        items = spec.groups[number]
        latest[number] = problem.at(step).mean_gradient(theta, items, shares(problem.config, items))
        return latest[number]

    transition = CentreTransition(problem.rule, problem.rate, gradient)
    batch = OrderBatch.pack([spec.mixture], problem.device)
    for step in steps:
        state = transition(step, batch.at(step), state)
        yield Taken(step, state, torch.stack([latest.pop(number) for number in spec.mixture.steps[step]]))


def _ensemble(spec: Trajectory, state: State, steps: Sequence[int], reach: Reach | None) -> Iterator[Taken]:
    """Real training under every order, side by side; the trajectory is the mean of their lifted states."""
    problem, orders = spec.problem, spec.members
    inner = Stepwise(problem, true_gradients)
    seen: dict[str, Tensor] = {}

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
        if reach is not None and (far := ~((state.theta - reach.start).norm(dim=-1) <= reach.distance)).any():
            raise diverged(int(far.nonzero()[0]), step, f"it moves {FAR:g} times as far as the reference run; {LOWER}")
        yield Taken(step, state, seen["gradient"], seen["theta"])

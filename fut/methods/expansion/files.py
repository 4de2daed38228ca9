"""Where an expansion trajectory is kept while what reads it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from estimators.state import State
from fut.methods.expansion.spec import Trajectory
from fut.training.checkpoints import read_state
from storage import CheckpointStore

PARTS = ("centre", "gradients", "runs")
"""Directories of its stores, below the scratch directory."""


@dataclass(frozen=True)
class TrajectoryFiles:
    """The stores of a trajectory in a scratch directory.

    Args:
        spec: what it is averaged from.
        directory: of scratch.
        start: the lifted state [D] that every order starts from.
    """

    spec: Trajectory
    directory: Path
    start: Callable[[], State]

    @cached_property
    def centre(self) -> CheckpointStore:
        """Its lifted states."""
        return CheckpointStore(self.directory / "centre")

    @cached_property
    def mixed(self) -> CheckpointStore:
        """Gradients [c, D] of every step's mixture; of an ensemble also the parameters [c, D] at which they are taken."""
        return CheckpointStore(self.directory / "gradients")

    @cached_property
    def runs(self) -> CheckpointStore:
        """The latest lifted states [c, D] of an ensemble's runs."""
        return CheckpointStore(self.directory / "runs")

    @property
    def stores(self) -> tuple[CheckpointStore, ...]:
        """All of them, of use together alone."""
        return (self.centre, self.mixed, self.runs)

    def state(self, step: int) -> State:
        """The lifted state [D] before step `step`."""
        return read_state(self.centre, step, self.spec.problem.device)

    def gradients_of(self, step: int) -> Tensor:
        """Gradients of the step's mixture [c, D]."""
        return torch.from_numpy(self.mixed.read_array(step, "gradient")).to(self.spec.problem.device)

    def places(self, step: int) -> Tensor:
        """Parameters at which the step's curvature is taken: of every run of an ensemble [c, D], else its own [1, D]."""
        if not self.spec.ensemble:
            return self.state(step).theta[None]
        return torch.from_numpy(self.mixed.read_array(step, "theta")).to(self.spec.problem.device)

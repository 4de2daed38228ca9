"""Where an expansion keeps what: scratch of whole size while it is built, the sample for good; and how each is read."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from estimators.position_table import StepStates
from estimators.state import State
from fut.methods.adjoint.sweep import costate_from
from fut.methods.expansion.anchors import ITEM_BLOCK
from fut.methods.expansion.sample import Sample
from fut.training.checkpoints import read_state
from storage import CheckpointStore

PARTS = (
    "sample",
    "anchors",
    *(
        f"scratch/{part}"
        for part in ("centre", "gradients", "runs", "anchors", "lowrank", "sweep", "costate", "pilots", "tamed")
    ),
)
"""Directories of an expansion's checkpoint stores."""


class Stores(Sample):
    """The checkpoint stores of an expansion in its directory, and what is read from them."""

    directory: Path

    @property
    @abstractmethod
    def ensemble(self) -> bool:
        """Whether the centre is the mean of runs."""

    @property
    @abstractmethod
    def functionals(self) -> int:
        """m, the functionals behind the first read-out's quadratic term."""

    @property
    def scratch(self) -> Path:
        return self.directory / "scratch"

    @cached_property
    def centre(self) -> CheckpointStore:
        """Lifted states of the centre."""
        return CheckpointStore(self.scratch / "centre")

    @cached_property
    def mixed(self) -> CheckpointStore:
        """Gradients [c, D] of every step's mixture; of an ensemble also the parameters [c, D] at which they are taken."""
        return CheckpointStore(self.scratch / "gradients")

    @cached_property
    def runs(self) -> CheckpointStore:
        """The latest lifted states [c, D] of an ensemble's runs."""
        return CheckpointStore(self.scratch / "runs")

    @property
    def centre_stores(self) -> tuple[CheckpointStore, ...]:
        """What the centre's stage writes, of use together alone."""
        return (self.centre, self.mixed, self.runs)

    @cached_property
    def anchored(self) -> CheckpointStore:
        """Gradients [ITEM_BLOCK, D] of blocks of items at the anchors, and their norms; `anchored_key` numbers them."""
        return CheckpointStore(self.scratch / "anchors")

    def anchored_key(self, anchor: int, first: int) -> int:
        """The number of the block of items that begins with item `first`, at an anchor."""
        return anchor * -(-self.problem.config.data.items // ITEM_BLOCK) + first // ITEM_BLOCK

    @cached_property
    def pilots(self) -> CheckpointStore:
        """Gradients [n, D] of a few items, by step, from which the number of anchors is chosen."""
        return CheckpointStore(self.scratch / "pilots")

    @cached_property
    def chosen(self) -> CheckpointStore:
        """At step 0, the anchors where they are chosen, and what was found of each number that was tried."""
        return CheckpointStore(self.directory / "anchors")

    @cached_property
    def ritz(self) -> CheckpointStore:
        """Ritz values [r] and vectors [r, D] of mean curvature at a few checkpoints of the centre."""
        return CheckpointStore(self.scratch / "lowrank")

    @cached_property
    def swept(self) -> CheckpointStore:
        """Weights w_t [r, D] of every step, and of the end, and costates of the fine read-outs."""
        return CheckpointStore(self.scratch / "sweep")

    @cached_property
    def latest(self) -> CheckpointStore:
        """The whole costate of the latest step that is swept."""
        return CheckpointStore(self.scratch / "costate")

    @cached_property
    def tamed(self) -> CheckpointStore:
        """How the control variates of the fine read-outs take the table of positions: shares and bounds [fine, D]."""
        return CheckpointStore(self.scratch / "tamed")

    @cached_property
    def sampled(self) -> CheckpointStore:
        return CheckpointStore(self.directory / "sample")

    def state(self, step: int) -> State:
        """The centre's lifted state [D] before step `step`; scratch, there while the expansion is built."""
        return read_state(self.centre, step, self.problem.device)

    def gradients_of(self, step: int) -> Tensor:
        """Gradients of the step's mixture [c, D]; scratch."""
        return torch.from_numpy(self.mixed.read_array(step, "gradient")).to(self.problem.device)

    def places(self, step: int) -> Tensor:
        """Parameters at which the step's curvature is taken: of every run of an ensemble [c, D], else of the centre [1, D]."""
        if not self.ensemble:
            return self.state(step).theta[None]
        return torch.from_numpy(self.mixed.read_array(step, "theta")).to(self.problem.device)

    def weight(self, step: int) -> Tensor:
        """w_t [r, D], and the read-outs' slopes for step T; scratch."""
        return torch.from_numpy(self.swept.read_array(step, "weight")).to(self.problem.device)

    def injection(self, step: int) -> Tensor:
        """Sensitivities of the functionals to a gradient injected at a step [m, D]; scratch."""
        return torch.from_numpy(self.swept.read_array(step, "injection")).to(self.problem.device)

    def answer(self, step: int) -> Tensor:
        """Sensitivities of the read-outs to a gradient injected at a step [r, D], where the replay has curvature; scratch."""
        return torch.from_numpy(self.swept.read_array(step, "answer")).to(self.problem.device)

    def costate(self, step: int) -> State:
        """Sensitivities of the fine read-outs to the lifted state before step `step`, buffers [r, D]; scratch."""
        return costate_from(self.swept.read(step).arrays, self.problem.device)

    def around(self, step: int) -> StepStates:
        """The centre before and after a step, and the fine read-outs' costate after it, on all coordinates; scratch."""
        return StepStates(self.state(step), self.state(step + 1), self.costate(step + 1))

    @cached_property
    def bend(self) -> tuple[Tensor, Tensor]:
        """Of the functionals, values along the reference run's true displacement, and signs of their squares: [m], float64."""
        names = ("known", "signs")
        found = (self.sampled.read_array(0, name) if self.functionals else np.zeros(0) for name in names)
        known, signs = (torch.from_numpy(array).to(self.problem.device) for array in found)
        return known, signs

    @cached_property
    def own_bend(self) -> Tensor:
        """Of the functionals, values along the true displacements of an ensemble's own runs: [c, m], float64."""
        if not (self.ensemble and self.functionals):
            return torch.zeros(0, self.functionals, dtype=torch.float64)
        return torch.from_numpy(self.sampled.read_array(0, "own")).to(self.problem.device)

    @property
    def own_values(self) -> np.ndarray:
        """The first read-out at the ends of an ensemble's own runs [c], float64, which is the truth about their orders."""
        return self.sampled.read_array(0, "own_values")

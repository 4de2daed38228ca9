"""Where an expansion keeps what: scratch of whole size while it is built, the sample and terms for good; how each is read."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from estimators.errors import DivergenceError
from estimators.position_table import StepStates
from estimators.state import State
from fut.divergence import listed, named
from fut.errors import FutWarning, NotCachedError
from fut.methods.adjoint.config import in_memory
from fut.methods.adjoint.spec import AdjointSpec, Choice
from fut.methods.expansion import trajectory as trajectory_files
from fut.methods.expansion.segments import SegmentedFiles
from fut.methods.expansion.stored import Sampled
from fut.methods.expansion.trajectory import RunDivergedError, TrajectoryFiles
from fut.readouts.readout import UserFunction
from fut.training.checkpoints import unpack
from fut.training.problem import Problem
from fut.training.tensor_store import HeldTensors, TensorStore
from storage import CheckpointStore, TermStore

TRAJECTORY, SEGMENT = "trajectory", "segment"
COSTATE, CENTRE = "costate/", "centre/"
"""What names of the arrays of states begin with in the sweep's files."""
PARTS = (
    "sample",
    "few",
    "anchors",
    *(f"{place}/{part}" for place in (TRAJECTORY, "scratch", f"scratch/{SEGMENT}") for part in trajectory_files.PARTS),
    *(
        f"scratch/{part}"
        for part in ("anchors", "lowrank", "sweep", "costate", "pilots", "bounded", "simulated", "updates")
    ),
)
"""Directories of an expansion's checkpoint stores."""
FEW = "few"
"""Says, among the attributes of a sample, that few of its coordinates are to be drawn for the replay."""
MOST_LOST = 3
"""Orders that may diverge, for every one that trains and that the trajectory is made of."""


@dataclass(frozen=True)
class SweepFiles:
    """What the backward sweep writes; scratch. Of a sample that is drawn before it, on the k sampled coordinates in place of D.

    owner: the digest that every file holds. stores_of: makes a store of a directory and an owner: on disk, or in memory.
    """

    directory: Path
    problem: Problem
    owner: str
    stores_of: type[TensorStore] = TensorStore

    @cached_property
    def swept(self) -> TensorStore:
        """Weights w_t [r, D] of every step, and of the end, and costates of the exact read-outs."""
        return self.stores_of(self.directory / "sweep", self.owner)

    @cached_property
    def latest(self) -> TensorStore:
        """The whole costate of the latest step that is swept."""
        return self.stores_of(self.directory / "costate", self.owner)

    def weight(self, step: int) -> Tensor:
        """w_t [r, D], and the read-outs' slopes for step T."""
        return self._read(step, "weight")

    def injection(self, step: int) -> Tensor:
        """Sensitivities of the functionals to a gradient injected at a step [m, D]."""
        return self._read(step, "injection")

    def answer(self, step: int) -> Tensor:
        """Sensitivities of the read-outs to a gradient injected at a step [r, D], where the replay has curvature."""
        return self._read(step, "answer")

    def costate(self, step: int) -> State:
        """Sensitivities of the exact read-outs to the lifted state before step `step`, buffers [r, D]."""
        return costate_from(self.swept.get(step, self.problem.device)[0])

    def centre(self, step: int) -> State:
        """The trajectory's lifted state [k] before step `step`, of a sample that is drawn first."""
        tensors, attributes = self.swept.get(step, self.problem.device)
        return unpack(_named(tensors, CENTRE), attributes)

    def bound(self, step: int) -> Tensor:
        """What entries of the table of positions are held within [fine, k], float64, of a sample that is drawn first."""
        return self._read(step, "bound")

    def _read(self, step: int, name: str) -> Tensor:
        return self.swept.tensor(step, name, self.problem.device)


class Thinned(Sampled):
    """What a preparation left, with few of its coordinates, where these are enough to replay orders."""

    @cached_property
    def few(self) -> CheckpointStore:
        """At step 0, the few coordinates with which orders are replayed, and what is replayed on them."""
        return self.store("few")

    @property
    def awaits_few(self) -> bool:
        """Whether they are to be drawn yet; never of an expansion from before there were any."""
        return self.opened and bool(self.sampled.read_attributes(0).get(FEW)) and not self.few.has(0)

    def complete(self) -> bool:
        return super().complete() and not self.awaits_few


@dataclass(frozen=True)
class Expansion(Thinned):
    """One expansion in its directory.

    Args:
        directory: where it is, or will be.
        planned: what it is made of, as configured.
        start: the lifted state [D] that every order starts from.
        user: a user's own read-outs, by name.
        end: the reference run's parameters [D] after the last step, at which the functionals are known; needed to build them.
        origin: the expansion that its read-outs are added to; None for one that stands alone.
    """

    _scratch_stores: ClassVar[tuple[str, ...]] = (
        "trajectory",
        "sweep",
        "anchored",
        "pilots",
        "simulated",
        "updates",
        "ritz",
        "bounded",
    )
    directory: Path
    planned: AdjointSpec
    start: Callable[[], State]
    user: Mapping[str, UserFunction] = field(default_factory=dict)
    end: Callable[[], Tensor] | None = None
    origin: Expansion | None = None

    @property
    def problem(self) -> Problem:
        return self.planned.problem

    @property
    def identity(self) -> dict[str, Any]:
        """What the directory pins; the number of anchors as configured, which files are opened by before it is chosen."""
        return {"run": self.problem.identity, **self.planned.settings}

    @property
    def spec(self) -> AdjointSpec:
        """What it is made of, with the number of anchors that was chosen, once it is."""
        return self._chosen if not self.planned.config.num_anchors and self.chosen.has(0) else self.planned

    @cached_property
    def _chosen(self) -> AdjointSpec:
        found = self.chosen.read(0)
        errors = dict(zip(found.arrays["tried"].tolist(), found.arrays["error"].tolist(), strict=True))
        choice = Choice(found.arrays["anchors"].tolist(), errors, int(found.attributes["pilots"]))
        return replace(self.planned, choice=choice)

    @property
    def _stores_of(self) -> type[TensorStore]:
        """Makes a store of scratch: files, or memory."""
        return HeldTensors if in_memory(self.planned.config) else TensorStore

    def _scratch_store(self, name: str) -> TensorStore:
        """A store of scratch."""
        return self._stores_of(self.scratch / name, self.owner)

    @cached_property
    def trajectory(self) -> TrajectoryFiles:
        """What is expanded about: kept, or scratch; of added read-outs that of the expansion they are added to."""
        if self.origin is not None:
            found = self.origin.trajectory
            return replace(found, scratch=self.scratch / SEGMENT) if isinstance(found, SegmentedFiles) else found
        directory = self.directory / TRAJECTORY if self.planned.keeps else self.scratch
        spec, about = self.planned.trajectory, (self.start, self.owner, self.end, self._stores_of)
        if not spec.segment:
            return TrajectoryFiles(spec, directory, *about)
        return SegmentedFiles(spec, directory, *about, self.scratch / SEGMENT)

    @cached_property
    def lender(self) -> TermStore | None:
        """The terms that item gradients at the anchors are taken from; None where they are computed."""
        return self.origin.terms() if self.origin is not None and self.spec.lent else None

    @cached_property
    def sweep(self) -> SweepFiles:
        """Weights and costates; scratch."""
        return SweepFiles(self.scratch, self.problem, self.owner, self._stores_of)

    @cached_property
    def anchored(self) -> TensorStore:
        """Gradients [ITEM_BLOCK, D] of blocks of items at the anchors, and their norms; scratch."""
        return self._scratch_store("anchors")

    @cached_property
    def pilots(self) -> TensorStore:
        """Gradients [n, D] of a few items, by step, from which the number of anchors is chosen; scratch."""
        return self._scratch_store("pilots")

    @cached_property
    def simulated(self) -> TensorStore:
        """Lifted states [n, D] of simulated runs, a few at a time, where the trajectory is trained again; scratch."""
        return self._scratch_store("simulated")

    @cached_property
    def updates(self) -> TensorStore:
        """How far a step's gradients move coordinates apart, summed over steps [D], where the sample is drawn first; scratch."""
        return self._scratch_store("updates")

    @cached_property
    def ritz(self) -> TensorStore:
        """Ritz values [r] and vectors [r, D] of mean curvature at a few checkpoints of the trajectory; scratch."""
        return self._scratch_store("lowrank")

    @cached_property
    def bounded(self) -> TensorStore:
        """How the control variates of the exact read-outs take the table of positions: shares and bounds [fine, D]; scratch."""
        return self._scratch_store("bounded")

    @cached_property
    def chosen(self) -> CheckpointStore:
        """At step 0, the anchors where they are chosen, and what was found of each number that was tried."""
        return self.store("anchors")

    def around(self, step: int) -> StepStates:
        """The trajectory before and after a step, and the exact read-outs' costate after it, on all coordinates; scratch."""
        return StepStates(self.trajectory.state(step), self.trajectory.state(step + 1), self.sweep.costate(step + 1))

    @property
    def own_values(self) -> np.ndarray:
        """The first read-out at the ends of an ensemble's own runs [c], float64, which is the truth about their orders."""
        return self.sampled.read_array(0, "own_values")

    def table(self, name: str, rows: Sequence[int], expected: str) -> Tensor:
        """Rows of a term of every step [T, rows, items]; NotCachedError where blocks of it are missing. expected: what it is,
        and by whom it is expected, to people."""
        terms = self.terms()
        if missing := terms.missing([name]):
            raise NotCachedError(
                f"{expected}, got {len(missing)} blocks missing; run `fut cache` on {self.directory.parent}"
            )
        read = [torch.from_numpy(terms.read_items(name, step, rows)) for step in range(self.spec.steps)]
        return torch.stack(read).to(self.problem.device)

    def instead(self, error: DivergenceError) -> Expansion:
        """The same with another run in place of one that diverges, while at least a quarter of them trains."""
        about, config = self.planned.trajectory, self.planned.config
        if not isinstance(error, RunDivergedError) or self.origin is not None or self.settled:
            raise error
        lost = [*config.left_out, error.number]
        if len(lost) > MOST_LOST * config.num_runs:
            raise DivergenceError(
                f"cache: expected at least a quarter of the orders to train, got {listed([about.run(n) for n in lost])}, which "
                f"diverge; {error}"
            ) from error
        shutil.rmtree(self.directory)  # files of the trajectory alone, which are of the run that diverges too
        said = (
            f"cache: order {named(about.run(error.number))} diverges where it is trained for the adjoint's trajectory"
        )
        warnings.warn(f"{said}; another stands in its place", FutWarning, stacklevel=5)
        return replace(self, planned=replace(self.planned, config=config.model_copy(update={"left_out": lost})))

    @property
    def _on_disk(self) -> bool:  # type: ignore[override]
        """Whether no scratch is in memory, and no segment of the trajectory is trained again for whoever asks for it."""
        return not in_memory(self.planned.config) and not self.planned.trajectory.segment

    @property
    def settled(self) -> bool:
        """Whether coordinates are drawn, and anchors chosen."""
        return self.opened and (bool(self.planned.config.num_anchors) or self.chosen.has(0))

    @property
    def readable(self) -> bool:
        return self.settled and TermStore.created(self.terms_path)


def costate_from(tensors: Mapping[str, Tensor]) -> State:
    """Sensitivities to the lifted state, as the sweep wrote them."""
    return unpack(_named(tensors, COSTATE), {})


def _named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, without that."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

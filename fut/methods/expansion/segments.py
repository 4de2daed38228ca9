"""A trajectory of which the runs are stored every few steps alone, and trained again in between when they are asked for.

Real training is repeatable bit for bit, so that nothing depends on what is stored. With snapshots every L = ceil(sqrt(T)) steps
what lies on disk grows as sqrt(T), and one backward pass over the window costs one more training of the trajectory's runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from estimators.state import State
from fut.methods.expansion.trajectory import Follower, Taken, TrajectoryFiles, mean_of, trained
from fut.training.checkpoints import read_state, save
from fut.training.tensor_store import TensorStore


@dataclass(frozen=True)
class SegmentedFiles(TrajectoryFiles):
    """The stores of a trajectory that is trained again, a segment of steps at a time.

    Args:
        scratch: where the segment that was asked for last is held.
    """

    scratch: Path = Path()

    @cached_property
    def centre(self) -> TensorStore:
        """Its lifted states within the segment at hand."""
        return self.stores_of(self.scratch / "centre", self.owner)

    @cached_property
    def mixed(self) -> TensorStore:
        """Gradients [c, D] of the segment at hand; of an ensemble also the parameters [c, D] at which they are taken."""
        return self.stores_of(self.scratch / "gradients", self.owner)

    @cached_property
    def snapshots(self) -> TensorStore:
        """Lifted states of an ensemble's runs [c, D], or of the trajectory [1, D], at the ends of segments."""
        return self.stores_of(self.directory / "snapshots", self.owner, seldom=True)

    @cached_property
    def pins(self) -> TensorStore:
        """The lifted states [D] before pinned steps."""
        return self.stores_of(self.directory / "pinned", self.owner)

    @property
    def stores(self) -> tuple[TensorStore, ...]:
        return (self.snapshots, self.pins, self.centre, self.mixed)

    @property
    def reached(self) -> int:
        """Steps that are taken, in whole segments."""
        return max(self.snapshots.steps(), default=0)

    @property
    def segments(self) -> list[range]:
        width, steps = self.spec.segment, self.spec.steps
        return [range(first, min(first + width, steps)) for first in range(0, steps, width)]

    def run(self, steps: Sequence[int], follow: Follower | None = None) -> Iterator[None]:
        for segment in self.segments:
            if segment.start < steps[0]:
                continue
            for taken in self._train(segment, first=True):
                if taken.step + 1 == segment.stop:
                    if follow is not None:
                        follow(segment)
                    save(self.snapshots, segment.stop, taken.after)
                yield

    def state(self, step: int) -> State:
        if step == 0:
            return self.start()
        if self.snapshots.has(step):
            return mean_of(self.spec, read_state(self.snapshots, step, self.spec.problem.device))
        if self.pins.has(step):
            return read_state(self.pins, step, self.spec.problem.device)
        self._require(step)
        return super().state(step)

    def parameters(self, step: int) -> Tensor:
        return self.state(step).theta

    def gradients_of(self, step: int) -> Tensor:
        self._require(step)
        return super().gradients_of(step)

    def places(self, step: int) -> Tensor:
        self._require(step)
        return super().places(step)

    def ends(self) -> State:
        return read_state(self.snapshots, self.spec.steps, self.spec.problem.device)

    def _require(self, step: int) -> None:
        """Have the segment of a step at hand: train it again, unless it is whole."""
        segment = self.segments[step // self.spec.segment]
        if not all(self.mixed.has(t) for t in segment) or not all(self.centre.has(t) for t in segment[1:]):
            for _ in self._train(segment):
                pass

    def _train(self, segment: range, first: bool = False) -> Iterator[Taken]:
        """Put a segment in the place of the one at hand. first: for the first time, when pinned states are kept."""
        for store in (self.mixed, self.centre):
            store.clear()
        for taken in trained(self.spec, self._begun(segment.start), segment, self.reach):
            if (step := taken.step + 1) < segment.stop:
                after = mean_of(self.spec, taken.after)
                save(self.centre, step, after)
                if first and step in self.spec.pinned:
                    save(self.pins, step, after)
            self.mixed.put(taken.step, taken.tensors())
            yield taken

    def _begun(self, step: int) -> State:
        if step:
            return read_state(self.snapshots, step, self.spec.problem.device)
        return self.start().rows(self.spec.count if self.spec.ensemble else 1)

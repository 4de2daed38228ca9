"""What an expansion trajectory is averaged from, and how large it is: no file, no directory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, ClassVar

from estimators.orders.order import Order
from estimators.rules.sizes import state_vectors
from estimators.trajectory import balanced_groups, ensemble_orders, standing_in
from fut.methods.footprint import TEMPORARIES, Footprint
from fut.methods.stages import bytes_of
from fut.readouts.readout import readout_names
from fut.training.problem import Problem
from storage import TermSpec

ITEM_BLOCK = 8
"""Items, or rows, of a block of a term, and of a file of item gradients."""
ALL_UP_TO = 1 << 17
"""Parameters of a model of which all coordinates are kept, where nothing else is configured."""
APART = 1 << 62
"""Added to the expansion's seed for the trajectory's orders: not that of random orders, some of which would be among them."""


@dataclass(frozen=True)
class Spec:
    """What is made of a problem, on disk or planned. problem: what is trained."""

    problem: Problem

    @property
    def steps(self) -> int:
        """T, steps of the window."""
        return self.problem.config.steps

    @property
    def state_vectors(self) -> int:
        """Vectors [D] of a lifted state."""
        return state_vectors(self.problem.rule, self.problem.objective.layout)

    @property
    def width(self) -> int:
        """Bytes of one number."""
        return self.problem.objective.dtype.itemsize

    @property
    def vector_bytes(self) -> int:
        """Bytes of one vector [D]."""
        return self.problem.objective.size * self.width


@dataclass(frozen=True)
class SweptSpec(Spec, ABC):
    """What has a backward pass, and keeps a sample of coordinates. config: how it is made."""

    config: Any
    sampled: ClassVar[int]  # coordinates of a large model that are kept, where nothing else is configured

    @cached_property
    def names(self) -> list[str]:
        """The read-outs, in the order of the terms' rows."""
        return readout_names(self.config.readouts, self.problem.config.data.items)

    @property
    def expected_coordinates(self) -> int:
        """How many coordinates are kept, in expectation: as configured; by default (0) all of a small model."""
        size = self.problem.objective.size
        return min(size, self.config.coordinates or (size if size <= ALL_UP_TO else self.sampled))

    @property
    def whole(self) -> bool:
        """Whether all coordinates are kept."""
        return self.expected_coordinates >= self.problem.objective.size

    @abstractmethod
    def term_specs(self, k: int) -> list[TermSpec]:
        """The terms, of k coordinates."""

    def kept_bytes(self, names: Sequence[str] | None = None) -> int:
        """Bytes of the named terms, before compression; of all for None."""
        return bytes_of(self.term_specs(self.expected_coordinates), names)


@dataclass(frozen=True)
class Trajectory(Spec):
    """A trajectory to expand about: the mean of runs under a few orders, or one that averages transitions in every step.

    Args:
        ensemble: whether it is the mean of runs, and curvature is averaged over where they stand.
        count: how many runs, or transitions in every step.
        seed: of the expansion; the orders are drawn apart from it.
        segment: steps between stored runs, in which these are trained again when they are asked for; 0 to store every step.
        pinned: steps before which the lifted state is stored even so.
        left_out: numbers of an ensemble's runs in whose place others stand, those of number `count` and further.
    """

    ensemble: bool
    count: int
    seed: int
    segment: int = 0
    pinned: frozenset[int] = frozenset()
    left_out: tuple[int, ...] = ()

    @cached_property
    def members(self) -> list[Order]:
        """The orders of an ensemble's runs."""
        return [self.run(number) for number in self.numbers]

    @cached_property
    def numbers(self) -> list[int]:
        """The number of each of an ensemble's runs, as they are drawn."""
        further = (number for number in count(self.count) if number not in self.left_out)
        return [next(further) if number in self.left_out else number for number in range(self.count)]

    def run(self, number: int) -> Order:
        """The order of the run of a number, whether it is one of the ensemble's or left out."""
        reference, seed = self.problem.reference, self.seed + APART
        return self._design[number] if number < self.count else standing_in(reference, seed, number)

    @cached_property
    def _design(self) -> list[Order]:
        return ensemble_orders(self.problem.reference, self.count, self.seed + APART)

    @cached_property
    def groups(self) -> list[tuple[int, ...]]:
        """What is averaged over, step after step: `count` groups each, of as many items as a step consumes."""
        if self.ensemble:
            return [member.steps[step] for step in range(self.steps) for member in self.members]
        size = self.problem.config.data.per_step
        drawn = balanced_groups(self.problem.reference, self.count, size, self.seed + APART)
        return [group for step in drawn for group in step]

    @cached_property
    def mixture(self) -> Order:
        """The numbers of every step's groups; to the trajectory and the sweep, groups are the items."""
        count = self.count
        return Order.of(range(step * count, (step + 1) * count) for step in range(self.steps))

    @property
    def places_count(self) -> int:
        """How many parameters a step's pooled batch is divided among: those of every run of an ensemble, else one."""
        return self.count if self.ensemble else 1

    @property
    def gradients(self) -> int:
        """Gradients of items that it takes."""
        return self.problem.config.consumed * self.count

    @property
    def scratch_bytes(self) -> int:
        """Bytes of scratch, or kept: lifted states, gradients, and where an ensemble's runs stand; of every step, or of a
        segment of them beside the runs at the ends of segments."""
        state, steps = self.state_vectors, self.steps
        if self.segment:
            of_runs = (self.count if self.ensemble else 1) * state
            ends = -(-steps // self.segment)
            return self.segment_bytes + (ends * of_runs + len(self.pinned) * state) * self.vector_bytes
        runs = self.count * (steps + 2 * state) if self.ensemble else 0
        return ((state + self.count) * (steps + 1) + runs) * self.vector_bytes

    @property
    def segment_bytes(self) -> int:
        """Bytes of the segment at hand, of a trajectory that is trained again: never kept."""
        gradients = self.count * (2 if self.ensemble else 1)
        return min(self.segment, self.steps) * (self.state_vectors + gradients) * self.vector_bytes

    def again(self, passes: float) -> int:
        """Gradients of items that so many passes over the window take once more, of a trajectory that is trained again."""
        return round(passes * self.gradients) if self.segment else 0

    @property
    def once_back(self) -> int:
        """Those of one pass backwards, which begins in the segment that is at hand."""
        last = self.steps - (self.steps - 1) // self.segment * self.segment if self.segment else 0
        return self.again(1 - last / self.steps)

    def memory(self, f: Footprint) -> int:
        """Bytes that it is planned with."""
        return f.planned(f.resident + self.tensors(f))

    def tensors(self, f: Footprint) -> int:
        """Bytes of tensors at its height beside the problem: for each item of the mixture its gradient and the state after it;
        then their means, and a stack. Of an ensemble the states of all runs, around a step, and their gradients, stacked."""
        if self.ensemble:
            held = self.count * (2 * f.state + 2) * f.vector
            step = (self.count * (f.state + 2 + TEMPORARIES) + f.state) * f.vector
        else:
            held = (2 * f.state + self.count * (f.state + 1)) * f.vector
            step = (2 * self.count + f.state + 2 + TEMPORARIES) * f.vector
        return held + max(f.gradient, step)

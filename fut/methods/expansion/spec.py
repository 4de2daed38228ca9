"""What an expansion trajectory is averaged from, and how large it is: no file, no directory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from estimators.orders.order import Order
from estimators.rules.base import state_vectors as vectors_of_state
from estimators.trajectory import balanced_groups, ensemble_orders
from fut.methods.footprint import TEMPORARIES, Footprint
from fut.training.problem import Problem

ITEM_BLOCK = 8
"""Items, or rows, of a block of a term, and of a file of item gradients."""
APART = 1 << 62
"""Added to the expansion's seed for the trajectory's orders: not that of random orders, some of which would be among them."""


@dataclass(frozen=True)
class Trajectory:
    """A trajectory to expand about: the mean of runs under a few orders, or one that averages transitions in every step.

    Args:
        problem: what is trained.
        ensemble: whether it is the mean of runs, and curvature is averaged over where they stand.
        count: how many runs, or transitions in every step.
        seed: of the expansion; the orders are drawn apart from it.
    """

    problem: Problem
    ensemble: bool
    count: int
    seed: int

    @property
    def steps(self) -> int:
        """T, steps of the window."""
        return self.problem.config.steps

    @cached_property
    def members(self) -> list[Order]:
        """The orders of an ensemble's runs."""
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
        """Bytes of scratch: its lifted states, its groups' gradients, and where an ensemble's runs stand."""
        state, steps = state_vectors(self.problem), self.steps
        runs = self.count * (steps + 2 * state) if self.ensemble else 0
        return ((state + self.count) * (steps + 1) + runs) * vector_bytes(self.problem)

    def memory(self, f: Footprint) -> int:
        """At its height: for each item of the mixture its gradient and the state after it; then their means, and a stack. Of an
        ensemble the states of all runs, before and after a step, and their gradients, stacked."""
        if self.ensemble:
            held = f.resident + self.count * (2 * f.state + 2) * f.vector
            step = (self.count * (f.state + 2 + TEMPORARIES) + f.state) * f.vector
        else:
            held = f.resident + (2 * f.state + self.count * (f.state + 1)) * f.vector
            step = (2 * self.count + f.state + 2 + TEMPORARIES) * f.vector
        return f.planned(held + max(f.gradient, step))


def state_vectors(problem: Problem) -> int:
    """Vectors [D] of a lifted state."""
    return vectors_of_state(problem.rule, problem.objective.layout)


def vector_bytes(problem: Problem) -> int:
    """Bytes of one vector [D]."""
    start = problem.objective.start()
    return start.numel() * start.element_size()

"""Which terms a run's store holds, what each costs, and how they are read back as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from estimators.sketch import Sketch
from fut.methods.pairwise.config import CacheConfig
from fut.methods.stages import bytes_of
from fut.training.problem import Problem
from storage import TermSpec, TermStore

COST = {"gradient": 1, "norm": 1, "update": 1, "jvp": 2, "second": 2}
"""Gradients per (checkpoint, item) pair; gradient, norm and update share theirs."""


NEEDS = {
    "replay": ("gradient", "norm"),
    "taylor1": ("update", "jvp"),
    "taylor2": ("update", "jvp", "second"),
}
"""Terms that each method streams."""


@dataclass(frozen=True)
class TermLayout:
    """The terms of one cache configuration, for a problem of D parameters, T steps and n items.

    gradient: g_i(theta_t), all coordinates or a sample of them. norm: their global norms.
    update: sketched displacement u_{t,i} that item i would cause at checkpoint t. jvp: sketched Jacobian of the
    reference step's update along u_{t,i}. second: sketched second difference of that update over ± u_{t,i}.
    """

    config: CacheConfig
    dimension: int
    steps: int
    items: int
    dtype: str

    @classmethod
    def of(cls, problem: Problem, config: CacheConfig) -> TermLayout:
        dtype = problem.config.model.dtype
        return cls(config, problem.objective.size, problem.config.steps, problem.config.data.items, dtype)

    @cached_property
    def sketch(self) -> Sketch:
        """The sketch P of update terms and products; of a model with fewer numbers than it would have, all of them."""
        c = self.config
        if c.sketch == "identity" or c.size > self.dimension:
            return Sketch("identity", c.seed, self.dimension, self.dimension)
        return Sketch(c.sketch, c.seed, self.dimension, c.size)

    @cached_property
    def sample(self) -> Sketch:
        """The coordinates kept of item gradients."""
        kept = self.config.coordinates or self.dimension
        if kept >= self.dimension:
            return Sketch("identity", 0, self.dimension, self.dimension)
        return Sketch("coordinates", self.config.seed, self.dimension, kept)

    def kept(self, gradients: Tensor) -> Tensor:
        """The coordinates of gradients [..., D] that are stored."""
        return gradients if self.sample.kind == "identity" else self.sample.restrict(gradients)

    @property
    def names(self) -> list[str]:
        """Every term of this configuration, in the order of their computation."""
        return ["gradient", "norm", "update"] + (["jvp", "second"] if self.config.derivative == "jvp" else [])

    def specs(self) -> list[TermSpec]:
        sizes = {"gradient": self.sample.size, "norm": 1}
        return [
            TermSpec(name, (self.steps, self.items, sizes.get(name, self.sketch.size)), self.dtype)
            for name in self.names
        ]

    def gradients(self, names: Sequence[str]) -> int:
        """Gradient evaluations that computing the named terms for every pair costs (a product counts two)."""
        per_pair = max((COST[n] for n in names if COST[n] == 1), default=0)
        per_pair += sum(COST[n] for n in names if COST[n] > 1)
        if per_pair and not any(COST[n] == 1 for n in names):
            per_pair += 1  # a product's direction is the item's update, which needs its gradient
        return per_pair * self.steps * self.items

    def nbytes(self, names: Sequence[str]) -> int:
        """Bytes before compression of the named terms."""
        return bytes_of(self.specs(), names)


def needs(layout: TermLayout, name: str) -> tuple[str, ...]:
    """The terms that a method streams, under a configuration."""
    return tuple(term for term in NEEDS[name] if term in layout.names)


class TermTables:
    """Terms as tensors, a checkpoint at a time: the callables that the estimators take.

    Each checkpoint's table [items, k] is read when it is first asked for; the last few stay in memory.
    """

    def __init__(self, terms: TermStore, device: torch.device) -> None:
        def reader(name: str) -> Callable[[int], Tensor]:
            return lru_cache(maxsize=3)(lambda step: torch.from_numpy(terms.read(name, step)).to(device))

        self._readers = {spec.name: reader(spec.name) for spec in terms.specs}

    def __getitem__(self, name: str) -> Callable[[int], Tensor]:
        return self._readers[name]

"""What the low-rank method's terms are made of, and how large: no file, no directory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from estimators.adjoint import spread_anchors
from estimators.lowrank import curvature_anchors, refresh_steps
from fut.methods.expansion.spec import Spec, Trajectory
from fut.methods.expansion.stored import About
from fut.methods.lowrank.config import LowRankConfig
from fut.methods.stages import bytes_of
from storage import TermSpec

ANCHORS = 3
"""Anchors where the adjoint's are chosen by a sweep, which there is none of here."""


@dataclass(frozen=True)
class LowRankSpec(Spec):
    """Problem and configuration of low-rank terms, on disk or planned.

    Args:
        config: their settings.
        about: the trajectory, and its anchors.
    """

    config: LowRankConfig
    about: About

    @property
    def size(self) -> int:
        """D, number of parameters."""
        return self.problem.objective.size

    @property
    def rank(self) -> int:
        """Ritz pairs at every curvature anchor."""
        return min(self.config.rank, self.size)

    @cached_property
    def trajectory(self) -> Trajectory:
        """What is expanded about: always of mixtures."""
        return Trajectory(self.problem, False, self.about.runs, self.about.seed)

    @property
    def anchors(self) -> list[int]:
        """Steps at which item gradients are taken, evenly over steps."""
        return spread_anchors(self.steps, self.about.anchors or ANCHORS, None)

    @cached_property
    def curvature_anchors(self) -> list[int]:
        """Checkpoints of the trajectory at which low-rank curvature is taken."""
        return curvature_anchors(self.steps, self.config.num_anchors)

    @cached_property
    def refreshed(self) -> list[int]:
        """The configured refresh steps."""
        return refresh_steps(self.steps, self.config.refresh)

    @property
    def pooled(self) -> int:
        """Items' worth of a batch drawn from all items."""
        return self.config.pool * self.problem.config.data.per_step

    def query_gradients(self, every: int | None = None) -> int:
        """Gradient evaluations of items per order of full length; every: another number of steps between refreshes."""
        refreshed = self.refreshed if every is None else refresh_steps(self.steps, every)
        return len(refreshed) * self.pooled

    def term_specs(self) -> list[TermSpec]:
        """centre [T+1, 1, D], gradient [A, items, D], lowrank [n, r, D] (rows of L^T), eigenvalue [n, 1, r] float64 and,
        where there are any, refresh [refreshes, 1, D]: mean gradients of the drawn batches at the trajectory."""
        dtype, size, n = self.problem.config.model.dtype, self.size, len(self.curvature_anchors)
        large = dtype if self.config.dtype == "model" else self.config.dtype
        specs = [
            TermSpec("centre", (self.steps + 1, 1, size), dtype),
            TermSpec("gradient", (len(self.anchors), self.problem.config.data.items, size), large),
            TermSpec("lowrank", (n, self.rank, size), large),
            TermSpec("eigenvalue", (n, 1, self.rank), "float64"),
        ]
        return specs + ([TermSpec("refresh", (len(self.refreshed), 1, size), dtype)] if self.refreshed else [])

    def kept_bytes(self, *names: str) -> int:
        """Bytes of the named terms, before compression; of all where none is named."""
        return bytes_of(self.term_specs(), names or None)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the terms' numbers beside the run."""
        return {"lowrank": self.config.model_dump(mode="json"), "adjoint": self.about.identity}

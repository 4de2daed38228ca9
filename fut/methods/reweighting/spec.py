"""What the expansion about the reference run is made of, and how large: no file, no directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fut.methods.expansion.spec import SweptSpec
from fut.methods.reweighting.config import ReweightingConfig
from fut.readouts.readout import gradient_cost
from storage import TermSpec

HELD_ITEMS = 1 << 32
"""Bytes of item gradients of a step up to which they are held in memory together; beyond it they are taken in chunks, twice."""


@dataclass(frozen=True)
class ReweightingSpec(SweptSpec):
    """Problem and configuration of one expansion about the reference run, on disk or planned."""

    config: ReweightingConfig
    sampled: ClassVar[int] = 1 << 15

    @property
    def per_step(self) -> int:
        """n, items of a step."""
        return self.problem.config.data.per_step

    @property
    def chunked(self) -> bool:
        """Whether a step's item gradients are too large to be held together."""
        return self.per_step * self.vector_bytes > HELD_ITEMS

    @property
    def sweep_gradients(self) -> int:
        """Gradient evaluations of items in the sweep (a Hessian-vector product counts two), read-outs included."""
        passes = 1 + self.chunked + 2 * len(self.names)
        return self.problem.config.consumed * passes + sum(gradient_cost(n, self.problem) for n in self.names)

    @property
    def scratch_bytes(self) -> int:
        """Bytes of scratch while it is built."""
        rows = (2 * self.steps + 1 + 2 * (self.state_vectors + 1)) * len(self.names)
        return rows * self.vector_bytes

    def term_specs(self, k: int) -> list[TermSpec]:
        """The terms of k coordinates: weight T is the read-outs' slopes; values and Gram matrices in double precision, as they
        are few."""
        n, r, steps = self.per_step, len(self.names), self.steps
        dtype = self.problem.config.model.dtype
        shapes = {"gradient": (steps, n, k), "weight": (steps + 1, r, k), "injection": (steps, r, k)}
        small = {"value": (steps, r, n), "gram": (steps, n, n)}
        return [TermSpec(name, shape, dtype) for name, shape in shapes.items()] + [
            TermSpec(name, shape, "float64") for name, shape in small.items()
        ]

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its numbers beside the run."""
        return {"reweighting": self.config.model_dump(mode="json", exclude={"readouts"}), "readouts": self.names}

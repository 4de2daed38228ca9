"""The lifted state: parameters and all optimizer memory, as one value."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class State(NamedTuple):
    """Lifted state of one run, or of n runs stacked along a leading axis.

    theta: parameters [..., D].
    memory: optimizer buffers by name, each [..., D] (AdamW: m, v).
    clock: counters that do not depend on the order of the data, as Python floats in double precision
        (`step`, running products of the betas), so that bias correction does not round with theta's dtype.
    """

    theta: Tensor
    memory: dict[str, Tensor]
    clock: dict[str, float]

    def rows(self, n: int) -> State:
        """The same state for n runs: every buffer [D] becomes [n, D], each row its own copy."""
        return State(
            self.theta.expand(n, -1).clone(),
            {k: b.expand(n, -1).clone() for k, b in self.memory.items()},
            dict(self.clock),
        )

    def row(self, i: int) -> State:
        """Run i of a stacked state."""
        return State(self.theta[i], {k: b[i] for k, b in self.memory.items()}, dict(self.clock))

    def restrict(self, indices: Tensor) -> State:
        """The state on a subset of coordinates (rules that act element by element commute with this)."""
        return State(self.theta[..., indices], {k: b[..., indices] for k, b in self.memory.items()}, dict(self.clock))

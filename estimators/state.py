"""The lifted state: parameters and all optimizer memory, as one value."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from .errors import RuleError
from .parameters import Coordinates


class State(NamedTuple):
    """Lifted state of one run, or of n runs stacked along a leading axis.

    theta: parameters [..., D].
    memory: optimizer buffers by name, each [..., D] (AdamW: m, v), or of as many numbers as the rule keeps there.
    clock: counters that do not depend on the order of the data, as Python floats in double precision
        (`step`, running products of the betas), so that bias correction does not round with theta's dtype.
    """

    theta: Tensor
    memory: dict[str, Tensor]
    clock: dict[str, float]

    def rows(self, n: int) -> State:
        """The same state for n runs: every buffer [D] becomes [n, D], each row its own copy."""
        return self.map(lambda buffer: buffer.expand(n, -1).clone())

    def row(self, i: int) -> State:
        """Run i of a stacked state."""
        return self.map(lambda buffer: buffer[i])

    def restrict(self, coordinates: Coordinates) -> State:
        """The state on some coordinates, for `rule.restrict(coordinates)`; RuleError for memory that is not by coordinate."""
        size = self.theta.shape[-1]
        if odd := [name for name, buffer in self.memory.items() if buffer.shape[-1] != size]:
            raise RuleError(
                f"state: expected memory of {size} numbers, one for each coordinate, got {self.memory[odd[0]].shape[-1]} in "
                f"`{odd[0]}`; use --estimator replay-exact or retrain, which never cut a state"
            )
        return self.map(lambda buffer: buffer[..., coordinates])

    def map(self, change: Callable[[Tensor], Tensor]) -> State:
        """The state with theta and every buffer of the memory changed in one way."""
        return State(change(self.theta), {k: change(b) for k, b in self.memory.items()}, dict(self.clock))

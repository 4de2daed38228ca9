"""`probe`: the mean loss on the probe set."""

from __future__ import annotations

from collections.abc import Mapping

from fut.display.scale import LOSS
from fut.readouts.base import PROBE, Readout, ReadoutKind, UserFunction
from fut.training.problem import Problem, unit_of_loss


class Probe(ReadoutKind):
    """The mean loss on the probe set [nats/token]."""

    form, unit, reserved = PROBE, LOSS, (PROBE,)

    def matches(self, spec: str) -> bool:
        """`probe` alone."""
        return spec == PROBE

    def make(self, problem: Problem, name: str, user: Mapping[str, UserFunction]) -> Readout:
        """The loss and its gradient, in chunks of the probe set."""
        return Readout(name, unit_of_loss(problem), problem.probe_loss, problem.probe_gradient)

    def gradient_cost(self, problem: Problem) -> int:
        """One for every chunk of the probe set."""
        return len(problem.data.probe)

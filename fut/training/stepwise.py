"""Gradients whose items draw the random numbers of the step that they stand in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from estimators.replay import GradientsAndNorms, Picks
from estimators.rules.signals import SignalName, Signals
from fut.training.problem import Problem


class SignalGradients(Protocol):
    """`Gradients` that are `ItemSignals` too."""

    def __call__(self, step: int, picks: Picks, theta: Tensor) -> GradientsAndNorms: ...
    def signals(
        self, step: int, picks: Picks, theta: Tensor, needed: frozenset[SignalName]
    ) -> tuple[Tensor, Signals]: ...


@dataclass(frozen=True)
class Stepwise:
    """Gradients of a problem whose items draw the random numbers of the step that they stand in.

    problem: whose gradients they are. make: of the problem at a step.
    """

    problem: Problem
    make: Callable[[Problem], SignalGradients]

    def __call__(self, step: int, picks: Picks, theta: Tensor) -> GradientsAndNorms:
        return self.make(self.problem.at(step))(step, picks, theta)

    def signals(self, step: int, picks: Picks, theta: Tensor, needed: frozenset[SignalName]) -> tuple[Tensor, Signals]:
        """As `ItemSignals`."""
        return self.make(self.problem.at(step)).signals(step, picks, theta, needed)

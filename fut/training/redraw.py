"""What another draw of a training's random numbers changes: the reference order, trained again with other ones."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from estimators.state import State
from fut.errors import UsageError
from fut.training.problem import Problem
from fut.training.trainer import train_order


@dataclass(frozen=True)
class Redrawn:
    """A read-out at the end of the reference order, by the draw of the random numbers of forward passes.

    reference: with the run's own [unit]. values: with others. unit: of the read-out.
    """

    reference: float
    values: tuple[float, ...]
    unit: str

    @property
    def sd(self) -> float:
        """Standard deviation over draws, the run's own among them."""
        return statistics.stdev([self.reference, *self.values])

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"sd": self.sd}


def redrawn(
    problem: Problem, start: State, draws: Sequence[int], value: Callable[[Tensor], float], tick: Callable[[], object]
) -> list[float]:
    """A read-out of each draw.

    Args:
        problem: whose reference order is trained.
        start: the lifted state [D] before the window.
        draws: numbers of 1 or more.
        value: of the parameters [D] at the end.
        tick: hears of every step.

    Raises:
        UsageError: for a model that draws no random numbers.
    """
    if not problem.objective.stochastic:
        raise UsageError("redraw: expected a model that draws random numbers in training mode, got one that draws none")
    trained = (
        train_order(replace(problem, _draw=d), start, problem.reference, lambda step, state: tick()) for d in draws
    )
    return [value(end.theta) for end in trained]

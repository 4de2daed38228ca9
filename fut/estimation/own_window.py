"""The last steps of a run on its own model in a precision of choice: what the exponents of the order's noise are taken of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from estimators.replay import GradientsAndNorms, Picks
from fut.data.dataset import Dataset
from fut.errors import ModelError, UsageError
from fut.models.objective import Item, Objective
from fut.resources.memory import require_memory
from fut.training.curvature import true_gradients
from fut.training.problem import Problem
from fut.training.stepwise import Stepwise
from fut.training.weights import item_weights

if TYPE_CHECKING:
    from fut.methods.context import Context

HISTORY, STATES = 32, 8
"""Steps before the window whose gradients fill a rule's memory at most; numbers of a parameter that a replayed order takes."""
SEEN = 1e-8
"""Share of a loss by which a small step changes it, to see whether the model computes in double precision throughout."""
REFUSED = (
    "noise slopes: expected a model that computes in float64, in which alone small rates can be told from rounding, got"
)


@dataclass(frozen=True)
class ModelWindow:
    """The window of a run, trained from any parameters.

    Args:
        problem: the run's, in the precision that is asked.
        entries: items of every step.
        history: gradients [D] that fill a rule's memory, and the parameters before the window, last.
        about: the model, in words.
    """

    problem: Problem
    entries: Sequence[Sequence[int]]
    history: Sequence[Tensor]
    about: str

    def gradients(self, step: int, picks: Picks, theta: Tensor) -> GradientsAndNorms:
        """Of what n runs consume, each at its own parameters [n, D]."""
        first = self.problem.config.steps - len(self.entries)
        return Stepwise(self.problem, true_gradients)(first + step, picks, theta)

    def probe_loss(self, theta: Tensor) -> Tensor:
        """Of n parameters [n, D]: [n]."""
        return torch.tensor([self.problem.probe_loss(row) for row in theta], dtype=torch.float64)


def own_window(run: Context, steps: int, precision: str, permutations: int) -> ModelWindow:
    """The last steps of a run.

    A rule's memory is filled by gradients of the steps before them, at the run's own parameters there; where the window is the
    whole run, by those of its own steps at the parameters before it.

    Args:
        run: the opened run.
        steps: of the window.
        precision: `float64` or `float32`.
        permutations: orders that are replayed at once.

    Raises:
        UsageError: for more steps than the run has, items of unequal weight, or a model that does not compute in float64.
        ResourceError: where so many orders do not fit into memory.
    """
    if steps > run.steps:
        raise UsageError(f"noise slopes: expected at most {run.steps} steps, got {steps}; the run has no more")
    if item_weights(run.config):
        raise UsageError(
            "noise slopes: expected items of equal weight, got data.weights; leave RUN out for a small network"
        )
    dtype = getattr(torch, precision)
    needed = (HISTORY + STATES * permutations) * run.parameters * torch.finfo(dtype).bits // 8
    require_memory("noise slopes", needed, run.problem.device, "take fewer orders (--permutations)")
    first = run.steps - steps
    problem = in_precision(run.problem, dtype)
    theta = run.state(first).theta.to(dtype)
    if dtype == torch.float64:
        require_double(problem, theta)
    entries = [list(step) for step in run.reference.steps]
    before = range(max(0, first - HISTORY), first)
    places = [(step, run.state(step).theta.to(dtype), entries[step]) for step in before]
    own = [(step, theta, items) for step, items in enumerate(entries)]
    filled = [_gradient(problem.at(step), at, items) for step, at, items in places or own]
    about = f"the run's model, {run.parameters:,} parameters"
    return ModelWindow(problem, entries[first:], [*filled, theta], about)


def in_precision(problem: Problem, dtype: torch.dtype) -> Problem:
    """The same problem whose parameters and floating data are of a type; ModelError where the model cannot be.

    In double precision there is no autocast.
    """

    def cast(part: Sequence[Item]) -> list[Item]:
        return [tuple(t.to(dtype) if t.is_floating_point() else t for t in item) for item in part]

    data = Dataset(cast(problem.data.items), cast(problem.data.probe), (), names=problem.data.names)
    config = problem.config.model_copy(
        update={"model": problem.config.model.model_copy(update={"dtype": str(dtype).removeprefix("torch.")})}
    )
    call: Any = problem.objective.call
    autocast = None if dtype == torch.float64 else problem.objective.autocast
    objective = Objective(call.module, call.loss, problem.device, dtype, call.recorded, autocast)
    return replace(problem, config=config, data=data, objective=objective, state=None)


def require_double(problem: Problem, theta: Tensor) -> None:
    """UsageError, by the place where it fails, for a model that does not compute in double precision throughout.

    A step along the gradient that changes a loss by a share of 1e-8 must change it by that: single precision does not see it.
    """
    try:
        problem = problem.at(0)
        gradient, loss = problem.gradient_and_loss(theta, 0)
        size = float(gradient.norm())
        step = SEEN * max(abs(loss), 1e-3) / size if size > 0 else 0.0
        ends = [problem.gradient_and_loss(theta + sign * step * gradient / max(size, 1e-300), 0)[1] for sign in (1, -1)]
    except ModelError as error:
        raise UsageError(f"{REFUSED} one that fails there: {error}") from error
    if gradient.dtype != torch.float64 or abs(ends[0] - ends[1] - 2 * step * size) > 0.01 * 2 * step * size:
        name = type(problem.objective.module).__name__
        raise UsageError(f"{REFUSED} {name}, which rounds to less within; leave RUN out for a small network")


def _gradient(problem: Problem, theta: Tensor, items: Sequence[int]) -> Tensor:
    if len(items) == 1:
        return problem.gradient(theta, items[0])
    return problem.mean_gradient(theta, items, [1.0 / len(items)] * len(items))

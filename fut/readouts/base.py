"""What a read-out is, and what kinds of them are made of: one file each beside this one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from estimators.orders.order import Order
from fut.errors import ModelError
from fut.models import autodiff as derivatives
from fut.models.objective import Item
from fut.training.fidelity import TOLERANCE
from fut.training.problem import Problem, unit_of_loss

PROBE = "probe"
"""The read-out that is asked for where none is named."""

UserFunction = Callable[[nn.Module], Tensor]
"""A user's read-out: the module with the parameters in question -> a tensor holding one number."""


@dataclass(frozen=True)
class Readout:
    """A scalar of the parameters.

    value: theta [D] -> number. gradient: theta [D] -> [D]. unit: the loss's, probability, or "" for a user's function.
    pinned: whether its value at the reference endpoint must be kept to recognise it, as nothing else says what it is.
    step: after how many steps of the window it is taken; None for the end.
    """

    name: str
    unit: str
    value: Callable[[Tensor], float]
    gradient: Callable[[Tensor], Tensor]
    pinned: bool = False
    step: int | None = None

    def seen(self, order: Order) -> Order:
        """The steps of an order that the read-out depends on: all, or those before it is taken; OrderError for a shorter one."""
        return order if self.step is None else order.first(self.step)


class ReadoutKind(Protocol):
    """A kind of read-outs, as `fut.readouts.readout.READOUTS` lists them; what a kind inherits answers for a single read-out."""

    @property
    def form(self) -> str:
        """How its names are written, for messages."""

    @property
    def unit(self) -> str:
        """The unit of its values; empty where it is not known, LOSS for that of the run's loss."""

    @property
    def reserved(self) -> Sequence[str]:
        """Names that a user's own read-out cannot have."""

    def matches(self, spec: str) -> bool:
        """Whether a specification is of this kind."""

    def names(self, spec: str, items: int) -> list[str]:
        """The read-outs that a specification stands for; UsageError where it cannot be meant. items: number of items."""
        return [spec]

    def make(self, problem: Problem, name: str, user: Mapping[str, UserFunction]) -> Readout:
        """The read-out. user: functions by the names they are registered under."""

    def gradient_cost(self, problem: Problem) -> int:
        """Gradient evaluations that a read-out's own gradient costs."""
        return 1


def mean_loss(problem: Problem, name: str, item: Item, pinned: bool = False) -> Readout:
    """The mean loss on one item's samples."""
    objective, judged = problem.objective, (item,)
    return Readout(
        name,
        unit_of_loss(problem),
        lambda theta: derivatives.evaluate(objective, theta, judged),
        lambda theta: derivatives.evaluate_gradient(objective, theta, judged),
        pinned,
    )


def averaged(
    problem: Problem,
    name: str,
    unit: str,
    function: Callable[..., Tensor],
    inputs: Sequence[Item],
    pinned: bool = False,
) -> Readout:
    """The mean over `inputs` of function(module, *input), the module in evaluation mode; summed in the given order."""
    objective = problem.objective

    def value(theta: Tensor) -> float:
        total = 0.0
        for item in inputs:
            with torch.no_grad(), objective.judging(), objective.holding(theta, item) as module:
                total += _scalar(name, function(module, *item)).double().item()
        return total / len(inputs)

    def gradient(theta: Tensor) -> Tensor:
        total = torch.zeros_like(theta)
        for item in inputs:
            with torch.enable_grad(), objective.judging(), objective.holding(theta, item) as module:
                found = _differentiable(name, _scalar(name, function(module, *item)))
                total += objective.flat(torch.autograd.grad(found, objective.tensors, allow_unused=True))
        return total / len(inputs)

    return Readout(name, unit, value, gradient, pinned)


def _scalar(name: str, value: object) -> Tensor:
    if isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point():
        return value
    got = f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ModelError(
        f"read-out `{name}`: expected a floating-point tensor holding one number, got {got}; take a sum or a mean"
    )


def _differentiable(name: str, value: Tensor) -> Tensor:
    if value.requires_grad:
        return value
    raise ModelError(
        f"read-out `{name}`: expected a value differentiable in the module's parameters, got one detached from them; "
        "compute it from the module it is given, without detach(), item() or no_grad(); a number of no gradient, as a count of "
        "hits, is answered by --estimator replay-exact, which needs no `fut cache`, or retrain"
    )


def shortened(names: Sequence[str]) -> str:
    """Names for a message: the first few."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def suffix(name: str) -> str:
    """What a file's name says of a read-out: nothing for the probe loss."""
    return "" if name == PROBE else f"-readout-{name.replace(':', '+')}"


def require_same_value(name: str, expected: float, value: float, where: str) -> None:
    """ModelError unless the read-out has the value at the reference endpoint that it had when `where` was made."""
    if not abs(value - expected) <= TOLERANCE * abs(expected):
        raise ModelError(
            f"{where}: expected the read-out `{name}` to be {expected:.6g} at the reference endpoint, as when this was "
            f"computed, got {value:.6g}; it is another function now: restore it, or give it another name"
        )

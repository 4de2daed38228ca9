"""Gradients, Hessian-vector products and evaluations of an objective at flat parameters."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fut.models.objective import Item, Objective

STACKED = 1 << 13
"""Numbers of input that one pass takes together: beyond them, stacking items saves no time and only costs memory."""
STEP = 3e-4
"""Length of a difference of gradients, relative to the parameters."""
KNOWN_STEP = 1e-4
"""The same from one gradient that is known already: shorter, as its error is of first order."""
GRADIENT_BYTES = 1 << 28
"""Bytes of item gradients that one pass makes at most."""


def _at(objective: Objective, item: Item) -> Callable[[Tensor], Tensor]:
    """The item's loss as a function of theta alone; its seed is taken here, as a transform hides the item's bytes."""
    seed = objective.seed(item)
    return lambda theta: objective.loss(theta, item, seed)


def gradient(objective: Objective, theta: Tensor, item: Item) -> Tensor:
    """Gradient of the item's mean loss at theta: [D], nats/token per unit of parameter."""
    slope: Tensor = grad(_at(objective, item))(theta)
    return slope


def gradient_and_loss(objective: Objective, theta: Tensor, item: Item) -> tuple[Tensor, float]:
    """The gradient [D] and the loss [nats/token] of one item; one backward pass."""
    g, value = grad_and_value(_at(objective, item))(theta)
    return g, value.item()


def mean_gradient_and_loss(
    objective: Objective, theta: Tensor, items: Sequence[Item], weights: Sequence[float]
) -> tuple[Tensor, float]:
    """sum_i w_i g_i [D] and sum_i w_i loss_i [nats/token]; one backward pass where `stackable`, else item by item.

    One item of weight one gives `gradient_and_loss` bit for bit.
    """
    if len(items) == 1 and weights[0] == 1.0:
        return gradient_and_loss(objective, theta, items[0])
    size = _together(objective, items)
    total, loss = torch.zeros_like(theta), 0.0
    for first in range(0, len(items), size):
        part, shares = items[first : first + size], weights[first : first + size]
        if len(part) == 1:
            g, value = gradient_and_loss(objective, theta, part[0])
            g, value = shares[0] * g, shares[0] * value
        else:
            g, value = _stacked_mean(objective, theta, part, shares)
        total, loss = total + g, loss + value
    return total, loss


def _stacked_mean(
    objective: Objective, theta: Tensor, items: Sequence[Item], weights: Sequence[float]
) -> tuple[Tensor, float]:
    stacked, shares = _stack(items), torch.tensor(weights, dtype=theta.dtype, device=theta.device)

    def value(theta: Tensor) -> Tensor:
        return vmap(objective.loss, in_dims=(None, 0))(theta, stacked) @ shares

    with sdpa_kernel(SDPBackend.MATH):
        g, loss = grad_and_value(value)(theta)
    return g, loss.item()


def item_gradients(objective: Objective, theta: Tensor, items: Sequence[Item], chunk: int | None = None) -> Tensor:
    """Gradients [n, D] of several items at theta.

    Items that hold one sequence each (a first dimension of 1) are stacked, `chunk` at a time, where `stackable`: about
    twice as fast on a CPU. Larger ones gain little and go one by one, which gives `gradient` bit for bit. Stacked
    gradients depend on what they are stacked with by rounding alone. chunk: None for as many as `STACKED` and
    `GRADIENT_BYTES` allow.
    """
    size = _together(objective, items) if run_lock(items) else 1
    size = max(1, min(chunk or size, size, GRADIENT_BYTES // (theta.numel() * theta.element_size())))
    parts = [_stacked_gradients(objective, theta, items[first : first + size]) for first in range(0, len(items), size)]
    return torch.cat(parts)


def _stacked_gradients(objective: Objective, theta: Tensor, items: Sequence[Item]) -> Tensor:
    if len(items) == 1:
        return gradient(objective, theta, items[0])[None]
    with sdpa_kernel(SDPBackend.MATH):
        slopes: Tensor = vmap(grad(objective.loss), in_dims=(None, 0))(theta, _stack(items))
        return slopes


def run_lock(items: Sequence[Item]) -> bool:
    """Whether every item holds one sequence."""
    return all(len(tensor.shape) > 0 and len(tensor) == 1 for item in items for tensor in item[:1])


def stackable(objective: Objective, items: Sequence[Item]) -> bool:
    """Whether items can be taken in one pass: of one shape and type, no noise (it is keyed by each item's own content),
    and a module and loss that `torch.func.vmap` can transform, which is tried once."""
    if objective.stochastic or len({tuple((t.shape, t.dtype) for t in item) for item in items}) > 1:
        return False
    if objective.vectorises is None:
        objective.vectorises = _vectorises(objective, items[0])
    return objective.vectorises


def _vectorises(objective: Objective, item: Item) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a fallback that torch warns of is slower than our own
            _stacked_gradients(objective, objective.start(), [item, item])
    except Exception:  # whatever it is, item by item either works or says so
        return False
    return True


def _together(objective: Objective, items: Sequence[Item]) -> int:
    """How many of the items one pass takes; 1 for item by item."""
    if len(items) < 2 or not stackable(objective, items):
        return 1
    return max(1, STACKED // max(1, sum(t.numel() for t in items[0])))


def _stack(items: Sequence[Item]) -> Item:
    return tuple(torch.stack(parts) for parts in zip(*items, strict=True))


def hessian_vector(objective: Objective, theta: Tensor, item: Item, direction: Tensor) -> Tensor:
    """Exact product H_i(theta) u [D] by forward-over-reverse (`torch.func.jvp` of `grad`).

    Attention runs on the math back end, which alone has forward derivatives. Counted as two gradients.
    """
    with sdpa_kernel(SDPBackend.MATH):
        product: Tensor = jvp(grad(_at(objective, item)), (theta,), (direction,))[1]
        return product


def hessian_vector_difference(
    objective: Objective, theta: Tensor, item: Item, direction: Tensor, step: float = STEP
) -> Tensor:
    """Central difference of two gradients at theta ± h u, h = step |theta| / |u|: H u to O(h²), for any kernel.

    At theta = 0, which says nothing of the scale, h = step / |u|.
    """
    return central_difference(lambda at: gradient(objective, at, item), theta, direction, step)


def central_difference(
    slope: Callable[[Tensor], Tensor], theta: Tensor, direction: Tensor, step: float = STEP
) -> Tensor:
    """Derivative [D] of a gradient `slope` (theta -> [D]) along a direction, as in `hessian_vector_difference`."""
    if not direction.any():
        return torch.zeros_like(direction)
    scale = theta.norm()
    h = step * torch.where(scale > 0, scale, 1.0) / direction.norm().clamp(min=torch.finfo(theta.dtype).tiny)
    up, down = (slope(theta + sign * h * direction) for sign in (1, -1))
    derivative: Tensor = (up - down) / (2 * h)
    return derivative


def hessian_vectors_one_sided(
    objective: Objective, theta: Tensor, item: Item, directions: Tensor, step: float = STEP
) -> list[Tensor]:
    """Products H u for several directions [m, D] by one-sided differences, to O(h): m + 1 gradients in place of 2 m."""
    here = gradient(objective, theta, item)
    return [one_sided_difference(lambda at: gradient(objective, at, item), theta, u, here, step) for u in directions]


def one_sided_difference(
    slope: Callable[[Tensor], Tensor], theta: Tensor, direction: Tensor, here: Tensor, step: float = STEP
) -> Tensor:
    """Derivative [D] of a gradient `slope` (theta -> [D]) along a direction, to O(h): one gradient and its value `here`.

    A negative step looks the other way: over steps that take turns errors of first order cancel.
    """
    if not direction.any():
        return torch.zeros_like(direction)
    scale = theta.norm()
    h = step * torch.where(scale > 0, scale, 1.0) / direction.norm().clamp(min=torch.finfo(theta.dtype).tiny)
    derivative: Tensor = (slope(theta + h * direction) - here) / h
    return derivative


def hessian_vector_mean(objective: Objective, theta: Tensor, items: Sequence[Item], direction: Tensor) -> Tensor:
    """Exact product [D] with the Hessian of several items' mean loss: in one pass where `stackable`, else item by item."""
    if len(items) == 1 or not stackable(objective, items):
        return torch.stack([hessian_vector(objective, theta, item, direction) for item in items]).sum(0) / len(items)
    stacked = _stack(items)
    with sdpa_kernel(SDPBackend.MATH):
        slope = grad(lambda at: vmap(objective.loss, in_dims=(None, 0))(at, stacked).mean())
        product: Tensor = jvp(slope, (theta,), (direction,))[1]
        return product


def evaluate(objective: Objective, theta: Tensor, items: Sequence[Item]) -> float:
    """Mean loss over equally sized probe items at theta [nats/token], the module in evaluation mode.

    Summed in double precision, in the given order.
    """
    with torch.no_grad(), objective.judging():
        values = [objective.loss(theta, item).double() for item in items]
    return (torch.stack(values).sum() / len(values)).item()


def evaluate_gradient(objective: Objective, theta: Tensor, items: Sequence[Item]) -> Tensor:
    """Gradient [D] of `evaluate`."""
    total = torch.zeros_like(theta)
    with objective.judging():
        for item in items:
            total += gradient(objective, theta, item)
    return total / len(items)

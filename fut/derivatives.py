"""Gradients, Hessian-vector products and evaluations of an objective at flat parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from .models import Item, Objective


def _at(objective: Objective, item: Item) -> Callable[[Tensor], Tensor]:
    """The item's loss as a function of theta alone; its seed is taken here, as a transform hides the item's bytes."""
    seed = objective.seed(item)
    return lambda theta: objective.loss(theta, item, seed)


def gradient(objective: Objective, theta: Tensor, item: Item) -> Tensor:
    """Gradient of the item's mean loss at theta: [D], nats/token per unit of parameter."""
    return grad(_at(objective, item))(theta)


def gradient_and_loss(objective: Objective, theta: Tensor, item: Item) -> tuple[Tensor, float]:
    """The gradient [D] and the loss [nats/token] of one item; one backward pass."""
    g, value = grad_and_value(_at(objective, item))(theta)
    return g, value.item()


def hessian_vector(objective: Objective, theta: Tensor, item: Item, direction: Tensor) -> Tensor:
    """Exact product H_i(theta) u [D] by forward-over-reverse (`torch.func.jvp` of `grad`).

    Attention runs on the math back end, which alone has forward derivatives. Counted as two gradients.
    """
    with sdpa_kernel(SDPBackend.MATH):
        return jvp(grad(_at(objective, item)), (theta,), (direction,))[1]


def hessian_vector_difference(
    objective: Objective, theta: Tensor, item: Item, direction: Tensor, step: float = 3e-4
) -> Tensor:
    """Central difference of two gradients at theta ± h u, h = step |theta| / |u|: H u to O(h²), for any kernel.

    At theta = 0, which says nothing of the scale, h = step / |u|.
    """
    scale = theta.norm()
    h = step * torch.where(scale > 0, scale, 1.0) / direction.norm().clamp(min=torch.finfo(theta.dtype).tiny)
    up, down = (gradient(objective, theta + sign * h * direction, item) for sign in (1, -1))
    return (up - down) / (2 * h)


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

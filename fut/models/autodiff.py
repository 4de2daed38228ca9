"""Gradients, Hessian-vector products and evaluations of an objective at flat parameters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.func import grad, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fut.models.objective import Item, Objective, full_precision
from fut.models.products import exact_product, stacked_product
from fut.models.randomness import draws

STACKED = 1 << 13
"""Numbers of input that one pass takes together: beyond them, stacking items saves no time and only costs memory."""
STEP, UNSCALED = 3e-4, 1 << 17
"""Length of a difference of gradients, relative to the parameters, for up to so many of them: see `difference_step`."""
KNOWN_STEP = 1e-4
"""The same from one gradient that is known already: shorter, as its error is of first order."""
GRADIENT_BYTES = 1 << 28
"""Bytes of item gradients that one pass makes at most."""


Absent = Callable[[int, frozenset[str]], object]
"""Hears the place of an item among those that were given, and the tensors that it has no gradient of."""


class Traced(NamedTuple):
    """A gradient [D], its loss [nats/token], and the names of tensors that the loss does not depend on: torch's gradient of
    them is None, where it has zeros here."""

    gradient: Tensor
    loss: float
    absent: frozenset[str]


def traced_gradient(objective: Objective, theta: Tensor, item: Item) -> Traced:
    """Gradient of the item's mean loss at theta by plain autograd, as training the module itself takes it; one backward pass.

    By `torch.autograd.grad`, or by `backward()` for a module that allows no other: functions that run a backward pass of their
    own, such as checkpoints of the reentrant kind, hide parameters from the former.
    """
    absent: frozenset[str] | None = None
    try:
        found, hiding = _traced(objective, theta, item, objective.whole_backward)
        if objective.whole_backward or not hiding:
            return found
        absent = found.absent
    except RuntimeError as error:
        if objective.whole_backward or "use_reentrant" not in str(error):
            raise
    found, _ = _traced(objective, theta, item, whole=True)
    objective.whole_backward = found.absent != absent
    return found


def _traced(objective: Objective, theta: Tensor, item: Item, whole: bool) -> tuple[Traced, bool]:
    """The gradient, and whether functions in Python may have hidden the tensors that it is absent of."""
    tensors = objective.tensors
    with objective.holding(theta, item), torch.enable_grad():
        loss = objective.plain(item)
        if not loss.requires_grad:
            parts: Sequence[Tensor | None] = [None] * len(tensors)
        elif whole:
            parts = _whole_backward(loss, tensors)
        else:
            parts = torch.autograd.grad(loss, tensors, allow_unused=True)
    absent = frozenset(n for n, g in zip(objective.names, parts, strict=True) if g is None)
    hiding = bool(absent) and any(isinstance(node, BackwardCFunction) for node in _graph(loss))
    return Traced(objective.flat(parts), loss.item(), absent), hiding


def _whole_backward(loss: Tensor, tensors: Sequence[Tensor]) -> list[Tensor | None]:
    for tensor in tensors:
        tensor.grad = None
    loss.backward()
    found = [tensor.grad for tensor in tensors]
    for tensor in tensors:
        tensor.grad = None
    return found


def reached(objective: Objective, theta: Tensor, item: Item) -> tuple[float, frozenset[str]]:
    """Loss of an item [nats/token], and the names of tensors that it does not depend on, as in `Traced`.

    By a forward pass and a walk through its graph; a backward pass decides where that finds any.
    """
    with objective.holding(theta, item), torch.enable_grad():
        loss = objective.plain(item)
        leaves, value = {id(node.variable) for node in _graph(loss) if hasattr(node, "variable")}, loss.item()
    absent = frozenset(n for n, p in zip(objective.names, objective.tensors, strict=True) if id(p) not in leaves)
    return value, traced_gradient(objective, theta, item).absent if absent else absent


def _graph(loss: Tensor) -> set[Any]:
    """All nodes of a value's graph."""
    seen, left = set[Any](), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            left += [following for following, _ in node.next_functions]
    return seen


def gradient(objective: Objective, theta: Tensor, item: Item) -> Tensor:
    """Gradient of the item's mean loss at theta: [D], nats/token per unit of parameter."""
    return traced_gradient(objective, theta, item).gradient


def gradient_and_loss(
    objective: Objective, theta: Tensor, item: Item, absent: Absent | None = None
) -> tuple[Tensor, float]:
    """The gradient [D] and the loss [nats/token] of one item; one backward pass. absent: hears what had no gradient."""
    found = traced_gradient(objective, theta, item)
    if absent is not None:
        absent(0, found.absent)
    return found.gradient, found.loss


def mean_gradient_and_loss(
    objective: Objective,
    theta: Tensor,
    items: Sequence[Item],
    weights: Sequence[float],
    absent: Absent | None = None,
) -> tuple[Tensor, float]:
    """sum_i w_i g_i [D] and sum_i w_i loss_i [nats/token]; one backward pass where `stackable`, else item by item.

    One item of weight one gives `gradient_and_loss` bit for bit. absent: hears, of items that are taken one by one, what had
    no gradient.
    """
    if len(items) == 1 and weights[0] == 1.0:
        return gradient_and_loss(objective, theta, items[0], absent)
    size = _together(objective, items)
    total, loss = torch.zeros_like(theta), 0.0
    for first in range(0, len(items), size):
        part, shares = items[first : first + size], weights[first : first + size]
        if len(part) == 1:
            g, value = gradient_and_loss(objective, theta, part[0], absent and partial(_at, absent, first))
            g, value = shares[0] * g, shares[0] * value
        else:
            g, value = _stacked_mean(objective, theta, part, shares)
        total, loss = total + g, loss + value
    return total, loss


def _at(absent: Absent, first: int, place: int, names: frozenset[str]) -> None:
    absent(first + place, names)


def _stacked_mean(
    objective: Objective, theta: Tensor, items: Sequence[Item], weights: Sequence[float]
) -> tuple[Tensor, float]:
    stacked, shares = _stack(items), torch.tensor(weights, dtype=theta.dtype, device=theta.device)

    def value(theta: Tensor) -> Tensor:
        return vmap(objective.noiseless, in_dims=(None, 0))(theta, stacked) @ shares

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
    return torch.cat(list(item_gradient_chunks(objective, theta, items, chunk)))


def item_gradient_chunks(
    objective: Objective, theta: Tensor, items: Sequence[Item], chunk: int | None = None
) -> Iterator[Tensor]:
    """The rows of `item_gradients`, as many at a time [c, D] as are taken together: within `GRADIENT_BYTES`, or one."""
    size = _together(objective, items) if run_lock(items) else 1
    size = max(1, min(chunk or size, size, GRADIENT_BYTES // (theta.numel() * theta.element_size())))
    for first in range(0, len(items), size):
        yield _stacked_gradients(objective, theta, items[first : first + size])


def _stacked_gradients(objective: Objective, theta: Tensor, items: Sequence[Item]) -> Tensor:
    if len(items) == 1:
        return gradient(objective, theta, items[0])[None]
    with sdpa_kernel(SDPBackend.MATH):
        slopes: Tensor = vmap(grad(objective.noiseless), in_dims=(None, 0))(theta, _stack(items))
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
            devices = [objective.device] if objective.device.type == "cuda" else []
            return not draws(lambda: objective.noiseless(objective.start(), item), devices)
    except Exception:  # whatever it is, item by item either works or says so
        return False


def _together(objective: Objective, items: Sequence[Item]) -> int:
    """How many of the items one pass takes; 1 for item by item."""
    if len(items) < 2 or not stackable(objective, items):
        return 1
    return max(1, STACKED // max(1, sum(t.numel() for t in items[0])))


def _stack(items: Sequence[Item]) -> Item:
    return tuple(torch.stack(parts) for parts in zip(*items, strict=True))


def hessian_vector(objective: Objective, theta: Tensor, item: Item, direction: Tensor) -> Tensor:
    """Exact product H_i(theta) u [D], in the form that the model has the derivatives for (`fut.models.products`).

    By central difference for a model without second derivatives, which a warning says. Counted as two gradients.
    """
    product = exact_product(objective, theta, item, direction)
    return hessian_vector_difference(objective, theta, item, direction) if product is None else product


def difference_step(size: int) -> float:
    """`STEP` for models of up to `UNSCALED` parameters; beyond, what keeps a difference's own length at theirs.

    |theta| grows as the root of D. A length in proportion to it leaves the region in which a loss is quadratic along a direction
    of few coordinates: at 11 million parameters a difference along the probe loss's gradient was 5 % off with `STEP`
    (`benchmarks/records/difference-length.json`).
    """
    return STEP * min(1.0, math.sqrt(UNSCALED / size))


def hessian_vector_difference(
    objective: Objective, theta: Tensor, item: Item, direction: Tensor, step: float | None = None
) -> Tensor:
    """Central difference of two gradients at theta ± h u, h = step |theta| / |u|: H u to O(h²), for any kernel.

    At theta = 0, which says nothing of the scale, h = step / |u|. step: None for `difference_step`.
    """
    step = difference_step(theta.numel()) if step is None else step
    with full_precision(objective):
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


def hessian_vectors_one_sided(objective: Objective, theta: Tensor, item: Item, directions: Tensor) -> list[Tensor]:
    """Products H u for several directions [m, D] by one-sided differences, to O(h): m + 1 gradients in place of 2 m."""
    step = difference_step(theta.numel())
    with full_precision(objective):
        here, slope = gradient(objective, theta, item), partial(_slope, objective, item)
        return [one_sided_difference(slope, theta, u, here, step) for u in directions]


def _slope(objective: Objective, item: Item, theta: Tensor) -> Tensor:
    return gradient(objective, theta, item)


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
    if len(items) > 1 and stackable(objective, items):
        found = stacked_product(objective, theta, _stack(items), direction)
        if found is not None:
            return found
    return torch.stack([hessian_vector(objective, theta, item, direction) for item in items]).sum(0) / len(items)


def evaluate(objective: Objective, theta: Tensor, items: Sequence[Item]) -> float:
    """Mean loss over equally sized probe items at theta [nats/token], the module in evaluation mode.

    Summed in double precision, in the given order.
    """
    with torch.no_grad(), objective.judging():
        values = [_loss(objective, theta, item).double() for item in items]
    return (torch.stack(values).sum() / len(values)).item()


def item_loss(objective: Objective, theta: Tensor, item: Item) -> float:
    """Mean loss of one item at theta [nats/token], the module in its own mode."""
    with torch.no_grad():
        return _loss(objective, theta, item).item()


def _loss(objective: Objective, theta: Tensor, item: Item) -> Tensor:
    with objective.holding(theta, item):
        return objective.plain(item)


def evaluate_gradient(objective: Objective, theta: Tensor, items: Sequence[Item]) -> Tensor:
    """Gradient [D] of `evaluate`."""
    total = torch.zeros_like(theta)
    with objective.judging():
        for item in items:
            total += gradient(objective, theta, item)
    return total / len(items)

"""Exact Hessian-vector products, in the first of several forms that a model has the derivatives for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fut.errors import FutWarning
from fut.models.objective import Item, Objective

DISTANCE, AGREES, SAME = 1e-3, 0.01, 0.02
"""Length of the difference that a first product is compared with, relative to the parameters; how far, relatively, that may be
from it, and another form's product: under autocast to bfloat16 both forms are 0.5 % apart, and differences are rounding."""
FORWARD, REVERSE, DIFFERENCE = FORMS = ("forward over reverse", "reverse over reverse", "difference")


def exact_product(objective: Objective, theta: Tensor, item: Item, direction: Tensor) -> Tensor | None:
    """Product H_i(theta) u [D] of one item's loss; None for a model that has no second derivatives.

    Forward over reverse (`torch.func.jvp` of `grad`), else reverse over reverse by plain autograd. The first product says
    which the model has: the one that torch computes and that a difference of gradients agrees with, as functions may keep
    silent about a derivative that they lack. Where it is not the first, a warning says so. Under autocast, whose casts have no
    forward derivatives, the second is the first that is tried. Attention runs on the math back end, the one that has second
    derivatives.
    """
    settled, said, others = objective.exact_form, "", list[Tensor]()
    for form in FORMS[FORMS.index(settled or _first(objective)) : -1]:
        try:
            with sdpa_kernel(SDPBackend.MATH):
                product = (_forward if form == FORWARD else _reverse)(objective, theta, item, direction)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of many types, as torch refuses in many places
            said = said or (str(error).splitlines() or [""])[0][:160]
            continue
        if form == settled or objective.built_in or _agrees(objective, theta, item, direction, product, others):
            _settle(objective, form, said)
            return product
        said, others = said or "what it gives is not the derivative of the gradient", [product]
    _settle(objective, DIFFERENCE, said)
    return None


def _agrees(
    objective: Objective, theta: Tensor, item: Item, direction: Tensor, product: Tensor, others: Sequence[Tensor]
) -> bool:
    """Whether a product is the derivative of the gradient, as far as a central difference tells it from rounding, or what
    another form gave."""
    if not direction.any() or any((other - product).norm() <= SAME * product.norm() for other in others):
        return True
    h = DISTANCE * theta.norm().clamp(min=1.0) / direction.norm()
    up, down = (_gradient(objective, theta + sign * h * direction, item) for sign in (1, -1))
    rounding = 100 * torch.finfo(theta.dtype).eps * (up.norm() + down.norm()) / h
    found = (up - down) / (2 * h)
    return bool((found - product).norm() <= AGREES * torch.maximum(found.norm(), product.norm()) + rounding)


def _gradient(objective: Objective, theta: Tensor, item: Item) -> Tensor:
    with objective.full_precision(), objective.holding(theta, item), torch.enable_grad():
        return objective.flat(torch.autograd.grad(objective.plain(item), objective.tensors, allow_unused=True))


def stacked_product(objective: Objective, theta: Tensor, stacked: Item, direction: Tensor) -> Tensor | None:
    """Product [D] with the Hessian of the mean loss of stacked items; None where it cannot be taken forward over reverse."""
    if objective.exact_form != FORWARD and not (objective.built_in and objective.exact_form is None):
        return None
    if objective.autocast is not None:
        return None

    def mean(at: Tensor) -> Tensor:
        losses: Tensor = vmap(objective.noiseless, in_dims=(None, 0))(at, stacked)
        return losses.mean()

    try:
        with sdpa_kernel(SDPBackend.MATH):
            product: Tensor = jvp(grad(mean), (theta,), (direction,))[1]
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # taken one by one, where it is said which form is
        return None
    objective.exact_form = FORWARD
    return product


def _forward(objective: Objective, theta: Tensor, item: Item, direction: Tensor) -> Tensor:
    seed = None if objective.built_in else objective.seed(item)  # taken here, as a transform hides the item's bytes

    def loss(at: Tensor) -> Tensor:
        return objective.loss(at, item, seed)

    product: Tensor = jvp(grad(loss), (theta,), (direction,))[1]
    return product


def _reverse(objective: Objective, theta: Tensor, item: Item, direction: Tensor) -> Tensor:
    tensors = objective.tensors
    with objective.holding(theta, item), torch.enable_grad():
        slopes = torch.autograd.grad(objective.plain(item), tensors, create_graph=True, allow_unused=True)
        pairs = zip(slopes, objective.parts(direction), strict=True)
        terms = [(slope * u).sum() for slope, u in pairs if slope is not None and slope.requires_grad]
        if not terms:
            return torch.zeros_like(theta)
        found: Sequence[Tensor | None] = torch.autograd.grad(torch.stack(terms).sum(), tensors, allow_unused=True)
        return objective.flat(found)


def _first(objective: Objective) -> str:
    """The form that is tried first."""
    return FORWARD if objective.autocast is None else REVERSE


def _settle(objective: Objective, form: str, said: str) -> None:
    """Keep the form; a warning where it is another one than before, or than the first that is tried."""
    before, objective.exact_form = objective.exact_form, form
    if form in (FORWARD, _first(objective), before):
        return
    instead = "reverse over reverse, which is as exact" if form == REVERSE else "central differences of gradients"
    lacks = "forward derivative" if form == REVERSE else "second derivative"
    warnings.warn(
        f"Hessian-vector products: torch has no {lacks} of this model ({said}); they are taken by {instead}",
        FutWarning,
        stacklevel=3,
    )

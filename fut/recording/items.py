"""What was forwarded, as items: tensors by the name of their argument."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from fut.errors import DataError
from fut.models.forward import PLACED, ForwardLoss

Item = tuple[Tensor, ...]
DIVISOR = "num_items_in_batch"
"""The argument by which a Hugging Face trainer tells a model how many targets a step has, which its loss is divided by."""


@dataclass(frozen=True)
class Form:
    """Which arguments of a forward pass an item holds.

    names: of the arguments that are tensors, sorted. constants: the others, the same for every item. divisor: by which the
    losses of a step's items are divided together, where the forward pass is told one: a number, or what of their own targets
    it is the sum of; None where it takes the mean. placed:
    those of the names that were given by their place in the first call, which hooks of the user's own may count on.
    """

    names: tuple[str, ...]
    constants: tuple[tuple[str, Any], ...] = ()
    divisor: float | str | None = None
    placed: frozenset[str] = field(default=frozenset(), compare=False)

    def loss(self, per_step: int) -> ForwardLoss:
        """The loss of one item, of which a step of `per_step` items takes the mean."""
        own = self.divisor / per_step if isinstance(self.divisor, float) else self.divisor
        share = () if own is None else ((DIVISOR, own),)
        names = tuple(PLACED * (name in self.placed) + name for name in self.names)
        return ForwardLoss(names, self.constants, share)


def forwarded(of: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Form, Item]:
    """An item from the arguments of a forward pass: copies of its tensors, on the CPU.

    of: the signature of the forward pass.

    Raises:
        DataError: for arguments that are neither tensors nor constants.
    """
    if not args:  # as trainers call a model, at every step
        return of_mapping(kwargs)
    bound = of.bind(*args, **kwargs)
    given: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            given |= value
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            raise DataError(f"items: expected a forward pass with named arguments, got *{name}; name them")
        else:
            given[name] = value
    form, item = of_mapping(given)
    placed = [name for name, _ in zip(bound.signature.parameters, args, strict=False)]
    return replace(form, placed=frozenset(placed) if set(placed) <= set(form.names) else frozenset()), item


def of_mapping(given: Mapping[str, Any]) -> tuple[Form, Item]:
    """An item from arguments by name."""
    divisor = given.get(DIVISOR)
    kept = {name: value for name, value in sorted(given.items()) if name != DIVISOR and value is not None}
    tensors = {name: value for name, value in kept.items() if isinstance(value, Tensor)}
    constants = {name: value for name, value in kept.items() if name not in tensors}
    for name, value in constants.items():
        if not isinstance(value, bool | int | float | str):
            raise DataError(
                f"items: expected tensors and constants as arguments of the forward pass, got {type(value).__name__} for "
                f"`{name}`; pass the tensors in it by name, or call `item(...)` of the recorder"
            )
    if not tensors:
        raise DataError("items: expected tensors among the arguments of the forward pass, got none")
    form = Form(tuple(tensors), tuple(constants.items()), None if divisor is None else float(divisor))
    return form, tuple(map(copied, tensors.values()))


def copied(tensor: Tensor) -> Tensor:
    """The tensor's data as it is now, on the CPU."""
    return tensor.detach().to("cpu", copy=True)

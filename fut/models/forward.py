"""The loss that a model computes itself, from inputs by name: what Hugging Face models return, and modules that give a number."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fut.errors import ModelError

PLACED = "*"
"""Before the name of an argument that is given by its place."""
LABELS, TARGETS, SHIFTED = "labels", "targets", "shifted targets"
"""The argument that holds targets, and what may be counted of it."""


@dataclass(frozen=True)
class ForwardLoss:
    """`loss(module, *item)` for items whose tensors are arguments of the module's own forward pass, which returns the loss.

    Args:
        names: of the arguments, one for each tensor of an item; with `*` before it, one that is given by its place.
        constants: further arguments, the same for every item: numbers and texts.
        training: arguments that are given in training mode alone, as the number of targets by which a loss is divided; for
            `targets` and `shifted targets` those of the item itself, as `target_count` has them.
    """

    names: tuple[str, ...]
    constants: tuple[tuple[str, Any], ...] = ()
    training: tuple[tuple[str, Any], ...] = ()

    def __call__(self, module: nn.Module, *item: Tensor) -> Tensor:
        """The loss that the forward pass returns: itself a number, or `loss` of what it returns, or the first of a tuple.

        Raises:
            ModelError: for a forward pass that returns no loss.
        """
        given = dict(zip(self.names, item, strict=True))
        labels = given.get(LABELS, given.get(PLACED + LABELS))
        training = {
            name: target_count(labels, value == SHIFTED) if isinstance(value, str) else value
            for name, value in self.training
        }
        more = dict(self.constants) | (training if module.training else {})
        named = {name: tensor for name, tensor in given.items() if not name.startswith(PLACED)}
        placed = self._placed(module, given) if len(named) < len(given) else ()
        value = module(*placed, **named, **more)
        loss = loss_of(value)
        if loss is None:
            raise ModelError(
                f"model: expected a forward pass that returns its loss for {', '.join(self.names).replace(PLACED, '')}, got "
                f"{type(value).__name__}; give labels among the inputs, or pass loss="
            )
        return loss

    def _placed(self, module: nn.Module, given: Mapping[str, Tensor]) -> list[Tensor]:
        """The tensors that are given by their place, in the order of the forward pass's arguments."""
        return [given[PLACED + name] for name in inspect.signature(module.forward).parameters if PLACED + name in given]


def target_count(labels: Tensor | None, shifted: bool) -> Tensor:
    """How many targets count: labels that are not -100, without the first of each row where they are `shifted`; 0 of none."""
    if labels is None:
        return torch.zeros((), dtype=torch.long)
    counted = labels[..., 1:] if shifted and labels.ndim > 1 else labels
    return (counted != -100).sum()


def loss_of(value: Any) -> Tensor | None:
    """The loss in what a forward pass returns; None if there is none."""
    if isinstance(value, Mapping):
        value = value.get("loss")
    elif isinstance(value, tuple):
        value = value[0] if value else None
    else:
        value = getattr(value, "loss", value)
    return value if isinstance(value, Tensor) and value.numel() == 1 else None

"""Losses of items that are mappings: `loss(module, {name: tensor})` as a function of the tensors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fut.models.objective import Loss


def by_name(loss: Loss, names: tuple[str, ...]) -> Loss:
    """A loss of (module, *tensors) from one of (module, mapping); the loss itself where the tensors have no names."""
    if not names:
        return loss
    return ModuleByName(loss, names) if isinstance(loss, nn.Module) else ByName(loss, names)


class ByName:
    """A function of a mapping."""

    def __init__(self, loss: Loss, names: tuple[str, ...]) -> None:
        self.loss, self.names = loss, names

    def __call__(self, module: nn.Module, *item: Tensor) -> Tensor:
        return self.loss(module, dict(zip(self.names, item, strict=True)))


class ModuleByName(nn.Module):
    """A loss that is a module, with its parameters."""

    def __init__(self, loss: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.loss, self.names = loss, names

    def forward(self, module: nn.Module, *item: Tensor) -> Any:
        return self.loss(module, dict(zip(self.names, item, strict=True)))

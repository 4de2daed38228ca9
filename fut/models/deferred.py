"""A run's objective as its directory describes it, whose module is built when something is first computed with it.

Estimates from kept tables compute no loss. They need the layout of the parameters and the number format, which a run directory
holds; so they load no model, and run none of its code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from estimators.errors import LayoutError
from estimators.parameters import ParameterLayout
from fut.errors import ModelError
from fut.models.objective import Objective


class DeferredObjective(Objective):
    """An objective that becomes the one that `build` returns when more of it is asked for than is recorded.

    Args:
        recorded: the model's part of a run's identity, as `Objective.identity` gives it.
        size: D, how many numbers are trained.
        device: where it computes.
        autocast: the number format of forward and backward passes, None without it.
        begins: the starting values [D], read when they are asked for.
        build: makes the objective; it raises where that is another than the recorded one.

    Raises:
        ModelError: for a record that describes no model.
    """

    def __init__(
        self,
        recorded: Mapping[str, Any],
        size: int,
        device: torch.device,
        autocast: torch.dtype | None,
        begins: Callable[[], Tensor],
        build: Callable[[], Objective],
    ) -> None:
        self.layout, self.dtype = _layout_of(recorded, size)
        self.device, self.autocast = device, autocast
        self.shapes, self.sizes = list(self.layout.shapes), list(self.layout.sizes)
        self._recorded, self._begins, self._build = dict(recorded), begins, build

    def __getattr__(self, name: str) -> Any:
        """Whatever is not recorded: of the objective itself, which is built once."""
        if name.startswith("__") or self.built or "_build" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no attribute `{name}`")
        vars(self).update(vars(self._build()))
        return getattr(self, name)

    @property
    def built(self) -> bool:
        """Whether the module is there."""
        return "_call" in vars(self)

    def start(self) -> Tensor:
        return super().start() if self.built else self._begins().to(self.device, self.dtype)

    def identity(self) -> dict[str, Any]:
        return super().identity() if self.built else dict(self._recorded)


def _layout_of(recorded: Mapping[str, Any], size: int) -> tuple[ParameterLayout, torch.dtype]:
    """The trained tensors by name and shape, and their number format."""
    try:
        names, shapes = zip(*recorded["parameters"], strict=True)
        layout, dtype = ParameterLayout(names, shapes), getattr(torch, recorded["dtype"])
    except (AttributeError, KeyError, TypeError, ValueError, LayoutError) as error:
        raise ModelError(
            f"manifest: expected the model's trained tensors by name and shape, and their dtype, got others ({error}); copy the "
            "run directory anew"
        ) from error
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ModelError(
            f"manifest: expected a floating-point dtype of torch, got {recorded['dtype']!r}; copy the run directory anew"
        )
    if layout.size != size:
        raise ModelError(
            f"manifest: expected {size:,} trained numbers, as the run's summary says, got shapes that hold {layout.size:,}; copy "
            "the run directory anew"
        )
    return layout, dtype

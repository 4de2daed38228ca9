"""What a rule needs beside the mean gradient of a step, and what supplies it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import RuleError
from ..parameters import Coordinates
from ..shapes import Float
from .clipping import clip_scale

SignalName = Literal["micro_batches", "curvature"]
"""`micro_batches`: the gradients of the step's items, one by one. `curvature`: for each of these items an estimate of the
diagonal of its loss's Hessian, from a probe whose randomness is keyed by the item."""


class Signals(NamedTuple):
    """What a step offers beside its mean gradient; None for what it does not.

    micro_batches: gradients of the step's M items, of equal weight [..., M, D]; their mean is the step's gradient.
    curvature: estimated diagonals of these items' Hessians [..., M, D].
    """

    micro_batches: Float[Tensor, "*n M D"] | None = None
    curvature: Float[Tensor, "*n M D"] | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Signals:
        """The same with every signal that is there changed."""
        return Signals(*(None if s is None else change(s) for s in self))

    def restrict(self, coordinates: Coordinates) -> Signals:
        """The same on some of the coordinates."""
        return self.each(lambda s: s[..., coordinates])

    def row(self, i: int) -> Signals:
        """Those of run i of a stack."""
        return self.each(lambda s: s[i])

    def given(self) -> frozenset[str]:
        """The names of those that are there."""
        return frozenset(name for name, signal in zip(self._fields, self, strict=True) if signal is not None)


NONE = Signals()


def alike(gradient: Float[Tensor, "*n D"], count: int = 4) -> Signals:
    """The signals of so many items with the same gradient [..., D], which is their curvature too: for what only tries a rule."""
    items = gradient.unsqueeze(-2).expand(*gradient.shape[:-1], count, gradient.shape[-1])
    return Signals(items, items)


def prepared(
    signals: Signals, clip: float | None, gradient: Tensor, norm: Tensor | None, pull: Tensor | float
) -> Signals:
    """Signals for a clipped gradient: micro-batches scaled as their mean is, and what coupled decay adds to it added to each.

    Args:
        signals: of the step.
        clip: bound on the global norm of the mean gradient; None for no clipping.
        gradient: the mean gradient before clipping [..., D].
        norm: its global norm [...]; computed if None.
        pull: what coupled decay adds [..., D]; 0 for nothing.
    """
    parts = signals.micro_batches
    if parts is None:
        return signals
    if clip is not None:
        parts = parts * clip_scale(clip, gradient, norm)[..., None, None]
    if isinstance(pull, Tensor):
        parts = parts + pull.unsqueeze(-2)
    return signals._replace(micro_batches=parts)


def require_signals(rule: str, needed: Iterable[str], signals: Signals) -> None:
    """RuleError unless the step offers what the rule needs of it."""
    if missing := sorted(set(needed) - signals.given()):
        raise RuleError(
            f"the rule `{rule}`: expected {' and '.join(f'`{name}`' for name in missing)} beside the mean gradient of a step, "
            "got none; use what trains (retrain), which supplies them, or a rule that needs the mean gradient alone"
        )


def require_items(rule: str, stack: Tensor, least: int) -> int:
    """M, the items of a stack [..., M, D]; RuleError where there are fewer than the rule needs."""
    count = stack.shape[-2]
    if count < least:
        raise RuleError(
            f"the rule `{rule}`: expected at least {least} items in a step, from which it takes means and variances apart, "
            f"got {count}; set data.per_step = {least} or more"
        )
    return count


def mean_over_items(stack: Float[Tensor, "*n M D"], chosen: Iterable[int] | None = None) -> Float[Tensor, "*n D"]:
    """The mean of some items of a stack, or of all, added up one by one, so that no bit depends on the stack of runs."""
    places = list(range(stack.shape[-2]) if chosen is None else chosen)
    total = stack[..., places[0], :]
    for place in places[1:]:
        total = total + stack[..., place, :]
    return total / len(places)


def variance_of_mean(values: Float[Tensor, "*n M D"]) -> Float[Tensor, "*n D"]:
    """The estimated variance of the mean of M numbers, sum (x_j - mean)^2 / (M (M - 1)): [..., M, D] -> [..., D]."""
    count = values.shape[-2]
    away = values - mean_over_items(values).unsqueeze(-2)
    return mean_over_items(away * away) / (count - 1)


def stacked(rows: list[Tensor]) -> Tensor:
    """Values [..., D] of items, as a stack [..., M, D]."""
    return torch.stack(rows, dim=-2)

"""Cross-fitting over the items of a step: numerator and preconditioner from different ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from torch import Tensor

from ..errors import RuleError
from .base import Rule, check_choice
from .signals import require_items

CrossFit = Literal["none", "halves", "leave_one_out"]
"""`none`: both from all items. `halves`: the numerator from one half, the preconditioner from the other, and the reverse.
`leave_one_out`: the numerator from each item, the preconditioner from the others. Directions are averaged."""


class Fold(NamedTuple):
    """Items of which the numerator is taken, and items of which the preconditioner is."""

    numerator: list[int]
    preconditioner: list[int]


def folds(kind: CrossFit, count: int) -> list[Fold]:
    """The folds of `count` items."""
    items = list(range(count))
    if kind == "none":
        return [Fold(items, items)]
    if kind == "halves":
        first, second = items[: count // 2], items[count // 2 :]
        return [Fold(first, second), Fold(second, first)]
    return [Fold([i], items[:i] + items[i + 1 :]) for i in items]


@dataclass(frozen=True, kw_only=True)
class CrossFitted(Rule):
    """Constants of rules that correct their step for noise in the items that it is made of.

    cross_fit: how numerator and preconditioner are kept apart. correct_variance: whether the bias of the inverse is taken off.
    """

    cross_fit: CrossFit = "leave_one_out"
    correct_variance: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("cross_fit", self.cross_fit, get_args(CrossFit))
        if not isinstance(self.correct_variance, bool):
            raise RuleError(
                f"`correct_variance`: expected true or false, got {self.correct_variance!r}; write one of them"
            )

    def _folds(self, stack: Tensor) -> Iterator[Fold]:
        """The folds of a stack [..., M, D]; RuleError where M is too small for them."""
        least = {"none": 1, "halves": 2, "leave_one_out": 2}[self.cross_fit]
        if self.correct_variance:  # which takes two items of each preconditioner
            least = {"none": 2, "halves": 4, "leave_one_out": 3}[self.cross_fit]
        yield from folds(self.cross_fit, require_items(self.name, stack, least))

"""Kinds of rules, by what sets them apart from others: what they take, what they read, and how they decay."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from ..errors import RuleError
from ..parameters import ParameterLayout
from ..state import State
from .base import Rule
from .signals import Signals


@dataclass(frozen=True, kw_only=True)
class SignalRule(Rule):
    """A rule whose step is `update_with`. Training supplies its `signals`; what linearises a rule in its mean gradient does not,
    and is refused."""

    def update(self, state: State, gradient: Tensor, rate: float) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        names = " and ".join(f"`{name}`" for name in sorted(self.signals))
        raise RuleError(
            f"the rule `{self.name}` reads {names} of a step: expected these beside the mean gradient, got the gradient alone; "
            "use --estimator retrain, which supplies them"
        )

    @abstractmethod
    def update_with(
        self, state: State, gradient: Tensor, rate: float, signals: Signals
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, float]]:
        """Displacement, memory and clock, as `update`, for a clipped gradient and the step's signals."""


@dataclass(frozen=True, kw_only=True)
class MatrixRule(Rule):
    """A rule of matrices alone: a layout with other tensors is refused."""

    def on(self, layout: ParameterLayout) -> Self:
        other = [(name, shape) for name, shape in zip(layout.names, layout.shapes, strict=True) if len(shape) != 2]
        if other:
            more = f" and {len(other) - 1} more" if len(other) > 1 else ""
            raise RuleError(
                f"the rule `{self.name}`: expected matrices alone, got `{other[0][0]}` of shape {other[0][1]}{more}; give such "
                "tensors a rule of their own, in the rule `grouped`, as AdamW"
            )
        return super().on(layout)


@dataclass(frozen=True, kw_only=True)
class DecayingRule(Rule):
    """A rule whose `update` does the decoupled decay, where this is more than rate*weight_decay*theta."""

    @property
    def _decays(self) -> tuple[float, float]:
        return super()._decays[0], 0.0

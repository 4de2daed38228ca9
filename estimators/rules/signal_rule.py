"""Rules that read more of a step than its mean gradient."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ..errors import RuleError
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

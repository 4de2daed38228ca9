"""What was recorded of a training: a window of its steps, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from estimators.rules.base import Rule
from estimators.rules.rates import GroupRates
from estimators.state import State
from fut.recording.items import Form, Item


@dataclass
class Step:
    """One step of the optimizer.

    items: what was forwarded since the step before. rate: learning rate, with those of groups. norm: of the gradient that the
    optimizer was given [loss unit per parameter unit]; a tensor, so that nothing waits for it.
    """

    items: tuple[Item, ...]
    rate: float
    norm: Tensor


@dataclass
class Window:
    """Steps first..first + len(steps) - 1 of a training.

    Args:
        first: number of steps that the optimizers had taken before.
        form: what an item holds.
        module: a copy as it was before the window.
        rule, start: the update rule and the lifted state before the window [D].
        steps: as they were taken.
        snapshots: parameters [D] after so many steps of the window.
        consumed: the gradients that the first step's optimizers were given, by the tensor's name.
        facts: provenance: versions, device, attention back end.
    """

    first: int
    form: Form
    module: nn.Module
    rule: Rule
    start: State
    steps: list[Step] = field(default_factory=list)
    snapshots: dict[int, Tensor] = field(default_factory=dict)
    consumed: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def per_step(self) -> int:
        """Items that every step consumed; 0 where steps differ."""
        counts = {len(step.items) for step in self.steps}
        return counts.pop() if len(counts) == 1 else 0

    def group_rates(self) -> dict[str, list[float]]:
        """Rates of every step by group, for groups that have their own."""
        first = self.steps[0].rate
        if not isinstance(first, GroupRates):
            return {}
        return {
            name: [step.rate.groups[name] for step in self.steps if isinstance(step.rate, GroupRates)]
            for name in first.groups
        }

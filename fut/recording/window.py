"""What was recorded of a training: a window of its steps, as a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from estimators.rules.base import Rule
from estimators.rules.rates import GroupRates
from estimators.state import State
from fut.errors import DataError, ModelError
from fut.models.forward import LABELS, SHIFTED, TARGETS, target_count
from fut.recording.items import Form, Item
from fut.recording.ranks import Ranks

EQUAL = "equal"
"""What items count by where they do not count by `TARGETS`, or by those after the first of each row, `SHIFTED`."""


@dataclass
class Step:
    """One step of the optimizer.

    items: what was forwarded since the step before. rate: learning rate, with those of groups. norm: of the gradient that the
    optimizer was given [loss unit per parameter unit]; a tensor, so that nothing waits for it; None where nobody saw it.
    divisor: number of targets by which the items' losses were divided together, where the model was told one. states: of
    torch's generator before each forward pass, in bytes.
    """

    items: tuple[Item, ...]
    rate: float
    norm: Tensor | None = None
    divisor: float | str | None = None
    states: tuple[Tensor, ...] = ()


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
        consumed: the gradients that the first step's optimizers were given, by the tensor's name, until it is proved.
        facts: provenance: versions, device, attention back end.
        noisy: whether forward passes drew random numbers.
        autocast: the number format in which `torch.autocast` ran forward passes; empty without it; None before the first.
        weighting: what items count by in their step, where that is known: `equal`, `targets`, or `shifted targets` for those
            after the first of each row; None where the first step is to show it.
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
    noisy: bool = False
    autocast: str | None = None
    weighting: str | None = None

    def settle(self, step: Step) -> None:
        """Read what a step's losses were divided by: the number of its own targets, or one number for all steps.

        Raises:
            ModelError: for numbers that differ from step to step, and are not those of the targets.
        """
        if step.divisor is None:
            return
        counted = [n for n in (SHIFTED, TARGETS) if sum(self.counts(step.items, n)) == step.divisor]
        named = self.weighting or next(iter(counted), None)
        if named in counted and not isinstance(self.form.divisor, float):
            self.weighting, self.form = named, replace(self.form, divisor=named)
        elif self.form.divisor not in (None, step.divisor):
            raise ModelError(
                f"recorder: expected steps of equally many targets, got {step.divisor:g} after {self.steps[0].divisor:g}: the "
                "loss is divided by them, so that another order would have other divisors; give every step as many targets"
            )
        else:
            self.form = replace(self.form, divisor=step.divisor)

    def counts(self, items: Sequence[Item], weighting: str) -> list[float]:
        """What every item counts in its step under a reading."""
        if weighting == EQUAL:
            return [1.0] * len(items)
        place = self.form.names.index(LABELS) if LABELS in self.form.names else None
        labels = [None if place is None else item[place] for item in items]
        return [float(target_count(own, weighting == SHIFTED)) for own in labels]

    def noise(self) -> list[Tensor]:
        """The generator's state before every item's forward pass; empty for a training that drew no random numbers.

        Raises:
            ModelError: where it is not known which forward pass was which item's.
        """
        if not self.noisy:
            return []
        if odd := [step for step in self.steps if len(step.states) != len(step.items)]:
            raise ModelError(
                f"recorder: expected one forward pass for every item, as it draws random numbers, got {len(odd[0].states)} for "
                f"{len(odd[0].items)} items; forward each once, or without random numbers"
            )
        return [state for step in self.steps for state in step.states]

    @property
    def per_step(self) -> int:
        """Items that every step consumed; 0 where steps differ."""
        counts = {len(step.items) for step in self.steps}
        return counts.pop() if len(counts) == 1 else 0

    def merged(self, ranks: Ranks, count: int | None = None) -> Window:
        """The window of all processes that train together: the items of a step are those of all of them, by rank.

        Args:
            ranks: the processes, each of which calls this.
            count: of its steps, from the first; None for all.
        """
        steps = self.steps[:count]
        if ranks.count == 1:
            return replace(self, steps=steps)
        shared = ranks.gathered((self.noisy, [(step.items, step.divisor, step.states, step.norm) for step in steps]))
        if len(counts := {len(listed) for _, listed in shared}) > 1:
            raise DataError(
                f"recorder: expected as many steps in every process, got {', '.join(map(str, sorted(counts)))}; choose a window "
                "that all of them train"
            )
        made = replace(self, steps=[], noisy=any(noisy for noisy, _ in shared))
        for own, *parts in zip(steps, *(listed for _, listed in shared), strict=True):
            divisors = {divisor for _, divisor, _, _ in parts}
            if len(divisors) > 1:
                raise ModelError(
                    f"recorder: expected one number of targets for all processes, got {', '.join(map(str, divisors))}: they are "
                    "divided by it; set average_tokens_across_devices"
                )
            divisor = divisors.pop()
            if divisor in [sum(self.counts(own.items, name)) for name in (SHIFTED, TARGETS)]:
                divisor = divisor * ranks.count if divisor else None  # of this process alone
            items = tuple(item for listed, _, _, _ in parts for item in listed)
            states = tuple(state for _, _, listed, _ in parts for state in listed)
            norm = own.norm
            if ranks.sharded and norm is not None:  # every process has that of its part
                norm = torch.stack([part.cpu() for *_, part in parts if part is not None]).square().sum().sqrt()
            made.steps.append(replace(own, items=items, divisor=divisor, states=states, norm=norm))
            made.settle(made.steps[-1])
        return made

    def items(self) -> list[Item]:
        """All items; with the generator's state as their last tensor, where the training drew random numbers."""
        found = [item for step in self.steps for item in step.items]
        states = self.noise()
        return [(*item, state) for item, state in zip(found, states, strict=True)] if states else found

    def group_rates(self) -> dict[str, list[float]]:
        """Rates of every step by group, for groups that have their own."""
        first = self.steps[0].rate
        if not isinstance(first, GroupRates):
            return {}
        return {
            name: [step.rate.groups[name] for step in self.steps if isinstance(step.rate, GroupRates)]
            for name in first.groups
        }

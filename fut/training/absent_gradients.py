"""Trained tensors that an item gives no gradient: where torch.optim and a rule that has zeros there would part."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property

import torch

from estimators.rules.base import Rule, next_state
from estimators.rules.signals import alike
from fut.errors import ModelError
from fut.models.objective import Objective

EVERYWHERE = "0 * sum(p.sum() for p in module.parameters())"
"""What a loss adds to give every tensor a gradient, of zeros."""


class AbsentGradients:
    """Which tensors had a gradient and which had none (torch's None), over all items so far.

    torch.optim leaves a tensor without a gradient as it is: no decay, no moments, no step count of its own. Here it has a
    gradient of zeros. That is the same where the rule makes nothing of zeros: without memory and decay, and without decay for
    a tensor that no item trains. All else is refused.

    Args:
        rule: that updates the tensors, bound to them.
        objective: whose tensors they are.
    """

    def __init__(self, rule: Rule, objective: Objective) -> None:
        self._rule, self._layout, self._own_name = rule, objective.layout, objective.own_name
        self._given: set[str] = set()
        self._lacking: dict[str, str] = {}

    def note(self, where: str, absent: Collection[str]) -> None:
        """Take note of what one item's gradient lacked. where: the item, in words. absent: names as the objective has them."""
        lacking = set(map(self._own_name, absent))
        self._given.update(set(self._layout.names) - lacking)
        for name in lacking:
            self._lacking.setdefault(name, where)

    def require_none(self) -> None:
        """Refuse what was lacking, where zeros are not what torch.optim makes of it.

        Raises:
            ModelError: naming the item and the tensors, or for a loss that depends on none of them.
        """
        if not self._lacking:
            return
        if not self._given:
            raise ModelError(
                "loss: expected one that depends on the parameters of the module that it is given, got one that is detached "
                "from them; compute it from that module, without detach(), item() or no_grad()"
            )
        decayed, remembered = self._moved
        both = self._given & self._lacking.keys() & (decayed | remembered)
        if both:
            raise ModelError(
                f"{self._lacking[min(both)]}: expected a gradient for every trained tensor, got None for {_listed(both)}, which "
                "other items train; torch.optim leaves a tensor out of such a step, with its moments, its decay and its step "
                f"count, which the rule `{self._rule.name}` cannot: let every item's loss depend on it (add {EVERYWHERE}, which "
                "gives it a gradient of zeros in torch too), or train with sgd, without momentum and decay"
            )
        never = decayed & self._lacking.keys()
        if never:
            raise ModelError(
                f"model: expected a gradient for every trained tensor, got None of all items for {_listed(never)}; torch.optim "
                "does not decay a tensor without a gradient, a rule here would: freeze it (requires_grad_(False)), or set "
                "weight_decay = 0"
            )

    @cached_property
    def _moved(self) -> tuple[set[str], set[str]]:
        """Tensors that a gradient of zeros moves: in the first step, by decay, and after a step with a gradient, by memory."""
        ones = torch.ones(1, self._layout.size)
        zeros, start = torch.zeros_like(ones), self._rule.init(ones)
        after = start
        for _ in range(2):  # as the first step of some rules moves nothing and remembers no gradient
            after = next_state(self._rule, after, ones, 1.0, signals=alike(ones))
        return self._nonzero(self._rule.step(start, zeros, 1.0, signals=alike(zeros))[1]), self._nonzero(
            self._rule.step(after, zeros, 1.0, signals=alike(zeros))[1]
        )

    def _nonzero(self, moved: torch.Tensor) -> set[str]:
        parts = moved.split(list(self._layout.sizes), dim=-1)
        return {name for name, part in zip(self._layout.names, parts, strict=True) if part.any()}


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in sorted(names)[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")

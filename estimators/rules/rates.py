"""Learning rates of a step where groups of tensors have rates of their own."""

from __future__ import annotations

from collections.abc import Mapping


class GroupRates(float):
    """The rate of a step, and with it the rate of every group of tensors that has one of its own.

    It is a number, the base rate, wherever one rate is meant; `Grouped` reads the groups' own.

    Args:
        base: learning rate per step of tensors without a rate of their own.
        groups: learning rates per step by the group's name.
    """

    groups: Mapping[str, float]

    def __new__(cls, base: float, groups: Mapping[str, float]) -> GroupRates:
        rate = super().__new__(cls, base)
        rate.groups = dict(groups)
        return rate

    def __getnewargs__(self) -> tuple[float, Mapping[str, float]]:  # type: ignore[override]
        return float(self), self.groups

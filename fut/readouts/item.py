"""`item:3`: the mean loss on one of the run's items; `items` stands for all of them."""

from __future__ import annotations

from collections.abc import Mapping

from fut.display.scale import LOSS
from fut.errors import UsageError
from fut.readouts.base import Readout, ReadoutKind, UserFunction, mean_loss
from fut.training.problem import Problem

HEAD, ALL = "item", "items"


class ItemLoss(ReadoutKind):
    """The mean loss on an item [nats/token], in evaluation mode."""

    form, unit, reserved = "items, item:NUMBER", LOSS, (HEAD, ALL)

    def matches(self, spec: str) -> bool:
        """`items`, or anything behind `item:`."""
        return spec == ALL or spec.startswith(f"{HEAD}:")

    def names(self, spec: str, items: int) -> list[str]:
        """Every item, or the one with that number; UsageError for a number that there is not."""
        if spec == ALL:
            return [f"{HEAD}:{i}" for i in range(items)]
        number = spec.removeprefix(f"{HEAD}:")
        if not number.isdecimal() or int(number) >= items:
            raise UsageError(f"readout: expected item:0 … item:{items - 1}, got `{spec}`; correct the number")
        return [f"{HEAD}:{int(number)}"]

    def make(self, problem: Problem, name: str, user: Mapping[str, UserFunction]) -> Readout:
        """The item's mean loss."""
        return mean_loss(problem, name, problem.data.items[int(name.removeprefix(f"{HEAD}:"))])

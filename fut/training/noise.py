"""What keys the random numbers of an item's forward pass: the item itself, or the step that it stands in; and which draw."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fut.errors import UsageError
from fut.models.objective import Item, Keyed, Objective


@dataclass(frozen=True)
class NoiseKeys:
    """The keys of a run's items.

    By step, an item has the random numbers of (step, the item's place among those of its own step in the reference order). That
    depends on item and step alone, and not on what else stands in the step, so that a sum over items and steps can answer for it;
    and the reference order has numbers of its own for every item.

    objective: which says the items' own keys. by_step: whether keys are those of steps. per_step: items of a step. recorded:
    states of torch's generator before every forward pass of the reference order, of a training that was recorded; else empty.
    draw: 0 for the run's own random numbers, else others. step: that items stand in; None where it is not said.
    """

    objective: Objective
    by_step: bool = False
    per_step: int = 1
    recorded: tuple[Tensor, ...] = ()
    draw: int = 0
    step: int | None = None

    def of(self, number: int, item: Item) -> Item:
        """An item with its key.

        Raises:
            UsageError: where keys are those of steps and the step is not said.
        """
        if not self.by_step and not self.draw:
            return item
        own = self._of_step(number) if self.by_step else self.objective.seed(item)
        return Keyed(item, _number(f"draw {self.draw} of {_text(own)}") if self.draw else own)

    def _of_step(self, number: int) -> int | Tensor:
        if self.step is None:
            raise UsageError(
                'noise: expected random numbers that travel with items, got model.noise_key = "step", and no step is said here; '
                "use --estimator adjoint, replay-exact or retrain"
            )
        place = number % self.per_step
        forward = self.step * self.per_step + place
        return self.recorded[forward].cpu() if forward < len(self.recorded) else _number(f"step {self.step} {place}")


def _text(key: int | Tensor) -> str:
    return str(key) if isinstance(key, int) else hashlib.sha256(key.cpu().numpy().tobytes()).hexdigest()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")


def keys_of(objective: Objective, items: Sequence[Item], by_step: bool, per_step: int) -> NoiseKeys | None:
    """The keys of items in the reference order; None for a model that is known to draw nothing."""
    if objective.built_in:
        return None
    recorded = tuple(item[-1] for item in items) if by_step and objective.call.recorded else ()
    return NoiseKeys(objective, by_step, per_step, recorded)

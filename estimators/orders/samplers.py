"""An order as a training loop takes it: samplers of torch, and plain indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from ..errors import OrderError
from ..numbers import whole
from .entries import Entries


class OrderSampler(Sampler[int]):
    """Indices one by one, the same in every pass. indices: in the order in which they are consumed."""

    def __init__(self, indices: Sequence[int]) -> None:
        self.indices = list(indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class OrderBatchSampler(Sampler[list[int]]):
    """One list of indices for every step, the same in every pass. steps: what each consumes."""

    def __init__(self, steps: Sequence[Sequence[int]]) -> None:
        self.steps = [list(step) for step in steps]

    def __iter__(self) -> Iterator[list[int]]:
        return iter([list(step) for step in self.steps])

    def __len__(self) -> int:
        return len(self.steps)


def indexed(entries: Sequence[Entries], samples: int = 1) -> list[list[int]]:
    """Indices of a data set's rows that every step consumes.

    Args:
        entries: pairs of item and weight, step by step.
        samples: rows of an item: item i is the rows i · samples … (i + 1) · samples - 1.

    Raises:
        OrderError: for a step that a loader cannot give: an empty one, or one whose items have different weights.
    """
    size, steps = whole(samples, "a whole number of samples per item", "correct `samples`"), list[list[int]]()
    if size < 1:
        raise OrderError(f"order: expected 1 sample per item or more, got {size}; correct `samples`")
    for position, step in enumerate(entries):
        kept = [(item, weight) for item, weight in step if weight > 0]
        if not kept:
            raise OrderError(
                f"order: expected a step with items, got none at step {position}; a loader gives no empty batch: leave the item "
                "out by a weight in your loop, or drop the step"
            )
        if len({weight for _, weight in kept}) > 1:
            raise OrderError(
                f"order: expected items of equal weight in a step, got {[weight for _, weight in kept]} at step {position}; "
                "indices carry no weights: apply them in your loop"
            )
        steps.append([row for item, _ in kept for row in range(item * size, (item + 1) * size)])
    return steps

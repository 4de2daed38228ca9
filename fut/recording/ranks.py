"""The processes that train one model together: their items are the step's items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import distributed, nn

from fut.errors import FutError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Processes that take the mean of their gradients.

    group: of torch.distributed; None for one process. rank: of this one. count: of all. sharded: whether each of them holds
    a part of every gradient, in place of all of it.
    """

    group: Any = None
    rank: int = 0
    count: int = 1
    sharded: bool = False

    @staticmethod
    def of(model: nn.Module, sharded: bool = False) -> Ranks:
        """Those of a model that `DistributedDataParallel` wraps; of any other all that there are, which the proof confirms."""
        inner = getattr(model, "_orig_mod", model)
        if not (distributed.is_available() and distributed.is_initialized()):
            return Ranks()
        group = inner.process_group if isinstance(inner, nn.parallel.DistributedDataParallel) else None
        return Ranks(group, distributed.get_rank(group), distributed.get_world_size(group), sharded)

    def gathered(self, value: T) -> list[T]:
        """The values of all, by rank; each of them calls this."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value, group=self.group)
        return found

    def first_alone(self, work: Callable[[], T]) -> T | None:
        """What the first process computes, None in the others, which wait; an error of it is raised in all of them."""
        found, error = None, None
        if self.rank == 0:
            try:
                found = work()
            except FutError as raised:
                error = raised
        said = self.gathered(None if error is None else (type(error), str(error)))[0]
        if error is not None:
            raise error
        if said is not None:
            raise said[0](said[1])
        return found

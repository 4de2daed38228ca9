"""What questions ask of a run that is neither estimated nor trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from numpy import float64
from numpy.typing import NDArray

from estimators.orders.order import Order
from fut.data.labels import source_labels
from fut.data.probe_groups import item_similarity, probe_groups
from fut.methods.adjoint import identity
from fut.methods.registry import METHODS, default_estimator
from fut.orders.parsing import OrderLike, named_orders, order_of, sorted_order
from fut.orders.scores import difficulty
from fut.readouts.readout import readout_names

if TYPE_CHECKING:
    from fut.methods.context import Context


class ContextFacts:
    """The facts of an opened run; `fut.protocols.RunFacts` says what each of them is."""

    def __init__(self, context: Context) -> None:
        self._run, self.steps, self.items, self.reference = context, context.steps, context.items, context.reference
        self.items_per_step, self.consumed = context.config.data.per_step, context.config.consumed
        self.methods: Sequence[str] = METHODS.names

    @property
    def rates(self) -> Sequence[float]:
        """The learning rate of every step [T]."""
        return [self._run.problem.rate(step) for step in range(self.steps)]

    @property
    def default_method(self) -> str:
        """The method that answers where none is named."""
        return default_estimator(self._run)

    def order(self, spec: OrderLike, partial: bool = False) -> Order:
        """The checked order behind a name, a list or a file; partial: it may be shorter than the window."""
        return order_of(self._run, spec, partial)

    def sorted(self, name: str, start: Order | None = None) -> Order | None:
        """The order behind `sort:loss` and its like; None for another name. start: whose items are sorted."""
        return sorted_order(self._run, name, start)

    def named_orders(self) -> dict[str, Order]:
        """Every order that has a name without a choice."""
        return named_orders(self._run)

    def canonical(self, order: Order) -> Order:
        """The order with equal items made one: orders of one canonical form train the same."""
        return self._run.problem.canonical(order)

    def scores(self, key: str) -> Sequence[float]:
        """A score per item [items], by one of the measures of `fut.orders.scores`."""
        return difficulty(self._run, key).scores

    def readouts(self, specs: Sequence[str]) -> list[str]:
        """Names of the read-outs that specifications stand for, each once; ModelError for one that is another function now."""
        return [self._run.readouts.get(name).name for name in readout_names(specs, self._run.items)]

    def computed_readouts(self) -> list[str]:
        """Read-outs that the run has an adjoint pass of."""
        return identity.computed_readouts(self._run)

    def sources(self) -> list[str]:
        """The file of a text directory that every item comes from [items]; UsageError where there is none."""
        return source_labels(self._run.problem.data)

    def probe_groups(self, count: int) -> list[list[int]]:
        """Held-out samples in groups of like ones; UsageError for more groups than samples."""
        self._run.problem.samples.require_probe("groups")
        return probe_groups(self._run.problem.data, count)

    def item_similarity(self, groups: int, items: Sequence[int]) -> NDArray[float64]:
        """How like every item is to every group of held-out samples: cosines [items, groups]."""
        return item_similarity(self._run.problem.data, groups, items)

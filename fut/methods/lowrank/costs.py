"""What the stages of the curved estimator and its queries take: memory at its height, seconds, gradients and bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fut.methods.batching import batch_size
from fut.methods.expansion.anchors import ITEM_BLOCK
from fut.methods.footprint import TEMPORARIES, Footprint
from fut.methods.lowrank.estimator import KEPT
from fut.methods.lowrank.terms import Base

if TYPE_CHECKING:
    from fut.planning import Costs, StageCost


@dataclass(frozen=True)
class BaseFootprint:
    """Peaks of a base's stages [bytes beyond the process's start], in the units of `footprint`: vectors of D numbers."""

    footprint: Footprint
    base: Base

    def peaks(self) -> dict[str, Callable[[], int]]:
        return {
            "centre": self.footprint.centre,
            "low-rank curvature": self.low_rank,
            "anchors": self.anchors,
            "refresh gradients": self.refresh,
        }

    @cached_property
    def pooled(self) -> int:
        """Bytes of a gradient of the batch drawn from all items."""
        return self.footprint.pooled_gradient(self.base.config.pool)

    def low_rank(self) -> int:
        """The Krylov vectors, turned and scaled to the Ritz vectors; a state, the metric, and a product's vectors."""
        f, rank = self.footprint, self.base.rank
        held = f.resident + (rank + f.state + 4) * f.vector
        turned = (3 * rank + TEMPORARIES) * f.vector
        return f.planned(held + max(self.pooled + 4 * f.vector, turned))

    def anchors(self) -> int:
        f, rows = self.footprint, min(ITEM_BLOCK, self.base.problem.config.data.items)
        held = f.resident + 4 * rows * f.vector
        return f.planned(held + max(f.gradient, rows * f.vector))

    def refresh(self) -> int:
        return self.footprint.planned(self.footprint.resident + 3 * self.footprint.vector + self.pooled)

    def tables(self, orders: int) -> int:
        """Bytes of tables in memory while so many orders are replayed, with one more of the largest while it is read."""
        base, data = self.base, self.base.problem.config.data
        anchors, curvatures, read = len(base.expansion.anchors), len(base.curvature_anchors), data.items
        if base.nbytes() <= KEPT:
            rows = anchors * (data.items + 1) + curvatures * base.rank + base.steps + 1
        else:
            read = min(data.items, max(orders * data.per_step, ITEM_BLOCK)) + ITEM_BLOCK
            rows = 2 * min(data.items, orders * data.per_step) + base.rank + 2
        return (rows + len(base.refreshed) + 2 * max(read, base.rank)) * self.footprint.vector

    def query(self, orders: int) -> int:
        """Orders replayed together: states, what is put back, and the temporaries of a step, beside one gradient."""
        f = self.footprint
        batch = min(orders, batch_size(2 * self.base.size))
        rows = batch * (2 * f.state + 4 + TEMPORARIES) * f.vector
        return f.planned(f.resident + f.state * f.vector + self.tables(batch) + rows + max(self.pooled, f.evaluation))


def base_stages(costs: Costs, base: Base, made: type[StageCost]) -> Iterator[StageCost]:
    """The four stages of the base; their gradients and bytes sum to what the base says of itself."""
    peaks, kept, state = BaseFootprint(costs.footprint, base).peaks(), base.stage_bytes(), costs.step
    for stage, count in base.stage_gradients().items():
        scratch = base.scratch_bytes() if stage == "centre" else 0
        seconds = count * (costs.item + (state if stage == "centre" else 0.0))
        yield made(f"curved: {stage}", count, seconds, kept[stage], scratch, peaks[stage]())


def base_query(costs: Costs, base: Base, made: type[StageCost]) -> StageCost:
    """One order: the replay of the reference order, which it is compared with, included."""
    count = base.query_gradients()
    products = 4 * base.rank * base.size * costs.flop
    seconds = 2 * (count * costs.item + base.steps * (costs.step + products)) + costs.probe
    return made("query: curved", 2 * count, seconds, 0, 0, BaseFootprint(costs.footprint, base).query(1))

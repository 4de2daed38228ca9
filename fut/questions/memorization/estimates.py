"""Who estimates the cells of a map: one expansion swept for all its read-outs, or any estimator, read-out by read-out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from estimators.orders.order import Order
from estimators.replay import batches
from fut.artifacts import directory as files
from fut.estimation.service import Answering
from fut.methods.adjoint import identity, memory
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.method import ADJOINT_METHOD
from fut.methods.adjoint.multi_readout import SeveralReadOuts
from fut.methods.adjoint.pipeline import EXPANSION, expansion_cost
from fut.methods.adjoint.spec import AdjointSpec
from fut.methods.batching import batch_size
from fut.methods.build import prepare
from fut.methods.expansion.spec import ITEM_BLOCK
from fut.methods.footprint import Footprint
from fut.methods.timings import seconds_per_gradient
from fut.questions.memorization.maps import Changes, Estimate
from fut.readouts.readout import PROBE, shortened
from fut.resources.memory import require_memory
from storage import IdentityError

if TYPE_CHECKING:
    from fut.methods.context import Context
    from fut.questions.memorization.ask import Asked


SWEPT = ADJOINT_METHOD.name
"""The estimator that reads every read-out off one sweep."""


def estimate_of(run: Context, asked: Asked) -> Estimate:
    """What answers for the cells; computes first what is missing of the sweep."""
    if asked.estimator != SWEPT:
        return OneByOne(run, asked.estimator)
    expansion = expansion_for(run, asked)
    if not expansion.complete():
        prepare(run, EXPANSION, expansion)
    return Sweeps(run, expansion, asked)


def expansion_for(run: Context, asked: Asked) -> Expansion:
    """The run's own expansion where it was swept for all that is asked, else that of `memorization/`, as it is or will be.

    Items are swept coarsely (`adjoint.fine`), which their large effects stand; the probe loss and its groups are not.
    IdentityError where `memorization/` was swept for less.
    """
    own = open_expansion(run)
    if identity.has_expansion(run.path) and set(asked.names) <= set(own.spec.names):
        return own
    if identity.has_expansion(run.path, files.MEMORIZATION):
        found = open_expansion(run, part=files.MEMORIZATION)
        if set(asked.names) <= set(found.spec.names):
            return found
        raise IdentityError(
            f"memorize: expected {found.directory} to be swept for {shortened(asked.names)}, got {shortened(found.spec.names)}; "
            "remove the directory to compute it anew, or ask for what it has"
        )
    changed = {"readouts": asked.names, "functionals": 0, "fine": 1 + asked.groups}
    config = AdjointConfig.model_validate(run.config.adjoint.model_dump() | changed)
    return open_expansion(run, config, files.MEMORIZATION)


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep would still cost. bytes: on disk, before compression, and while it is computed."""

    readouts: int
    gradients: int
    seconds: float
    nbytes: int
    scratch: int


def plan_memorize(run: Context, asked: Asked) -> SweepPlan | None:
    """What the sweep would still cost; None where it is there, or where the estimator needs none."""
    if asked.estimator != SWEPT:
        return None
    expansion = expansion_for(run, asked)
    if expansion.complete():
        return None
    cost, seconds = expansion_cost(expansion.spec), seconds_per_gradient(run.problem, run.state(0))
    names = expansion.spec.names
    return SweepPlan(len(names), cost.gradients, cost.gradients * seconds, cost.kept, cost.scratch)


class OneByOne:
    """Any estimator, asked for one read-out after the other, as `Estimate`; `retrain` gives the truth."""

    def __init__(self, run: Context, estimator: str) -> None:
        self._run, self._estimator = run, estimator

    def __call__(self, orders: Sequence[Order], names: Sequence[str]) -> Changes:
        found = [Answering(self._run, self._estimator, name, known=False, calibrated=False)(orders) for name in names]
        values = np.array([[answer.delta for answer in answers] for answers in found]).T
        return Changes(values, np.zeros_like(values))


class Sweeps:
    """Changes of several read-outs at once, as `Estimate`; the weights of a block of items at a time are in memory."""

    def __init__(self, run: Context, expansion: Expansion, asked: Asked) -> None:
        rows = (min(ITEM_BLOCK, len(asked.items)) + 1 + asked.groups) * (1 + bool(expansion.spec.rank))
        weights = (
            rows * (run.steps + 1) * expansion.spec.expected_coordinates * run.problem.objective.start().element_size()
        )
        tables = memory.tables(AdjointSpec(run.problem, expansion.spec.config), Footprint(run.problem))
        require_memory(
            "tables of the maps", tables + 3 * weights, run.problem.device, "lower --groups or adjoint.coordinates"
        )
        self._run, self._expansion, self._always = run, expansion, [PROBE, *asked.group_names]
        self._blocks = {f"item:{item}": row // ITEM_BLOCK for row, item in enumerate(asked.items)}
        self._block, self._held = -1, SeveralReadOuts(run, self._always, expansion)

    def _holding(self, names: Sequence[str]) -> SeveralReadOuts:
        """The read-outs in memory, after those of a block of items have taken the place of the last one's where asked for."""
        block = next((self._blocks[name] for name in names if name in self._blocks), self._block)
        if block != self._block:
            own = [name for name, of in self._blocks.items() if of == block]
            held = SeveralReadOuts(self._run, [*self._always, *own], self._expansion)
            held.share(self._held)
            self._block, self._held = block, held
        return self._held

    def __call__(self, orders: Sequence[Order], names: Sequence[str]) -> Changes:
        found = self._holding(names)
        values, variances = np.zeros((2, len(orders), len(names)))
        for places, batch in batches(orders, batch_size(found.width())):
            values[places], variances[places] = (part.cpu().numpy() for part in found.changes(batch, names))
        return Changes(values, variances)

"""What many orders change of several read-outs: by one adjoint pass for all of them, or by any method, one after the other."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol

import numpy as np

from estimators.orders.order import Order
from estimators.replay import batches
from fut.artifacts import directory as files
from fut.artifacts.kept import say_not_kept
from fut.estimation.estimates import ReadoutEstimates
from fut.estimation.results import Changes
from fut.methods.adjoint import identity, memory
from fut.methods.adjoint.config import AdjointConfig
from fut.methods.adjoint.files import Expansion
from fut.methods.adjoint.identity import open_expansion
from fut.methods.adjoint.method import ADJOINT_METHOD
from fut.methods.adjoint.multi_readout import MultiReadout
from fut.methods.adjoint.pipeline import EXPANSION
from fut.methods.batching import batch_size
from fut.methods.build import prepare
from fut.methods.expansion.spec import ITEM_BLOCK
from fut.methods.footprint import Footprint
from fut.methods.stages import discard_scratch
from fut.methods.timings import seconds_per_gradient
from fut.readouts.readout import PROBE, shortened
from fut.resources.memory import require_memory
from storage import IdentityError

if TYPE_CHECKING:
    from fut.methods.context import Context


ONE_PASS = ADJOINT_METHOD.name
"""The method that reads every read-out off one adjoint pass."""


class ReadoutChanges(Protocol):
    """(orders, names of read-outs) -> changes."""

    @property
    def caution(self) -> str:
        """What the method says against its estimates on this run; empty for nothing."""

    def __call__(self, orders: Sequence[Order], names: Sequence[str]) -> Changes:
        """Changes of the named read-outs [orders, names]."""


def open_changes(run: Context, method: str, shared: Sequence[str], items: Sequence[int]) -> ReadoutChanges:
    """What answers for changes of read-outs; computes first what is missing of the adjoint pass.

    Args:
        run: the opened run.
        method: the method's name.
        shared: read-outs that are always held in memory.
        items: items whose losses are read-outs too, held a block at a time.
    """
    if method != ONE_PASS:
        return OneByOne(run, method)
    expansion = expansion_for(run, shared, items)
    if not expansion.complete():
        expansion = _prepared(run, _writable(run, expansion))
    elif os.access(expansion.directory, os.W_OK):
        discard_scratch(expansion)  # what a kill left of it
    return OnePass(run, expansion, shared, items)


def _prepared(run: Context, expansion: Expansion) -> Expansion:
    """The expansion, computed, or another in its place; which keeps what holds its directory."""
    made = prepare(run, EXPANSION, expansion)
    if made is not expansion:
        weakref.finalize(made, lambda held: None, expansion)
    return made


def _writable(run: Context, expansion: Expansion) -> Expansion:
    """The expansion where it can be computed: in the run, or in a directory that ends with it where the run is read-only."""
    if os.access(run.path, os.W_OK):
        return expansion
    place = TemporaryDirectory(prefix="fut-")
    say_not_kept("the adjoint pass", expansion.directory)
    moved = replace(expansion, directory=Path(place.name) / files.MEMORIZATION)
    weakref.finalize(moved, place.cleanup)
    return moved


def expansion_for(run: Context, shared: Sequence[str], items: Sequence[int]) -> Expansion:
    """The run's own expansion where it has all these read-outs, else that of `memorization/`, as it is or will be.

    Items are pooled (`adjoint.num_exact_readouts`), which their large effects stand; the shared read-outs are not. IdentityError
    where
    `memorization/` was computed for less.
    """
    names = [*shared, *(f"item:{item}" for item in items)]
    of_run = open_expansion(run)
    if identity.has_expansion(run.path) and set(names) <= set(of_run.spec.names):
        return of_run
    if identity.has_expansion(run.path, files.MEMORIZATION):
        stored = open_expansion(run, part=files.MEMORIZATION)
        if set(names) <= set(stored.spec.names):
            return stored
        raise IdentityError(
            f"memorize: expected an adjoint pass in {stored.directory} for {shortened(names)}, got one for "
            f"{shortened(stored.spec.names)}; remove the directory to compute it anew, or ask for what it has"
        )
    changed = {"readouts": names, "functionals": 0, "num_exact_readouts": len(shared)}
    config = AdjointConfig.model_validate(run.config.adjoint.model_dump() | changed)
    return open_expansion(run, config, files.MEMORIZATION)


@dataclass(frozen=True)
class PassPlan:
    """What an adjoint pass would still cost. nbytes, scratch: on disk, before compression, and while it is computed."""

    readouts: int
    gradients: int
    seconds: float
    nbytes: int
    scratch: int


def plan_changes(run: Context, method: str, shared: Sequence[str], items: Sequence[int]) -> PassPlan | None:
    """What the adjoint pass would still cost; None where it is there, or where the method needs none."""
    if method != ONE_PASS:
        return None
    expansion = expansion_for(run, shared, items)
    if expansion.complete():
        return None
    cost, seconds = EXPANSION.cost(expansion.spec), seconds_per_gradient(run.problem, run.state(0))
    return PassPlan(len(expansion.spec.names), cost.gradients, cost.gradients * seconds, cost.kept, cost.scratch)


class OneByOne:
    """Any method, asked for one read-out after the other; `retrain` gives the truth."""

    def __init__(self, run: Context, method: str) -> None:
        self._run, self._method = run, method

    @property
    def caution(self) -> str:
        """As of the probe loss."""
        return ReadoutEstimates(self._run, self._method, PROBE, known=False, calibrated=False).caution

    def __call__(self, orders: Sequence[Order], names: Sequence[str]) -> Changes:
        """Changes of the named read-outs [orders, names]."""
        rows = [ReadoutEstimates(self._run, self._method, n, known=False, calibrated=False)(orders) for n in names]
        values = np.array([[answer.delta for answer in answers] for answers in rows]).T
        return Changes(values, np.zeros_like(values))


class OnePass:
    """Changes of several read-outs at once; the weights of a block of items at a time are in memory."""

    def __init__(self, run: Context, expansion: Expansion, shared: Sequence[str], items: Sequence[int]) -> None:
        spec = expansion.spec
        rows = (min(ITEM_BLOCK, len(items)) + len(shared)) * (1 + bool(spec.rank))
        weights = rows * (run.steps + 1) * spec.expected_coordinates * spec.width
        tables = memory.tables(spec, Footprint(run.problem))
        require_memory(
            "tables of the maps", tables + 3 * weights, run.problem.device, "lower --groups or adjoint.coordinates"
        )
        self._run, self._expansion, self._shared = run, expansion, list(shared)
        self._blocks = {f"item:{item}": row // ITEM_BLOCK for row, item in enumerate(items)}
        self._block, self._in_memory = -1, MultiReadout(run, self._shared, expansion)

    @property
    def caution(self) -> str:
        """Of the expansion that all read-outs are read off."""
        return self._in_memory.caution()

    def _holding(self, names: Sequence[str]) -> MultiReadout:
        """The read-outs in memory, after those of a block of items have taken the place of the last one's where asked for."""
        block = next((self._blocks[name] for name in names if name in self._blocks), self._block)
        if block != self._block:
            of_block = [name for name, of in self._blocks.items() if of == block]
            fresh = MultiReadout(self._run, [*self._shared, *of_block], self._expansion)
            fresh.share(self._in_memory)
            self._block, self._in_memory = block, fresh
        return self._in_memory

    def __call__(self, orders: Sequence[Order], names: Sequence[str]) -> Changes:
        """Changes of the named read-outs [orders, names]."""
        readouts = self._holding(names)
        values, variances = np.zeros((2, len(orders), len(names)))
        for places, batch in batches(orders, batch_size(readouts.width())):
            values[places], variances[places] = (part.cpu().numpy() for part in readouts.changes(batch, names))
        return Changes(values, variances)

"""Several read-outs of the same orders from one replay of them: the adjoint's linear reading, row by row of its sweep."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from estimators.control_variates import signed_variance
from estimators.orders.order import Order
from estimators.replay import Listener, OrderBatch
from fut.errors import NotCachedError
from fut.methods.adjoint.control_variate import Control, control_of
from fut.methods.adjoint.estimator import Adjoint
from fut.methods.adjoint.files import Expansion
from fut.methods.context import Context
from fut.readouts.readout import PROBE, shortened


class MultiReadout(Adjoint):
    """What orders change of several read-outs, against the reference order, each in its unit.

    The displacement of an order is replayed once and weighed by every read-out's weights. The reading is linear for all of
    them, also for the expansion's first. The reference order, and any order that trains on the same content, changes
    nothing, exactly.
    """

    def __init__(self, context: Context, names: Sequence[str], expansion: Expansion | None = None) -> None:
        """names: the read-outs that may be asked for, held in memory. expansion: one to be read in place of the run's own."""
        super().__init__(context, PROBE, "linear", expansion=expansion)
        missing = [name for name in names if name not in self.expansion.spec.names]
        if missing:
            raise NotCachedError(
                f"adjoint: expected an adjoint pass computed for {shortened(names)}, got one without {shortened(missing)}; "
                "compute one for all of them"
            )
        self.names = list(names)
        self.rows = [self.expansion.spec.names.index(name) for name in names]

    def changes(
        self, orders: Sequence[Order], names: Sequence[str], listener: Listener | None = None
    ) -> tuple[Tensor, Tensor]:
        """Changes of the named read-outs against the reference order, and their sampling variances: twice [n, r], float64."""
        selected = [self.names.index(name) for name in names]
        controls, parts = [self._controls[row] for row in selected], []
        self.require_length(orders)
        batch = self.batch(orders)
        for block, found in self._contributions(batch, listener, selected):
            beyond = (found - self._reference[selected, block]).double()
            sums = [self._sums(beyond[:, j : j + 1], block, control) for j, control in enumerate(controls)]
            parts.append([torch.cat(pair, dim=1) for pair in sums])
        joined = [torch.cat(part, dim=-1).sum(-1) for part in zip(*parts, strict=True)]
        corrected = [self._corrected(sums, control, batch) for sums, control in zip(joined, controls, strict=True)]
        values, variances = torch.stack(corrected, dim=1).unbind(-1)
        return values, variances

    @cached_property
    def _controls(self) -> list[Control | None]:
        return [control_of(self.expansion, row, self.sample, self.few) for row in self.rows]

    def _corrected(self, sums: Tensor, control: Control | None, batch: OrderBatch) -> Tensor:
        """Value and variance [n, 2] from an order's sums [n, 1 + what the variance is known from]."""
        if control is None:
            return sums
        found = sums + control.looked_up(batch)
        return torch.stack([found[:, 0], signed_variance(found[:, 1:])], dim=-1)

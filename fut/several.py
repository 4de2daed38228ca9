"""Several read-outs of the same orders from one replay of them: the adjoint's linear reading, row by row of its sweep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from estimators.adjoint import partial_sums
from estimators.order import Order
from estimators.replay import Listener

from .adjoint import MINIMUM, Adjoint
from .errors import NotCachedError
from .estimator import Reference
from .readouts import shortened


class SeveralReadOuts(Adjoint):
    """What orders change of several read-outs, against the reference order, each in its unit.

    The displacement of an order is replayed once and weighed by every read-out's weights. The reading is linear for all of
    them, also for the expansion's first. The reference order, and any order that trains on the same content, changes
    nothing, exactly.
    """

    def __init__(self, reference: Reference, names: Sequence[str]) -> None:
        """reference: of any read-out of the expansion. names: the read-outs that may be asked for, held in memory."""
        super().__init__(reference, "linear")
        missing = [name for name in names if name not in self.expansion.names]
        if missing:
            raise NotCachedError(
                f"adjoint: expected an expansion swept for {shortened(names)}, got one without {shortened(missing)}; "
                "compute one for all of them"
            )
        self.names = list(names)
        self.rows = [self.expansion.names.index(name) for name in names]

    def changes(
        self, orders: Sequence[Order], names: Sequence[str], listener: Listener | None = None
    ) -> tuple[Tensor, Tensor]:
        """Changes of the named read-outs against the reference order, and their sampling variances: twice [n, r], float64."""
        rows, parts = [self.names.index(name) for name in names], []
        self.require_length(orders)
        for block, found in self._contributions(orders, listener, rows):
            beyond = (found - self._reference[rows, block]).double()
            parts.append(torch.stack(partial_sums(beyond, self.probabilities[block], MINIMUM), dim=1))
        values, variances = torch.cat(parts, dim=-1).sum(-1).unbind(1)
        return values, variances

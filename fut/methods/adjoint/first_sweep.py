"""What the backward sweep writes of a sample that is drawn before it: all on the sampled coordinates alone, and sums over all
coordinates, which are taken while these are in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from estimators.position_table import StepStates
from estimators.state import State
from fut.methods.adjoint.files import CENTRE, COSTATE, Expansion
from fut.methods.adjoint.first_sample import Ahead, updates_of
from fut.methods.adjoint.tables import PositionTable
from fut.methods.expansion.trajectory import state_arrays
from fut.training.checkpoints import attributes_of


class FirstSweep:
    """Writes the steps of a sweep, backwards from one of them.

    A file of a step has the trajectory's lifted state before it, the exact read-outs' costate there, weights and injections, all
    [.., k]; and with a control variate the step's row of the tables, taken on all coordinates, and what bounds it on the sample.
    """

    def __init__(self, expansion: Expansion, costate: State, first: int) -> None:
        """costate: after step `first`, of all rows of the sweep [r + m, D]."""
        self.expansion, self.after = expansion, costate
        self.table = PositionTable(expansion, expansion.open_terms()) if expansion.spec.controlled else None
        last, r = expansion.spec.steps, len(expansion.spec.names)
        if first + 1 == last:
            slopes = costate.theta[: expansion.spec.fine]
            self.ahead = Ahead(slopes, slopes.abs())
            self._save(last, costate, {"weight": costate.theta[:r]}, {})
        else:
            read = expansion.sweep.latest.read_array
            kept = (torch.from_numpy(read(first + 1, name)) for name in Ahead._fields)
            self.ahead = Ahead(*(tensor.to(expansion.problem.device) for tensor in kept))
        self.largest = updates_of(expansion).largest if self.table is not None else None

    def write(self, step: int, costate: State, arrays: dict[str, Tensor]) -> None:
        """A step's results, then the whole costate, then away with the one before: killed anywhere, the step is done again.

        costate: before the step [r + m, D]; arrays: of all coordinates, by name.
        """
        expansion, latest = self.expansion, self.expansion.sweep.latest
        self._save(step, costate, arrays, self._rows(step, arrays["injection"]))
        self.ahead, self.after = self.ahead.before(arrays["weight"][: expansion.spec.fine]), costate
        ahead = {name: tensor.cpu().numpy() for name, tensor in self.ahead._asdict().items()}
        latest.write(step, packed(costate) | ahead, {}, replace=True)
        if latest.has(step + 1):
            latest.remove(step + 1)

    def _save(self, step: int, costate: State, arrays: dict[str, Tensor], rows: dict[str, np.ndarray]) -> None:
        expansion, kept = self.expansion, self.expansion.indices
        centre = expansion.trajectory.state(step).restrict(kept)
        exact = costate.map(lambda buffer: buffer[: expansion.spec.fine]).restrict(kept)
        found = {name: tensor[:, kept].cpu().numpy() for name, tensor in arrays.items()} | rows
        found |= {f"{CENTRE}{name}": array for name, array in state_arrays(centre).items()}
        found |= packed(exact)
        expansion.sweep.swept.write(step, found, attributes_of(centre), replace=True)

    def _rows(self, step: int, injection: Tensor) -> dict[str, np.ndarray]:
        """Of a control variate, a step's row of the tables on all coordinates, and what it is held within on the sample."""
        expansion, table = self.expansion, self.table
        if table is None or self.largest is None:
            return {}
        bounded = self.ahead.bounded(self.largest, expansion.problem.config.data.per_step)
        exact = self.after.map(lambda buffer: buffer[: expansion.spec.fine])
        states = StepStates(expansion.trajectory.state(step), expansion.trajectory.state(step + 1), exact)
        anchors = expansion.spec.anchors
        row = table.of_all(step, range(len(anchors)), states, injection, bounded)
        found = {**row._asdict(), "bound": bounded.part(expansion.indices).bound.cpu().numpy()}
        if step in anchors and (rest := table.without(anchors.index(step))):
            found["left_out"] = table.of_all(step, rest, states, injection, bounded).values[-1] - row.values[-1]
        return found


def packed(costate: State, rows: int | None = None) -> dict[str, np.ndarray]:
    """The first rows of a costate, all for None, as they are stored."""
    return {f"{COSTATE}{name}": array[:rows] for name, array in state_arrays(costate).items()}

"""What the backward sweep writes of a sample that is drawn before it: all on the sampled coordinates alone, and sums over all
coordinates, which are taken while these are in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from estimators.position_table import StepStates
from estimators.state import State
from fut.methods.adjoint.files import CENTRE, COSTATE, Expansion
from fut.methods.adjoint.first_sample import Ahead, updates_of
from fut.methods.adjoint.tables import PositionTable
from fut.training.checkpoints import attributes_of, state_tensors


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
            read, device = expansion.sweep.latest.tensor, expansion.problem.device
            self.ahead = Ahead(*(read(first + 1, name, device) for name in Ahead._fields))
        self.largest = updates_of(expansion).largest if self.table is not None else None

    def write(self, step: int, costate: State, arrays: dict[str, Tensor]) -> None:
        """A step's results, then the whole costate, then away with the one before: killed anywhere, the step is done again.

        costate: before the step [r + m, D]; arrays: of all coordinates, by name.
        """
        expansion, latest = self.expansion, self.expansion.sweep.latest
        self._save(step, costate, arrays, self._rows(step, arrays["injection"]))
        self.ahead, self.after = self.ahead.before(arrays["weight"][: expansion.spec.fine]), costate
        latest.put(step, packed(costate) | self.ahead._asdict())
        if latest.has(step + 1):
            latest.remove(step + 1)

    def _save(self, step: int, costate: State, arrays: dict[str, Tensor], rows: dict[str, Tensor]) -> None:
        expansion, kept = self.expansion, self.expansion.indices
        centre = expansion.trajectory.state(step).restrict(kept)
        exact = costate.map(lambda buffer: buffer[: expansion.spec.fine]).restrict(kept)
        found = {name: tensor[:, kept] for name, tensor in arrays.items()} | rows
        found |= {f"{CENTRE}{name}": tensor for name, tensor in state_tensors(centre).items()}
        found |= packed(exact)
        expansion.sweep.swept.put(step, found, attributes_of(centre))

    def _rows(self, step: int, injection: Tensor) -> dict[str, Tensor]:
        """Of a control variate, a step's row of the tables on all coordinates, and what it is held within on the sample."""
        expansion, table = self.expansion, self.table
        if table is None or self.largest is None:
            return {}
        bounded = self.ahead.bounded(self.largest, expansion.problem.config.data.per_step)
        exact = self.after.map(lambda buffer: buffer[: expansion.spec.fine])
        states = StepStates(expansion.trajectory.state(step), expansion.trajectory.state(step + 1), exact)
        anchors = expansion.spec.anchors
        row = table.of_all(step, range(len(anchors)), states, injection, bounded)
        found = {name: torch.from_numpy(array) for name, array in row._asdict().items()}
        found["bound"] = bounded.part(expansion.indices).bound
        if step in anchors and (rest := table.without(anchors.index(step))):
            left = table.of_all(step, rest, states, injection, bounded).values[-1] - row.values[-1]
            found["left_out"] = torch.from_numpy(left)
        return found


def packed(costate: State, rows: int | None = None) -> dict[str, Tensor]:
    """The first rows of a costate, all for None, as they are stored."""
    return {f"{COSTATE}{name}": tensor[:rows] for name, tensor in state_tensors(costate).items()}

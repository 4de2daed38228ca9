"""The read-outs of a run: found by name, valued at the reference endpoint, and recognised by what was pinned of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fut.artifacts import directory as files
from fut.errors import ModelError
from fut.methods.adjoint import identity
from fut.methods.base import Reference
from fut.methods.lowrank.terms import has_base
from fut.methods.pairwise import store as pairwise_store
from fut.methods.pairwise.terms import TermTables
from fut.methods.reweighting.terms import stored_config
from fut.readouts.readout import (
    PROBE,
    ReadOut,
    UserFunction,
    check_registered,
    make_readouts,
    one_readout,
    require_same_value,
)
from fut.training.trainer import Retrained
from storage import TermStore

if TYPE_CHECKING:
    from fut.api.run import Run


class RunReadOuts:
    """The read-outs that a run can be asked about. user: a user's own functions by name."""

    def __init__(self, run: Run, user: Mapping[str, UserFunction] | None = None) -> None:
        self._run, self.user = run, check_registered(user or {})
        self._made: dict[str, ReadOut] = {}
        self._values: dict[str, float] = {}

    def get(self, spec: str) -> ReadOut:
        """The read-out by its name. ModelError where it is another function than the run's expansion was swept for."""
        name = one_readout(spec, self._run.items)
        if name not in self._made:
            (found,) = make_readouts(self._run.problem, [name], self.user)
            self._made[name] = found
        found = self._made[name]
        if found.pinned and (pins := identity.read_pins(self._run.path)).get(name) is not None:
            require_same_value(name, pins[name], self.at_reference(found), f"run {self._run.path}")
        return found

    def at_reference(self, readout: ReadOut) -> float:
        """Its value at the end of the reference run, in its unit; the probe loss as it was recorded there."""
        if readout.name == PROBE:
            return self._run.reference_loss
        if readout.name not in self._values:
            value = readout.value(self._run.state(self._run.steps).theta)
            if not math.isfinite(value):
                raise ModelError(
                    f"read-out `{readout.name}`: expected a finite value at the reference endpoint, got {value}; mend it"
                )
            self._values[readout.name] = value
        return self._values[readout.name]

    def truth(self, readout: ReadOut, found: Retrained) -> float:
        """Its value at the endpoint of an order that has really been trained."""
        return found.loss if readout.name == PROBE else readout.value(found.theta)

    def pins(self, names: Sequence[str]) -> dict[str, float]:
        """Values at the reference endpoint of those read-outs that nothing else would recognise again."""
        pinned = [found for found in map(self.get, names) if found.pinned]
        theta = self._run.state(self._run.steps).theta
        for found in pinned:  # before anything is computed for it
            if not found.gradient(theta).isfinite().all():
                raise ModelError(
                    f"read-out `{found.name}`: expected a finite gradient at the reference endpoint, got NaN or infinity; mend it"
                )
        return {found.name: self.at_reference(found) for found in pinned}

    def reference(self, spec: str) -> Reference:
        """What the estimators of a read-out know about the run."""
        run, readout = self._run, self.get(spec)
        stored = TermStore.open(run.path / files.TERMS) if pairwise_store.has_terms(run.path) else None
        tables = TermTables(stored, run.problem.device)
        expansion = run.expansion() if identity.has_expansion(run.path) else None
        base, value = run.base() if has_base(run.path) else None, self.at_reference(readout)
        sensitivities = run.sensitivities() if stored_config(run.path) else None
        return Reference(run.problem, run.layout, run.state, value, tables, readout, expansion, base, sensitivities)

"""An effect of branch and hold as it was kept in the run: without its pairs, of which the file has what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fut.protocols import BranchPlan
from fut.studies.paired import PairedEffect


@dataclass(frozen=True)
class KeptEffect:
    """The average treatment effect of one source of memory, treated minus control.

    Args:
        plan: what was done.
        units: of every metric, by name.
        effects: by metric, at the horizon.
        deltas: treated minus control at the horizon, by metric and seed.
        steps: at which both arms were read.
        course: treated minus control of the loss there, by seed.
        estimated: the method, and its differences by seed, where there are any.
        checks: whether each of the design's own checks holds; None where it does not apply.
        note: which seeds' orders diverged; empty for none.
    """

    plan: BranchPlan
    units: Mapping[str, str]
    effects: Mapping[str, PairedEffect]
    deltas: Mapping[str, Sequence[float]]
    steps: Sequence[int]
    course: Sequence[Sequence[float]]
    estimated: tuple[str, Sequence[float]] | None
    checks: Mapping[str, bool | None]
    note: str

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> KeptEffect:
        """From `BranchEffect.as_dict`."""
        estimated = content["estimated"]
        return cls(
            BranchPlan(**content["plan"]),
            content["units"],
            {name: PairedEffect.from_dict(effect) for name, effect in content["effects"].items()},
            content["deltas"],
            content["course"]["steps"],
            content["course"]["loss"],
            None if estimated is None else (estimated["method"], estimated["loss"]),
            content["checks"],
            content["note"],
        )
